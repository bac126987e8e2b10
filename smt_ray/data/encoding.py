"""Prompts and completions as token ids: one rule for training and for evaluation.

A row is the prompt's ids (BOS where the tokenizer adds it), then the completion's, then EOS. The
prompt is tokenised exactly as evaluation will tokenise it; the completion's ids are what follows it
in the tokenised whole, so that no token of the completion differs from what the model would emit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from smt_ray.data.prompts import PromptForm, build_prompt
from smt_ray.data.rows import Row
from smt_ray.errors import UserError

_CHUNK = 1024  # rows tokenised in one call: enough for the tokenizer's threads, little memory


@dataclass(frozen=True)
class EncodedRows:
    """Token ids of many rows, end to end.

    Attributes:
        input_ids: (total tokens,) int32.
        offsets: (N + 1,) int64; row i is ``input_ids[offsets[i]:offsets[i + 1]]``.
        prompt_lengths: (N,) int32, tokens of row i that belong to the prompt.
        positions: (N,) int32, where row i stands in the source, for messages.
    """

    input_ids: torch.Tensor
    offsets: torch.Tensor
    prompt_lengths: torch.Tensor
    positions: torch.Tensor

    def __len__(self) -> int:
        return self.prompt_lengths.numel()

    def row(self, index: int) -> torch.Tensor:
        """Row ``index``'s token ids, (length,) int32."""
        return self.input_ids[self.offsets[index] : self.offsets[index + 1]]

    @cached_property
    def lengths(self) -> torch.Tensor:
        """(N,) int64, tokens a row."""
        return self.offsets[1:] - self.offsets[:-1]

    def first_targets(self, train_on_inputs: bool) -> torch.Tensor:
        """(N,) int64, the first position of each row whose token is a target of the loss.

        Position 0 is never one: nothing precedes it.
        """
        start = torch.ones_like(self.prompt_lengths) if train_on_inputs else self.prompt_lengths
        return start.clamp(min=1).to(torch.int64)

    def num_targets(self, train_on_inputs: bool) -> torch.Tensor:
        """(N,) int64, tokens of each row that the loss is summed over."""
        return (self.lengths - self.first_targets(train_on_inputs)).clamp(min=0)


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
    prompt_lengths: list[int] = []
    positions: list[int] = []
    num_truncated = 0
    for start in range(0, len(rows), _CHUNK):
        chunk = rows[start : start + _CHUNK]
        for row, (prompt_length, ids) in zip(
            chunk, _encode_chunk(tokenizer, chunk, prompt_form), strict=True
        ):
            is_overlong = len(ids) > max_length
            if is_overlong and overlong == "drop":
                continue
            ids = ids[:max_length]
            if len(ids) > max(1, 0 if train_on_inputs else prompt_length):
                kept.append(ids)
                prompt_lengths.append(min(prompt_length, len(ids)))
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
    encoded = _pack(kept, prompt_lengths, positions)
    counts = EncodingCounts(
        len(kept), num_truncated, len(rows) - len(kept), encoded.input_ids.numel()
    )
    return encoded, counts


def _encode_chunk(
    tokenizer: Any, rows: Sequence[Row], prompt_form: PromptForm
) -> list[tuple[int, list[int]]]:
    prompts = [build_prompt(row, prompt_form, "training") for row in rows]
    prompt_ids = encode_prompts(tokenizer, prompts)
    wholes = encode_prompts(
        tokenizer, [prompt + row.output for prompt, row in zip(prompts, rows, strict=True)]
    )
    return [
        (len(ids), [*ids, *_after(tokenizer, whole, ids, row.output), tokenizer.eos_token_id])
        for ids, whole, row in zip(prompt_ids, wholes, rows, strict=True)
    ]


def _pack(rows: list[list[int]], prompt_lengths: list[int], positions: list[int]) -> EncodedRows:
    lengths = torch.tensor([0, *map(len, rows)], dtype=torch.int64)
    return EncodedRows(
        input_ids=torch.tensor([token for row in rows for token in row], dtype=torch.int32),
        offsets=lengths.cumsum(0),
        prompt_lengths=torch.tensor(prompt_lengths, dtype=torch.int32),
        positions=torch.tensor(positions, dtype=torch.int32),
    )
