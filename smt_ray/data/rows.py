"""One example, in LLM-Adapters' layout or a conversation, checked by file, row and field."""

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
        role: system, user, assistant or tool.
        content: What is said.
    """

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Row:
    """An instruction and the text that answers it.

    Attributes:
        instruction: What is asked.
        input: Further context, or "".
        output: The text that training completes the prompt with.
        answer: The short gold answer that evaluation compares with, or "" where a row has none.
        messages: The turns, of a conversation; instruction and output are then what the others say
            up to the assistant's last turn, and that turn.
        position: Where the row stands in ``data.train``, from 0; no part of what it says.
    """

    instruction: str
    output: str
    input: str = ""
    answer: str = ""
    messages: tuple[Message, ...] = ()
    position: int = field(default=0, compare=False)


def parse_row(record: Any, *, source: str, index: int) -> Row:
    """Reads one record, naming its source, position and field where it is bad.

    Args:
        record: A mapping with ``instruction`` and ``output``, perhaps ``input`` and ``answer``; or
            with ``messages``.
        source: The file (or dataset) that the record came from.
        index: Its position there, from 0.

    Raises:
        UserError: The record is no mapping, or a field is missing or is no string.
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
    return Row(**values)


def parse_rows(records: Sequence[Any], source: str) -> list[Row]:
    """Reads all records of a source.

    Raises:
        UserError: There are none, or one is bad.
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
            place, "must end with what the assistant says", got=messages[-1].role,
            fix="leave out what follows the assistant's last turn",
        )  # fmt: skip
    if messages[0].role == ASSISTANT:
        raise UserError(
            place, "must not begin with the assistant: no template renders what is before it",
            fix="leave its opening turn out, or put a system or user turn before it",
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
