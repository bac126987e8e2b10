"""Conversations as token ids, by the tokenizer's chat template; the assistant's turns are targets.

A template is a program, of which only the resulting text is known. So a conversation is rendered
twice for each turn of the assistant: up to the turn, with the template's prompt for it, and up to
its end. The difference is the turn with its end marker. This does not work with a template that
renders earlier turns differently when later ones follow (for example without thoughts), which is an
error.

The text is tokenised as a whole, as it will be when the model is used, and the turns are found
among its tokens. Separately tokenised pieces would differ, because many tokenizers put a space
before every text.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

from smt_ray.data.rows import ASSISTANT, Message, Row
from smt_ray.errors import UserError


def encode_chat(tokenizer: Any, row: Row) -> tuple[list[int], list[range]]:
    """The token ids of a conversation, and the places of its targets.

    Args:
        tokenizer: A transformers tokenizer with a chat template and an EOS token.
        row: A row with ``messages``, of which the assistant's is the last.

    Returns:
        The token ids, and a range of places for each turn of the assistant. The range includes EOS
        if the template ends turns with it; the last turn always ends with EOS.

    Raises:
        UserError: The tokenizer has no chat template, or the template rejects the conversation or
            renders earlier turns differently.
    """
    eos = tokenizer.eos_token_id
    text, turns = _turns(tokenizer, row.messages, f"data.train, row {row.position}")
    borders = sorted({border for turn in turns for border in turn} - {0})
    ids, found = _tokenise(tokenizer, text, borders)
    places = {0: 0, **dict(zip(borders, found, strict=True))}
    spans: list[range] = []
    for begin, end in turns:
        first, stop = places[begin], places[end]
        if eos in ids[first:stop]:  # tokens after EOS are never generated
            stop = ids.index(eos, first) + 1
        # A template may begin with the assistant, but the first token of a row has no prediction.
        spans.append(range(max(1, first), stop))
    last = spans.pop()
    ids = ids[: last.stop] if eos in ids[last.start : last.stop] else [*ids[: last.stop], eos]
    return ids, [*spans, range(last.start, len(ids))]


def _tokenise(tokenizer: Any, text: str, borders: Sequence[int]) -> tuple[list[int], list[int]]:
    """The token ids of a text, and the number of tokens before each border.

    The rule is that of prompts and completions (:mod:`smt_ray.data.encoding`): if a token of the
    whole text crosses a border, the texts before and after the border are tokenised separately.
    Borders are given in characters, ascending, above 0.
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
    """Tokenises the text as a whole; the number of tokens is None if one crosses the border."""
    encoded = tokenizer(
        text, add_special_tokens=False, return_offsets_mapping=bool(tokenizer.is_fast)
    )
    ids: list[int] = encoded["input_ids"]
    ends = list(accumulate((end for _, end in encoded.get("offset_mapping", ())), max))
    places: list[int | None] = []
    for border in borders:
        count = bisect_right(ends, border)
        if not count or ends[count - 1] != border:
            # No token is known to end here. Still, none may cross the border: offsets may leave
            # out spaces, and slow tokenizers have no offsets. So the text before is tokenised.
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
    """The text, and the first and last characters of the assistant's turns."""
    turns: list[tuple[int, int]] = []
    before = ""
    for turn in (i for i, message in enumerate(messages) if message.role == ASSISTANT):
        prompt = _render(tokenizer, messages[:turn], place, add_prompt=True)
        whole = _render(tokenizer, messages[: turn + 1], place)
        if not (prompt.startswith(before) and whole.startswith(prompt) and whole != prompt):
            raise UserError(
                place,
                "the chat template must leave earlier turns as they are when later ones follow",
                fix="split the conversation into rows of one answer each, or use another template",
            )
        turns.append((len(prompt), len(whole)))
        before = whole
    return before, turns


def _render(
    tokenizer: Any, messages: tuple[Message, ...], place: str, *, add_prompt: bool = False
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
            add_generation_prompt=add_prompt,
        )
    except Exception as error:  # a template can raise anything
        raise UserError(
            place, f"the chat template rejects the conversation ({error})", got=_roles(messages)
        ) from error
    return text


def _roles(messages: tuple[Message, ...]) -> list[str]:
    return [message.role for message in messages]
