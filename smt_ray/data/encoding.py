"""Prompts and completions as token ids: one rule for training and for evaluation.

A row is the prompt's ids (BOS where the tokenizer adds it), then the completion's, then EOS. The
prompt is tokenised exactly as evaluation will tokenise it; the completion's ids are what follows it
in the tokenised whole, so that no token of the completion differs from what the model would emit.
Conversations are :mod:`smt_ray.data.chat`'s matter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import torch

from smt_ray.data.chat import encode_chat
from smt_ray.data.prompts import PromptForm, build_prompt
from smt_ray.data.rows import Row
from smt_ray.errors import UserError

Spans = list[range]
"""Places in a row, ascending, at least one: the tokens that it is learned for."""

_Encoded = tuple[Row, list[int], Spans]
_CHUNK = 1024  # rows tokenised in one call: enough for the tokenizer's threads, little memory


@dataclass(frozen=True)
class EncodedRows:
    """Token ids of many rows, end to end.

    Attributes:
        input_ids: (total tokens,) int32.
        offsets: (N + 1,) int64; row i is ``input_ids[offsets[i]:offsets[i + 1]]``.
        prompt_lengths: (N,) int32, tokens of row i's prompt: those before its first target.
        positions: (N,) int32, where row i stands in the source, for messages.
        is_target: (total tokens,) bool, False at each row's first; None where the targets are
            everything after the prompt.
    """

    input_ids: torch.Tensor
    offsets: torch.Tensor
    prompt_lengths: torch.Tensor
    positions: torch.Tensor
    is_target: torch.Tensor | None = None

    def __len__(self) -> int:
        return self.prompt_lengths.numel()

    def row(self, index: int) -> torch.Tensor:
        """Row ``index``'s token ids, (length,) int32."""
        return self.input_ids[self.offsets[index] : self.offsets[index + 1]]

    @cached_property
    def lengths(self) -> torch.Tensor:
        """(N,) int64, tokens a row."""
        return self.offsets[1:] - self.offsets[:-1]

    def targets(self, index: int, train_on_inputs: bool) -> torch.Tensor:
        """(P,) int64, ascending: the places in row ``index`` whose tokens the loss is summed over.

        Place 0 is never one: nothing precedes it.
        """
        first = 1 if train_on_inputs else max(1, int(self.prompt_lengths[index]))
        places = torch.arange(first, int(self.lengths[index]))
        if train_on_inputs or self.is_target is None:
            return places
        return places[self.is_target[self.offsets[index] + places]]

    def num_targets(self, train_on_inputs: bool) -> torch.Tensor:
        """(N,) int64, tokens of each row that the loss is summed over."""
        if self.is_target is None or train_on_inputs:
            first = torch.ones_like(self.prompt_lengths) if train_on_inputs else self.prompt_lengths
            return (self.lengths - first.clamp(min=1)).clamp(min=0)
        return self._targets_before[self.offsets[1:]] - self._targets_before[self.offsets[:-1]]

    @cached_property
    def _targets_before(self) -> torch.Tensor:
        """(total tokens + 1,) int64: how many targets come before each token."""
        assert self.is_target is not None
        return torch.cat([torch.zeros(1, dtype=torch.int64), self.is_target.cumsum(0)])


@dataclass(frozen=True)
class EncodingCounts:
    """What encoding did: rows kept, those of them cut to ``max_length``, rows left out, tokens."""

    num_rows: int
    num_truncated: int
    num_dropped: int
    num_tokens: int


def encode_prompt(tokenizer: Any, text: str) -> list[int]:
    """The prompt's ids: BOS by the tokenizer's own rule, never EOS."""
    return encode_prompts(tokenizer, [text])[0]


