"""What of a conversation a chat template writes, and what gets lost on the way."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace

from smt_ray.data.rows import ASSISTANT, USER, Message, Row

CALLS = ("tools", "tool calls", "names")
"""What belongs to tools, which is never rebuilt from a prompt."""

_MARK = "\N{BLACK SQUARE}"

Reduced = tuple[str, Row, Sequence[Message]]
"""What is left out, and the conversation without it."""


def reductions(row: Row, turns: Sequence[Message]) -> Iterator[Reduced]:
    """The conversation without each part that a template may have no place for."""
    if row.tools:
        yield "tools", replace(row, tools=()), turns
    for place, turn in enumerate(turns):
        for number in range(len(turn.extra.get("tool_calls", ()))):
            yield "tool calls", row, _with(turns, place, _without_call(turn, number))
        if turn.role == USER and "name" in turn.extra:
            yield "names", row, _with(turns, place, _without(turn, "name"))
        if turn.role not in (USER, ASSISTANT) and turn.content.strip():
            yield f"{turn.role} text", row, _with(turns, place, replace(turn, content=_MARK))


def missing_texts(text: str, turns: Sequence[Message]) -> Iterator[str]:
    """The kinds of texts of a conversation that do not stand in its text."""
    for turn in turns:
        said = turn.content.rpartition("</think>")[2].strip()
        if said not in text and json.dumps(said)[1:-1] not in text:
            yield f"{turn.role} text"
        thoughts = [str(turn.extra.get(key, "")) for key in ("reasoning_content", "thinking")]
        if "</think>" in turn.content:
            thoughts.append(turn.content.partition("</think>")[0].removeprefix("<think>"))
        if turn.is_learned and any(thought.strip() not in text for thought in thoughts):
            yield "reasoning"


def is_written(turn: Message, text: str, dropped: Sequence[str]) -> bool:
    """Whether a text has what a turn says, so that there is something to learn."""
    if not turn.content.strip():
        return "tool calls" not in dropped
    said = turn.content.rpartition("</think>")[2].strip()
    return "tool_calls" in turn.extra or said in text or json.dumps(said)[1:-1] in text


def _with(turns: Sequence[Message], place: int, turn: Message) -> list[Message]:
    return [*turns[:place], turn, *turns[place + 1 :]]


def _without(turn: Message, key: str) -> Message:
    return replace(turn, extra={k: value for k, value in turn.extra.items() if k != key})


def _without_call(turn: Message, number: int) -> Message:
    calls = [call for i, call in enumerate(turn.extra["tool_calls"]) if i != number]
    if not calls:
        return _without(turn, "tool_calls")
    return replace(turn, extra={**turn.extra, "tool_calls": calls})
