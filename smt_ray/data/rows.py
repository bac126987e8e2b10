"""Rows: a prompt with the output to learn, a conversation, or a plain text; and rows as text."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

USER, ASSISTANT, SYSTEM = "user", "assistant", "system"


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation.

    Attributes:
        role: The speaker: system, developer, user, assistant or tool.
        content: The text; "" for a turn that only calls tools.
        is_learned: Whether the turn is a target. Only turns of the assistant are.
        extra: What else the chat template gets: ``tool_calls``, ``tool_call_id``, ``name``,
            ``reasoning_content``, ``thinking``.
    """

    role: str
    content: str
    is_learned: bool = False
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def for_template(self) -> dict[str, Any]:
        """The turn as chat templates expect it."""
        return {"role": self.role, "content": self.content, **self.extra}


@dataclass(frozen=True, slots=True)
class Row:
    """What is asked, and the text to learn.

    Attributes:
        instruction: The instruction or question. In a conversation, it is the text of all other
            speakers.
        input: Further context, or "".
        output: The text that is trained on. In a conversation, it is the last turn of the
            assistant.
        answer: The short answer that evaluation expects, or "".
        system: A text for the system, or "".
        history: Earlier instructions with their outputs.
        messages: The turns, if the row is a conversation.
        tools: The descriptions of tools for the chat template, as JSON values.
        is_verbatim: Whether the instruction is the very prompt, so that no form changes it. Without
            an instruction, the row is a plain text, of which every token is learned.
        weight: How many times an epoch uses the row; it is not compared.
        position: The position among the rows of all sources, from 0; it is not compared.
        place: The source and the position in it, for errors; it is not compared.
    """

    instruction: str
    output: str
    input: str = ""
    answer: str = ""
    system: str = ""
    history: tuple[tuple[str, str], ...] = ()
    messages: tuple[Message, ...] = ()
    tools: tuple[Any, ...] = field(default=(), hash=False)
    is_verbatim: bool = False
    weight: float = field(default=1.0, compare=False)
    position: int = field(default=0, compare=False)
    place: str = field(default="a row", compare=False)

    def conversation(self) -> tuple[Message, ...]:
        """The row as turns, of which the last is the output."""
        if self.messages:
            return self.messages
        turns = [Message(SYSTEM, self.system)] if self.system else []
        for instruction, output in self.history:
            turns += [Message(USER, instruction), Message(ASSISTANT, output, is_learned=True)]
        question = f"{self.instruction}\n{self.input}" if self.input else self.instruction
        turns += [Message(USER, question), Message(ASSISTANT, self.output, is_learned=True)]
        return tuple(turns)

    def meaning(self) -> bytes:
        """The fingerprint of what is asked and learned, whatever the form of the row."""
        said = () if self.is_verbatim else self.conversation()
        turns = [
            [turn.role, turn.content, turn.is_learned, _without_ids(dict(turn.extra))]
            for turn in said
        ]
        verbatim = [self.instruction, self.output] if self.is_verbatim else []
        content = json.dumps([turns, verbatim, self.tools], sort_keys=True)
        return hashlib.sha256(content.encode()).digest()

    def digest(self) -> bytes:
        """The fingerprint of what the row says, which identical rows share."""
        turns = [[turn.for_template(), turn.is_learned] for turn in self.messages]
        content = [
            self.instruction, self.input, self.output, self.answer, self.system, self.history,
            turns, self.tools, self.is_verbatim,
        ]  # fmt: skip
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).digest()


def _without_ids(value: Any) -> Any:
    """Calls of tools without the ids that connect them with their results."""
    if isinstance(value, list):
        return [_without_ids(part) for part in value]
    if isinstance(value, Mapping):
        ids = ("id", "tool_call_id")
        return {key: _without_ids(part) for key, part in value.items() if key not in ids}
    return value


def digest_rows(rows: Iterable[Row]) -> str:
    """The fingerprint of rows in their order."""
    sha256 = hashlib.sha256()
    for row in rows:
        sha256.update(row.digest())
    return sha256.hexdigest()


class Prompt(NamedTuple):
    """The text that a model is asked with.

    Attributes:
        text: The text.
        has_specials: Whether the text has its special tokens, such as BOS, so that the tokenizer
            must not add them.
    """

    text: str
    has_specials: bool = False


class Rendered(NamedTuple):
    """A row as text.

    Attributes:
        text: The text.
        targets: The first character of each target, and the one after its last.
        has_specials: See :class:`Prompt`.
        is_chat: Whether a chat template wrote the text, so that it also ends replies.
        num_context_turns: The number of turns of the assistant that should be targets, but are only
            context, because the chat template rewrites them.
        left_out: What of the row the text lacks, in words.
    """

    text: str
    targets: tuple[tuple[int, int], ...]
    has_specials: bool = False
    is_chat: bool = False
    num_context_turns: int = 0
    left_out: tuple[str, ...] = ()