def encode_prompts(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """:func:`encode_prompt` for many texts in one call."""
    encoded: list[list[int]] = tokenizer(list(texts))["input_ids"]
    eos = tokenizer.eos_token
    return [
        # Some tokenizers append EOS to whatever they are given; a prompt is not finished.
        ids[:-1] if ids and ids[-1] == tokenizer.eos_token_id and not text.endswith(eos) else ids
        for text, ids in zip(texts, encoded, strict=True)
    ]


def encode_completion(
    tokenizer: Any, prompt: str, prompt_ids: Sequence[int], completion: str
) -> list[int]:
    """The completion's ids after the prompt's, without EOS.

    They are what the tokenised whole holds after the prompt; only where the whole would merge a
    token across the border (so that the prompt's ids are not its beginning) is the completion
    tokenised on its own.
    """
    whole = encode_prompt(tokenizer, prompt + completion)
    return _after(tokenizer, whole, prompt_ids, completion)


def _after(
    tokenizer: Any, whole: list[int], prompt_ids: Sequence[int], completion: str
) -> list[int]:
    if whole[: len(prompt_ids)] == list(prompt_ids):
        return whole[len(prompt_ids) :]
    ids: list[int] = tokenizer(completion, add_special_tokens=False)["input_ids"]
    return ids


def encode_rows(
    tokenizer: Any,
    rows: Sequence[Row],
    *,
    prompt_form: PromptForm = "clean",
    max_length: int = 512,
    overlong: str = "truncate",
    train_on_inputs: bool = False,
    on_rows: Callable[[int], object] = lambda _done: None,
) -> tuple[EncodedRows, EncodingCounts]:
    """Tokenises rows for training.

    Args:
        tokenizer: A transformers tokenizer with an EOS token.
        rows: The examples.
        prompt_form: See :func:`smt_ray.data.prompts.build_prompt`.
        max_length: Tokens a row may have, prompt, completion and EOS together.
        overlong: ``truncate`` cuts longer rows at ``max_length``; ``drop`` leaves them out.
        train_on_inputs: Whether prompt tokens are targets too; a row without a target is left out.
        on_rows: Called now and then with the number of rows that are done.

    Raises:
        UserError: The tokenizer has no EOS token, or no row is left.
    """
    if tokenizer.eos_token_id is None:
        raise UserError("model", "the tokenizer must have an EOS token", got=None)
    kept: list[list[int]] = []
    targets: list[Spans] = []
    positions: list[int] = []
    num_truncated = 0
    for start in range(0, len(rows), _CHUNK):
        chunk = rows[start : start + _CHUNK]
        for row, ids, learned in _encode_chunk(tokenizer, chunk, prompt_form):
            is_overlong = len(ids) > max_length
            if is_overlong and overlong == "drop":
                continue
            first = 1 if train_on_inputs else learned[0].start
            if min(len(ids), max_length) > first:
                kept.append(ids[:max_length])
                targets.append(learned)
                positions.append(row.position)
                num_truncated += is_overlong
        on_rows(start + len(chunk))
    if not kept:
        raise UserError(
            "data.max_length",
            "must leave at least one row with a token to learn",
            got=max_length,
            fix="raise data.max_length, or check the rows of data.train",
        )
    encoded = _pack(kept, targets, positions)
    counts = EncodingCounts(
        len(kept), num_truncated, len(rows) - len(kept), encoded.input_ids.numel()
    )
    return encoded, counts


def _encode_chunk(
    tokenizer: Any, rows: Sequence[Row], prompt_form: PromptForm
) -> Iterator[_Encoded]:
    """Each row, its ids and its targets' places, in the order of the rows."""
    plain = iter(_encode_plain(tokenizer, [r for r in rows if not r.messages], prompt_form))
    for row in rows:
        yield (row, *encode_chat(tokenizer, row)) if row.messages else next(plain)


def _encode_plain(
    tokenizer: Any, rows: Sequence[Row], prompt_form: PromptForm
) -> Iterator[_Encoded]:
    if not rows:
        return
    prompts = [build_prompt(row, prompt_form, "training") for row in rows]
    prompt_ids = encode_prompts(tokenizer, prompts)
    wholes = encode_prompts(
        tokenizer, [prompt + row.output for prompt, row in zip(prompts, rows, strict=True)]
    )
    for row, ids, whole in zip(rows, prompt_ids, wholes, strict=True):
        completion = [*_after(tokenizer, whole, ids, row.output), tokenizer.eos_token_id]
        first = max(1, len(ids))  # nothing precedes a row's first token
        yield row, [*ids, *completion], [range(first, len(ids) + len(completion))]


def _pack(rows: list[list[int]], targets: list[Spans], positions: list[int]) -> EncodedRows:
    offsets = torch.tensor([0, *map(len, rows)], dtype=torch.int64).cumsum(0)
    prompt_lengths = [
        min(spans[0].start, len(row)) for row, spans in zip(rows, targets, strict=True)
    ]
    # Usually all that follows the prompt is learned, which its length says.
    plain = all(
        len(spans) == 1 and spans[0].stop >= len(row)
        for row, spans in zip(rows, targets, strict=True)
    )
    return EncodedRows(
        input_ids=torch.tensor([token for row in rows for token in row], dtype=torch.int32),
        offsets=offsets,
        prompt_lengths=torch.tensor(prompt_lengths, dtype=torch.int32),
        positions=torch.tensor(positions, dtype=torch.int32),
        is_target=None if plain else _mark(offsets.tolist(), targets),
    )


def _mark(offsets: list[int], targets: list[Spans]) -> torch.Tensor:
    """(total tokens,) bool: True at the rows' targets."""
    marked = torch.zeros(offsets[-1], dtype=torch.bool)
    for (start, end), spans in zip(pairwise(offsets), targets, strict=True):
        for span in spans:  # of the whole row, which may have been cut
            marked[min(start + span.start, end) : min(start + span.stop, end)] = True
    return marked
