"""Texts with targets as token ids, with the places of the targets among them.

A conversation is tokenised as a whole, as it will be when the model is used, and its targets are
found among the tokens. Separately tokenised pieces would differ, because many tokenizers put a
space before every text.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from typing import Any

from smt_ray.data.encoding.ids import after_prompt, encode_prompts
from smt_ray.data.encoding.stored import Spans
from smt_ray.data.rows import Prompt, Rendered

Encoded = tuple[list[int], Spans]
"""The ids of a row, and the places of its targets."""


def encode_targets(tokenizer: Any, rendered: Sequence[Rendered]) -> Iterator[Encoded]:
    """The ids of each text up to its last target, with EOS at their end."""
    single = [row for row in rendered if len(row.targets) == 1]
    encoded = iter(list(_encode_single(tokenizer, single)))
    for row in rendered:
        yield next(encoded) if len(row.targets) == 1 else _encode_turns(tokenizer, row)


def _encode_single(tokenizer: Any, rendered: Sequence[Rendered]) -> Iterator[Encoded]:
    """Rows with one target at the end of their text."""
    parts = [(r, r.text[: r.targets[0][0]], r.text[: r.targets[0][1]]) for r in rendered]
    asked = encode_prompts(tokenizer, [Prompt(text, r.has_specials) for r, text, _ in parts])
    wholes = encode_prompts(tokenizer, [Prompt(text, r.has_specials) for r, _, text in parts])
    for (row, prompt, text), prompt_ids, whole in zip(parts, asked, wholes, strict=True):
        output = after_prompt(tokenizer, whole, prompt_ids, text[len(prompt) :])
        first = max(1, len(prompt_ids))  # the first token of a row has no prediction
        ids = _closed(tokenizer, [*prompt_ids, *output], len(prompt_ids), row)
        yield ids, [range(first, len(ids))]


def _closed(tokenizer: Any, ids: list[int], begin: int, row: Rendered) -> list[int]:
    """The ids of a row with EOS at the end; what a template writes after its EOS is cut off."""
    eos = tokenizer.eos_token_id
    if row.is_chat and eos in ids[begin:]:  # tokens after EOS are never generated
        return ids[: ids.index(eos, begin) + 1]
    return ids if ids[begin:] and ids[-1] == eos else [*ids, eos]


def _encode_turns(tokenizer: Any, rendered: Rendered) -> Encoded:
    """A conversation with several targets; each ends with EOS if the template ends turns with it,
    and the last one always.
    """
    eos, turns = tokenizer.eos_token_id, rendered.targets
    text = rendered.text[: turns[-1][1]]
    borders = sorted({border for turn in turns for border in turn} - {0})
    ids, found = _tokenise(tokenizer, text, borders)
    places = {0: 0, **dict(zip(borders, found, strict=True))}
    spans: list[range] = []
    for begin, end in turns:
        first, stop = places[begin], places[end]
        if eos in ids[first:stop]:
            stop = ids.index(eos, first) + 1
        # A template may begin with the assistant, but the first token of a row has no prediction.
        spans.append(range(max(1, first), stop))
    last = spans.pop()
    ids = _closed(tokenizer, ids[: places[turns[-1][1]]], last.start, rendered)
    return ids, [*spans, range(last.start, len(ids))]


def _tokenise(tokenizer: Any, text: str, borders: Sequence[int]) -> tuple[list[int], list[int]]:
    """The token ids of a text, and the number of tokens before each border.

    The rule is that of prompts and completions: if a token of the whole text crosses a border, the
    texts before and after the border are tokenised separately.
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
