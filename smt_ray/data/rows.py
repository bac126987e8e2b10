"""Rows: an instruction with its output in LLM-Adapters' layout, or a conversation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from smt_ray.errors import UserError

USER, ASSISTANT = "user", "assistant"
_ROLES = ("system", USER, ASSISTANT, "tool")


class Message(NamedTuple):
    """One turn of a conversation.

    Attributes:
        role: The speaker: system, user, assistant or tool.
        content: The text.
    """

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Row:
    """An instruction and its output.

    Attributes:
        instruction: The instruction or question.
        input: Further context, or "".
        output: The text that is trained on.
        answer: The short answer that evaluation expects, or "".
        messages: The turns, if the row is a conversation. The output is then the last turn of the
            assistant, and the instruction is the text of all other speakers.
        position: The position in ``data.train``, from 0; it is not compared.
    """

    instruction: str
    output: str
    input: str = ""
    answer: str = ""
    messages: tuple[Message, ...] = ()
    position: int = field(default=0, compare=False)


def parse_row(record: Any, *, source: str, index: int) -> Row:
    """Reads one record; errors name its source, position and field.

    Args:
        record: A mapping with ``instruction`` and ``output``, and perhaps ``input`` and ``answer``;
            or with ``messages``.
        source: The file or dataset of the record.
        index: The position of the record in the source, from 0.

    Raises:
        UserError: The record is not a mapping, or a field is missing or not a string.
    """
    place = f"{source}, row {index}"
    if not isinstance(record, dict):
        raise UserError(place, "a row must be an object with instruction and output", got=record)
    if "messages" in record:
        return _conversation(record["messages"], f"{place}, field 'messages'")
    for name in ("instruction", "output"):
        if name not in record:
            raise UserError(
                f"{place}, field {name!r}",
                "is missing",
                got=sorted(record),
                fix="give every row instruction and output (input and answer are optional), or"
                " messages",
            )
    values: dict[str, str] = {}
    for name in ("instruction", "input", "output", "answer"):
        value = record.get(name)
        if name == "answer" and isinstance(value, (int, float)) and not isinstance(value, bool):
            value = str(value)
        if value is None and name in ("input", "answer"):
            value = ""
        if not isinstance(value, str):
            raise UserError(f"{place}, field {name!r}", "must be a string", got=value)
        values[name] = value
    if not values["instruction"].strip():
        raise UserError(
            f"{place}, field 'instruction'", "must not be empty", got=values["instruction"]
        )
    return Row(values["instruction"], values["output"], values["input"], values["answer"])


def parse_rows(records: Sequence[Any], source: str) -> list[Row]:
    """Reads all records of a source.

    Raises:
        UserError: There are no records, or one is bad.
    """
    if not records:
        raise UserError(source, "holds no rows", got=0, fix="check data.train")
    return [parse_row(record, source=source, index=i) for i, record in enumerate(records)]


def _conversation(turns: Any, place: str) -> Row:
    if not isinstance(turns, list) or not turns:
        raise UserError(place, "must be a list of turns, each with role and content", got=turns)
    messages = tuple(_message(turn, f"{place}, turn {i}") for i, turn in enumerate(turns))
    if messages[-1].role != ASSISTANT:
        raise UserError(
            place, "must end with a turn of the assistant", got=messages[-1].role,
            fix="leave out the turns after the assistant's last turn",
        )  # fmt: skip
    if messages[0].role == ASSISTANT:
        raise UserError(
            place, "must not begin with the assistant: templates need a turn before its answer",
            fix="leave the first turn out, or put a system or user turn before it",
        )  # fmt: skip
    others = [message.content for message in messages if message.role != ASSISTANT]
    return Row("\n".join(others), messages[-1].content, messages=messages)


def _message(turn: Any, place: str) -> Message:
    if not isinstance(turn, dict) or not {"role", "content"} <= set(turn):
        raise UserError(place, "must have role and content", got=turn)
    if turn["role"] not in _ROLES:
        raise UserError(f"{place}, role", f"must be one of {', '.join(_ROLES)}", got=turn["role"])
    if not isinstance(turn["content"], str) or not turn["content"]:
        raise UserError(f"{place}, content", "must be a text", got=turn["content"])
    return Message(turn["role"], turn["content"])
