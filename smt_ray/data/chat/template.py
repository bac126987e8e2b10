"""Conversations as text, by the tokenizer's chat template; the assistant's turns are targets.

A template is a program, of which only the resulting text is known. If it marks what the assistant
writes (``{% generation %}``), the marks are the targets. Otherwise a conversation is rendered twice
for each turn of the assistant: up to the turn, with the template's prompt for it, and up to its
end. The difference is the turn with its end marker, and it is a target if the whole conversation
begins with the same text. Templates that render earlier turns differently when later ones follow
(for example without thoughts) leave only the last turn.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from smt_ray.data.chat.written import CALLS, is_written, missing_texts, reductions
from smt_ray.data.fields import bad_row
from smt_ray.data.rows import ASSISTANT, USER, Message, Prompt, Rendered, Row
from smt_ray.errors import UserError

_MARKED = re.compile(r"\{%-?\s*generation\s*-?%\}")
_DUMMY = Message(ASSISTANT, "\N{BLACK SQUARE}")  # a reply that no prompt ends with

Span = tuple[int, int]
"""The first character of a target, and the one after its last."""


class ChatTemplate:
    """The chat template of a tokenizer, or another one for it.

    Args:
        tokenizer: A transformers tokenizer.
        template: The text of a Jinja template, or the name of one of the tokenizer's; None for its
            default.
        merge_system: Whether a system text is put before the first text of the user.

    Raises:
        UserError: There is no such template.
    """

    def __init__(self, tokenizer: Any, template: str | None = None, *, merge_system: bool = False):
        self._tokenizer, self._template, self._merges = tokenizer, template, merge_system
        own = tokenizer.chat_template
        if template is not None and "{" not in template:
            names = sorted(own) if isinstance(own, dict) else []
            if template not in names:
                raise UserError(
                    "data.chat_template",
                    "must be a Jinja file that exists, or one of the tokenizer's templates"
                    f" ({', '.join(names) or 'it has no named ones'})",
                    got=template,
                    fix="check the path, which is relative to the working directory",
                )
        self.exists = bool(template or own)

    def render_row(self, row: Row) -> Rendered:
        """The text of a row with its targets.

        Raises:
            UserError: There is no template, or it rejects the conversation.
        """
        turns = self._turns(row)
        learned = [place for place, turn in enumerate(turns) if turn.is_learned]
        turns = turns[: learned[-1] + 1]  # nothing after the last target is of use
        text, marks = self._render(row, turns)
        dropped = list(self._dropped(row, turns, text))
        written = [i for i in learned if is_written(turns[i], text, dropped)]
        if not written or written[-1] != learned[-1]:
            rule = "the chat template must write the last turn to learn"
            raise bad_row(row.place, rule, turns[-1].for_template())
        speaking = [place for place, turn in enumerate(turns) if turn.role == ASSISTANT]
        original = text
        if marks and len(marks) == len(speaking):
            spans = [mark for place, mark in zip(speaking, marks, strict=True) if place in written]
        elif marks and written == speaking:
            spans = marks
        else:
            text, spans = self._compared(row, turns, written, text)
        num_context = max(0, len(learned) - len(spans))
        is_rebuilt = text != original  # with what the template dropped only after the reply
        lost = [*missing_texts(text, turns), *(d for d in dropped if not is_rebuilt or d in CALLS)]
        left_out = tuple(dict.fromkeys(lost))
        return Rendered(text, tuple(spans), True, True, num_context, left_out)

    def ask(self, row: Row) -> Prompt:
        """The text that asks for the last turn of a row, as in training; see :meth:`render_row`."""
        *asked, reply = self._turns(row)
        if not reply.content and not reply.extra:  # a test row may have an answer alone
            reply = _DUMMY
        text, _ = self._render(row, [*asked, reply])
        return Prompt(self._split(row, [*asked, reply], text)[0], has_specials=True)

    def _turns(self, row: Row) -> tuple[Message, ...]:
        if not self.exists:
            field, rule = (
                (row.place, "messages need a tokenizer that has a chat template")
                if row.messages
                else ("data.prompt", "must not be chat, as the tokenizer has no chat template")
            )
            fix = "train an instruct model, or give a template with data.chat_template"
            raise UserError(field, rule, fix=fix)
        turns = row.conversation()
        return _merged(turns) if self._merges else turns

    def _compared(
        self, row: Row, turns: Sequence[Message], learned: Sequence[int], text: str
    ) -> tuple[str, list[Span]]:
        """The text and the targets of a template without marks.

        A turn is a target if the text has it after the very prompt for it. The last turn always
        is. If the template rewrites the turns before it, they are as the model sees them then.
        """
        eos, spans = self._tokenizer.eos_token or "", []
        for place in learned[:-1]:
            whole, _ = self._render(row, turns[: place + 1])
            prompt, reply = self._split(row, turns[: place + 1], whole)
            for said in (reply, reply.removesuffix(eos)):  # some templates end only the last turn
                if said and text.startswith(prompt + said):
                    spans.append((len(prompt), len(prompt + said)))
                    break
        prompt, reply = self._split(row, turns, text)
        kept = spans if prompt + reply == text else []
        return prompt + reply, [*kept, (len(prompt), len(prompt + reply))]

    def _dropped(self, row: Row, turns: Sequence[Message], text: str) -> Iterator[str]:
        """What the text would be the same without."""
        for what, other_row, other_turns in reductions(row, turns):
            with suppress(UserError):
                if self._render(other_row, other_turns)[0] == text:
                    yield what

    def _split(self, row: Row, turns: Sequence[Message], text: str) -> tuple[str, str]:
        """The prompt for the last turn, and the turn, from the text of all turns.

        Some templates prompt for thoughts, which they then do not write before a reply; the prompt
        ends before them. Some rewrite earlier turns once a reply follows.
        """
        prompt, _ = self._render(row, turns[:-1], add_prompt=True)
        if text.startswith(prompt):
            return prompt, text[len(prompt) :]
        before, _ = self._render(row, turns[:-1])
        dummy, _ = self._render(row, [*turns[:-1], _DUMMY])
        # The reply may begin like the rest of the prompt, and a dummy does not.
        for other in (dummy, text):
            kept = _common_beginning(prompt, other)
            if prompt.startswith(before) and len(kept) >= len(before) and text.startswith(kept):
                return kept, text[len(kept) :]
        header = _common_beginning(text, dummy)
        return prompt, text[_end_of_prompt(header, prompt, turns[:-1]) :]

    def _render(
        self, row: Row, turns: Sequence[Message], *, add_prompt: bool = False
    ) -> tuple[str, list[Span]]:
        """The text of some turns, and what the template marks as written by the assistant.

        Templates differ in what they take: the arguments of a call as values or as their JSON text,
        and the content as a text or as a list of parts. The first that gives the texts is used.
        """
        first: tuple[str, list[Span]] | None = None
        reason: Exception | None = None
        said = next((turn.content.strip() for turn in turns if turn.role == USER), "")
        for written in (_as_it_is, _with_json_calls, _with_parts):
            try:
                found = self._apply(
                    row, [written(turn.for_template()) for turn in turns], add_prompt
                )
            except Exception as error:  # a template can raise anything
                reason = reason or error
                continue
            if said in found[0]:
                return found
            first = first or found
        if first is None:
            assert reason is not None
            raise _rejected(row, turns, reason, self._merges) from reason
        return first

    def _apply(
        self, row: Row, messages: list[dict[str, Any]], add_prompt: bool
    ) -> tuple[str, list[Span]]:
        from transformers.utils.chat_template_utils import render_jinja_template

        tools = list(row.tools) or None
        template = self._tokenizer.get_chat_template(self._template, tools)
        has_marks = bool(_MARKED.search(template)) and not add_prompt
        rendered: Any = render_jinja_template(
            [messages],
            tools=tools,
            chat_template=template,
            return_assistant_tokens_mask=has_marks,
            add_generation_prompt=add_prompt,
            **self._tokenizer.special_tokens_map,
        )
        (text,), marks = rendered
        return text, [(begin, end) for begin, end in marks[0] if end > begin] if has_marks else []


def _merged(turns: Sequence[Message]) -> tuple[Message, ...]:
    """The turns with the system texts at their beginning put before the first text of the user."""
    first = next((i for i, turn in enumerate(turns) if turn.role in (USER, ASSISTANT)), 0)
    if not first or turns[first].role != USER:
        return tuple(turns)
    texts = [turn.content for turn in turns[: first + 1]]
    return (replace(turns[first], content="\n\n".join(texts)), *turns[first + 1 :])


def _common_beginning(one: str, other: str) -> str:
    pairs = enumerate(zip(one, other, strict=False))
    end = next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))
    return one[:end]


def _end_of_prompt(header: str, prompt: str, turns: Sequence[Message]) -> int:
    """The place in a text at which a prompt ends, if the text before it was rewritten.

    Args:
        header: The text before the content of the reply.
        prompt: The prompt, which ends like a beginning of the header.
        turns: The turns before the reply, of which nothing may follow the place.

    Returns:
        The last place with the longest common ending; the end of the header if there is none.
    """
    said = [turn.content.strip() for turn in turns if turn.content.strip() in header]
    first = max((header.rfind(text) + len(text) for text in said if text), default=0)
    best, longest = len(header), 0
    for place in range(len(header), max(first, 1) - 1, -1):
        length, most = 0, min(place, len(prompt))
        while length < most and header[place - 1 - length] == prompt[-1 - length]:
            length += 1
        if length > longest:
            best, longest = place, length
    return best


def _rejected(
    row: Row, turns: Sequence[Message], error: Exception, merges_system: bool
) -> UserError:
    """The error for a conversation that a template rejects, with its own reason."""
    has_system = turns[0].role not in (USER, ASSISTANT) and not merges_system
    return bad_row(
        row.place,
        f"the chat template rejects the conversation ({' '.join(str(error).split())})",
        [turn.role for turn in turns],
        "put the system text before the first text of the user with data.merge_system: true"
        if has_system
        else "give another template with data.chat_template",
    )


def _as_it_is(message: dict[str, Any]) -> dict[str, Any]:
    return message


def _with_json_calls(message: dict[str, Any]) -> dict[str, Any]:
    """A turn whose calls have the JSON text of their arguments."""
    if "tool_calls" not in message:
        return message
    functions = [call["function"] for call in message["tool_calls"]]
    texts = [{**function, "arguments": json.dumps(function["arguments"])} for function in functions]
    calls = zip(message["tool_calls"], texts, strict=True)
    return {**message, "tool_calls": [{**call, "function": function} for call, function in calls]}


def _with_parts(message: dict[str, Any]) -> dict[str, Any]:
    """A turn whose content is a list of parts, as templates of models of images and text want."""
    return {**message, "content": [{"type": "text", "text": message["content"]}]}
