"""Conversations as token ids, by the tokenizer's chat template; what the assistant says is learned.

A template is a program of which only the text is known. So a conversation is rendered up to each of
the assistant's turns, once to the point where it is to speak and once with what it says: what lies
between is the turn, its end marker included. A template that writes earlier turns otherwise when
later ones follow (leaving out thoughts, say) cannot be cut like that, and is refused.

The text is tokenised whole, as it will be when the model is asked, and the turns are found among
its tokens. Pieces tokenised one by one would differ: many tokenizers put a space before any text.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate, pairwise
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
    eos = tokenizer.eos_token_id
    text, turns = _turns(tokenizer, row.messages, f"data.train, row {row.position}")
    borders = sorted({border for turn in turns for border in turn} - {0})
    ids, found = _tokenise(tokenizer, text, borders)
    places = {0: 0, **dict(zip(borders, found, strict=True))}
    spans: list[range] = []
    for begin, end in turns:
        first, stop = places[begin], places[end]
        if eos in ids[first:stop]:  # what follows EOS in a turn is never generated
            stop = ids.index(eos, first) + 1
        # Nothing precedes a row's first token, which a template may let the assistant say.
        spans.append(range(max(1, first), stop))
    last = spans.pop()
    ids = ids[: last.stop] if eos in ids[last.start : last.stop] else [*ids[: last.stop], eos]
    return ids, [*spans, range(last.start, len(ids))]


def _tokenise(tokenizer: Any, text: str, borders: Sequence[int]) -> tuple[list[int], list[int]]:
    """The text's ids, and how many of them stand before each border.

    The rule is that of prompts and completions (:mod:`smt_ray.data.encoding`): where a token of the
    whole would reach over a border, what stands before the border and what follows it are tokenised
    each on its own.

    Args:
        tokenizer: See :func:`encode_chat`.
        text: A conversation, or a part of it.
        borders: How many of its characters stand before each, ascending, above 0.
    """
    ids, places = _places(tokenizer, text, borders)
    cuts = [border for border, place in zip(borders, places, strict=True) if place is None]
    if not cuts:
        return ids, [place for place in places if place is not None]
    ids, found = [], []
    for start, end in pairwise([0, *cuts, len(text)]):
        inside = [border - start for border in borders if start < border <= end]
        part, counts = _tokenise(tokenizer, text[start:end], inside)
        found += [len(ids) + count for count in counts]
        ids += part
    return ids, found


def _places(
    tokenizer: Any, text: str, borders: Sequence[int]
) -> tuple[list[int], list[int | None]]:
    """As :func:`_tokenise`, of the text as a whole; None where a token reaches over a border."""
    encoded = tokenizer(
        text, add_special_tokens=False, return_offsets_mapping=bool(tokenizer.is_fast)
    )
    ids: list[int] = encoded["input_ids"]
    ends = list(accumulate((end for _, end in encoded.get("offset_mapping", ())), max))
    places: list[int | None] = []
    for border in borders:
        count = bisect_right(ends, border)
        if not count or ends[count - 1] != border:
            # No token is known to end here, which need not mean that one reaches over: offsets may
            # leave out spaces, and slow tokenizers have none. The text before the border tells.
            before: list[int] = tokenizer(text[:border], add_special_tokens=False)["input_ids"]
            count = len(before)
            if ids[:count] != before:
                places.append(None)
                continue
        places.append(count)
    return ids, places


def _turns(
    tokenizer: Any, messages: tuple[Message, ...], place: str
) -> tuple[str, list[tuple[int, int]]]:
    """The text, and the characters from which and up to which the assistant speaks."""
    turns: list[tuple[int, int]] = []
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
        turns.append((len(opened), len(spoken)))
        before = spoken
    return before, turns


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
