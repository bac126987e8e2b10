"""Conversations as token ids, by the tokenizer's chat template; what the assistant says is learned.

A template is a program of which only the text is known. So a conversation is rendered up to each of
the assistant's turns, once to the point where it is to speak and once with what it says: what lies
between is the turn, its end marker included. A template that writes earlier turns otherwise when
later ones follow (leaving out thoughts, say) cannot be cut like that, and is refused.
"""

from __future__ import annotations

from typing import Any

from smt_ray.data.rows import ASSISTANT, Message, Row
from smt_ray.errors import UserError


def encode_chat(tokenizer: Any, row: Row) -> tuple[list[int], list[range]]:
    """A conversation's ids, and where the assistant speaks, which is what is learned.

    Args:
        tokenizer: A transformers tokenizer with a chat template and an EOS token.
        row: With ``messages``, the last of them the assistant's.

    Returns:
        (S,) token ids, and the places of the targets: a span for each of the assistant's turns, EOS
        included where the template ends turns with it. The last always ends so.

    Raises:
        UserError: The tokenizer has no chat template, or it refuses or rewrites the conversation.
    """
    place = f"data.train, row {row.position}"
    eos = tokenizer.eos_token_id
    ids: list[int] = []
    spans: list[range] = []
    for text, is_spoken in _pieces(tokenizer, row.messages, place):
        piece: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
        if is_spoken:
            # What follows EOS in a turn is never generated.
            length = piece.index(eos) + 1 if eos in piece else len(piece)
            # Nothing precedes a row's first token, which a template may let the assistant say.
            spans.append(range(max(1, len(ids)), len(ids) + length))
        ids += piece
    last = spans.pop()
    ids = ids[: last.stop] if ids[last.stop - 1] == eos else [*ids[: last.stop], eos]
    return ids, [*spans, range(last.start, len(ids))]


def _pieces(tokenizer: Any, messages: tuple[Message, ...], place: str) -> list[tuple[str, bool]]:
    """The text, cut where the assistant begins and ends to speak, and whether it speaks."""
    pieces: list[tuple[str, bool]] = []
    before = ""
    for turn in (i for i, message in enumerate(messages) if message.role == ASSISTANT):
        opened = _render(tokenizer, messages[:turn], place, to_speak=True)
        spoken = _render(tokenizer, messages[: turn + 1], place)
        if not (opened.startswith(before) and spoken.startswith(opened) and spoken != opened):
            raise UserError(
                place,
                "the chat template must leave earlier turns as they are when later ones follow",
                fix="split the conversation into rows of one answer each, or use another template",
            )
        pieces += [(opened[len(before) :], False), (spoken[len(opened) :], True)]
        before = spoken
    return pieces


def _render(
    tokenizer: Any, messages: tuple[Message, ...], place: str, *, to_speak: bool = False
) -> str:
    if not tokenizer.chat_template:
        raise UserError(
            "data.train",
            "rows with messages need a tokenizer that has a chat template",
            fix="train an instruct model, or give rows of instruction and output",
        )
    try:
        text: str = tokenizer.apply_chat_template(
            [message._asdict() for message in messages],
            tokenize=False,
            add_generation_prompt=to_speak,
        )
    except Exception as error:  # templates raise what they like
        raise UserError(
            place, f"the chat template refuses the conversation ({error})", got=_roles(messages)
        ) from error
    return text


def _roles(messages: tuple[Message, ...]) -> list[str]:
    return [message.role for message in messages]
