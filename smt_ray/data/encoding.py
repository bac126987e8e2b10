"""Prompts and completions as token ids, by the same rule for training and evaluation.

A row consists of the ids of the prompt (with BOS if the tokenizer adds it), the ids of the
completion, and EOS. The prompt is tokenised as in evaluation. The ids of the completion are those
after the prompt in the tokenised whole text, as the model would generate them. Conversations are
encoded by :mod:`smt_ray.data.chat`.
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
from smt_ray.documents.stages import RowCounts
from smt_ray.errors import UserError

Spans = list[range]
"""The places of a row's targets: ascending, at least one range."""

_Encoded = tuple[Row, list[int], Spans]
_CHUNK = 1024  # rows in one call: enough for the tokenizer's threads, with little memory


@dataclass(frozen=True)
class EncodedRows:
    """The token ids of many rows in one tensor.

    Attributes:
        input_ids: The ids of all rows, (total tokens,) int32.
        offsets: The beginning of each row, (N + 1,) int64; row i is
            ``input_ids[offsets[i]:offsets[i + 1]]``.
        prompt_lengths: The number of tokens before the first target of each row, (N,) int32.
        positions: The position of each row in the source, (N,) int32, for error messages.
        is_target: Whether a token is a target, (total tokens,) bool, False for the first token of
            each row; None if all tokens after the prompts are targets.
    """

    input_ids: torch.Tensor
    offsets: torch.Tensor
    prompt_lengths: torch.Tensor
    positions: torch.Tensor
    is_target: torch.Tensor | None = None

    def __len__(self) -> int:
        return self.prompt_lengths.numel()

    def row(self, index: int) -> torch.Tensor:
        """The token ids of a row, (length,) int32."""
        return self.input_ids[self.offsets[index] : self.offsets[index + 1]]

    @cached_property
    def lengths(self) -> torch.Tensor:
        """The number of tokens of each row, (N,) int64."""
        return self.offsets[1:] - self.offsets[:-1]

    def targets(self, index: int, train_on_inputs: bool) -> torch.Tensor:
        """The places of a row's targets, (P,) int64, ascending.

        Place 0 is never a target, because no token precedes it.
        """
        first = 1 if train_on_inputs else max(1, int(self.prompt_lengths[index]))
        places = torch.arange(first, int(self.lengths[index]))
        if train_on_inputs or self.is_target is None:
            return places
        return places[self.is_target[self.offsets[index] + places]]

    def num_targets(self, train_on_inputs: bool) -> torch.Tensor:
        """The number of targets of each row, (N,) int64."""
        if self.is_target is None or train_on_inputs:
            first = torch.ones_like(self.prompt_lengths) if train_on_inputs else self.prompt_lengths
            return (self.lengths - first.clamp(min=1)).clamp(min=0)
        return self._targets_before[self.offsets[1:]] - self._targets_before[self.offsets[:-1]]

    @cached_property
    def _targets_before(self) -> torch.Tensor:
        """The number of targets before each token, (total tokens + 1,) int64."""
        assert self.is_target is not None
        return torch.cat([torch.zeros(1, dtype=torch.int64), self.is_target.cumsum(0)])


def encode_prompt(tokenizer: Any, text: str) -> list[int]:
    """The ids of a prompt, with BOS if the tokenizer adds it, and without EOS."""
    return encode_prompts(tokenizer, [text])[0]


def encode_prompts(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """The ids of many prompts, in one call; see :func:`encode_prompt`."""
    encoded: list[list[int]] = tokenizer(list(texts))["input_ids"]
    eos = tokenizer.eos_token
    return [
        # Some tokenizers append EOS to every text, but a prompt is not finished.
        ids[:-1] if ids and ids[-1] == tokenizer.eos_token_id and not text.endswith(eos) else ids
        for text, ids in zip(texts, encoded, strict=True)
    ]


def encode_completion(
    tokenizer: Any, prompt: str, prompt_ids: Sequence[int], completion: str
) -> list[int]:
    """The ids of a completion after its prompt, without EOS.

    They are the ids after the prompt in the tokenised whole text. If the prompt's ids are not the
    beginning of that, because a token crosses the border, the completion is tokenised separately.
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
) -> tuple[EncodedRows, RowCounts]:
    """Tokenises rows for training.

    Args:
        tokenizer: A transformers tokenizer with an EOS token.
        rows: The rows.
        prompt_form: See :func:`smt_ray.data.prompts.build_prompt`.
        max_length: The largest number of tokens of a row: prompt, completion and EOS together.
        overlong: ``truncate`` to cut longer rows at ``max_length``, ``drop`` to leave them out.
        train_on_inputs: Whether prompt tokens are targets too. A row without a target is left out.
        on_rows: A function that is called after every 1024 rows with the number of finished rows.

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
        raise _no_rows_left(max_length)
    encoded = _pack(kept, targets, positions)
    counts = RowCounts(
        num_rows=len(kept),
        num_truncated=num_truncated,
        num_dropped=len(rows) - len(kept),
        num_tokens=encoded.input_ids.numel(),
    )
    return encoded, counts


def _no_rows_left(max_length: int) -> UserError:
    return UserError(
        "data.max_length",
        "must leave at least one row with a token to learn",
        got=max_length,
        fix="raise data.max_length, or check the rows of data.train",
    )


def _encode_chunk(
    tokenizer: Any, rows: Sequence[Row], prompt_form: PromptForm
) -> Iterator[_Encoded]:
    """Each row with its ids and the places of its targets, in the order of the rows."""
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
        first = max(1, len(ids))  # the first token of a row has no prediction
        yield row, [*ids, *completion], [range(first, len(ids) + len(completion))]


def _pack(rows: list[list[int]], targets: list[Spans], positions: list[int]) -> EncodedRows:
    offsets = torch.tensor([0, *map(len, rows)], dtype=torch.int64).cumsum(0)
    prompt_lengths = [
        min(spans[0].start, len(row)) for row, spans in zip(rows, targets, strict=True)
    ]
    # Usually all tokens after the prompt are targets, and the length of the prompt is enough.
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
    """A mask that is True at the targets, (total tokens,) bool."""
    marked = torch.zeros(offsets[-1], dtype=torch.bool)
    for (start, end), spans in zip(pairwise(offsets), targets, strict=True):
        for span in spans:  # the row may have been cut after its spans were made
            marked[min(start + span.start, end) : min(start + span.stop, end)] = True
    return marked
