"""The forms of records, one class each: how the fields of a file or a dataset become a row."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from smt_ray.data.fields import bad_row, json_value, parsed, some_text, text
from smt_ray.data.rows import ASSISTANT, SYSTEM, Message, Row
from smt_ray.data.turns import conversation, read_turns

Fields = Mapping[str, Any]


class Form(ABC):
    """A form of records.

    Attributes:
        required: The fields that records of the form have.
        optional: The fields that they may have.
    """

    required: ClassVar[tuple[str, ...]]
    optional: ClassVar[tuple[str, ...]] = ()

    def __init__(self, ignored: Collection[str] = (), *, is_test: bool = False) -> None:
        self.ignored, self.is_test = ignored, is_test

    @abstractmethod
    def row(self, fields: Fields, place: str) -> Row:
        """The row of a record.

        Args:
            fields: The fields that are not null.
            place: The source and the position, for errors.

        Raises:
            UserError: A field has another form; the error names it.
        """

    def learned(self, fields: Fields, name: str, place: str) -> str:
        """The text to learn, which only test rows may leave empty."""
        value = fields.get(name, "") if self.is_test else fields[name]
        return (text if self.is_test else some_text)(value, in_field(place, name))


class Messages(Form):
    """``messages``: a conversation, in the layout of OpenAI or of ShareGPT."""

    required: ClassVar = ("messages",)
    optional: ClassVar = ("tools", "system", "answer")
    field = "messages"

    def row(self, fields: Fields, place: str) -> Row:
        """A row of turns; the instruction is the text of all other speakers."""
        field = in_field(place, self.field)
        if self.is_test and fields.get("answer"):
            turns = read_turns(fields[self.field], field, self.ignored)
            if turns[-1].role != ASSISTANT:  # the answer stands beside the question
                turns = (*turns, Message(ASSISTANT, "", is_learned=True))
            return of_turns(turns, fields, place)
        turns = conversation(fields[self.field], field, self.ignored)
        return of_turns(turns, fields, place)


class Conversations(Messages):
    """``conversations``: the same under ShareGPT's name."""

    required: ClassVar = ("conversations",)
    field = "conversations"


class PromptCompletion(Form):
    """``prompt`` and ``completion``: two texts that are used as they are, or two lists of turns."""

    required: ClassVar = ("prompt", "completion")
    optional: ClassVar = ("tools", "answer")

    def row(self, fields: Fields, place: str) -> Row:
        """A row whose prompt no form changes; turns become a conversation."""
        prompt, completion = parsed(fields["prompt"]), parsed(fields["completion"])
        if _are_turns(prompt) and _are_turns(completion):
            asked = read_turns(prompt, in_field(place, "prompt"), self.ignored)
            said = conversation([{"role": "user", "content": "-"}, *completion],
                                in_field(place, "completion"), self.ignored)[1:]  # fmt: skip
            context = tuple(replace(turn, is_learned=False) for turn in asked)
            return of_turns((*context, *said), fields, place)
        if "tools" in fields:
            raise bad_row(in_field(place, "tools"), "needs a prompt of turns", prompt)
        return Row(
            some_text(fields["prompt"], in_field(place, "prompt")),
            self.learned(fields, "completion", place),
            answer=text(fields.get("answer", ""), in_field(place, "answer")),
            is_verbatim=True,
        )


class Instruction(Form):
    """``instruction`` and ``output``: Alpaca's layout, which is LLM-Adapters' with ``answer``."""

    required: ClassVar = ("instruction", "output")
    optional: ClassVar = ("input", "answer", "system", "history")

    def row(self, fields: Fields, place: str) -> Row:
        """A row of instruction and output; an input alone is the instruction."""
        instruction, context, answer, system = (
            text(fields.get(name, ""), in_field(place, name))
            for name in ("instruction", "input", "answer", "system")
        )
        if not instruction.strip():
            instruction, context = some_text(context, in_field(place, "instruction")), ""
        return Row(
            instruction,
            self.learned(fields, "output", place),
            input=context,
            answer=answer,
            system=system,
            history=_history(fields.get("history"), place),
        )


class QuestionAnswer(Form):
    """``question`` and ``answer``: the answer is the output, and what evaluation expects."""

    required: ClassVar = ("question", "answer")
    optional: ClassVar = ("system",)

    def row(self, fields: Fields, place: str) -> Row:
        """A row whose instruction is the question."""
        answer = some_text(fields["answer"], in_field(place, "answer"))
        question = some_text(fields["question"], in_field(place, "question"))
        system = text(fields.get("system", ""), in_field(place, "system"))
        return Row(question, answer, answer=answer, system=system)


class Text(Form):
    """``text``: a plain text, of which every token is learned."""

    required: ClassVar = ("text",)

    def row(self, fields: Fields, place: str) -> Row:
        """A row without a prompt."""
        return Row("", some_text(fields["text"], in_field(place, "text")), is_verbatim=True)


FORMS: tuple[type[Form], ...] = (
    Messages, Conversations, PromptCompletion, Instruction, QuestionAnswer, Text,
)  # fmt: skip
"""All forms, in the order in which they are tried."""


def _are_turns(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(turn, Mapping) for turn in value)


def in_field(place: str, name: str) -> str:
    """The place of a field."""
    return f"{place}, field {name!r}"


def of_turns(turns: Sequence[Message], fields: Fields, place: str) -> Row:
    """The row of a conversation."""
    tools = parsed(fields.get("tools") or [])
    if not isinstance(tools, (list, tuple)):
        raise bad_row(in_field(place, "tools"), "must be a list of tools", tools)
    system = text(fields.get("system", ""), in_field(place, "system"))
    messages = (*([Message(SYSTEM, system)] if system else []), *turns)
    others = [turn.content for turn in messages if turn.role != ASSISTANT]
    return Row(
        "\n".join(others),
        messages[-1].content,
        answer=text(fields.get("answer", ""), in_field(place, "answer")),
        messages=messages,
        tools=tuple(json_value(parsed(tool), in_field(place, "tools")) for tool in tools),
    )


def _history(value: Any, place: str) -> tuple[tuple[str, str], ...]:
    """Earlier instructions with their outputs."""
    found, place = parsed(value or []), in_field(place, "history")
    if not isinstance(found, (list, tuple)) or any(
        not isinstance(pair, (list, tuple)) or len(pair) != 2 for pair in found
    ):
        raise bad_row(place, "must be a list of pairs of instruction and output", value)
    return tuple((some_text(asked, place), some_text(said, place)) for asked, said in found)
