"""Tokenised rows, in memory and on disk."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

Spans = list[range]
"""The places of a row's targets: ascending, at least one range."""

_FIELDS = ("input_ids", "offsets", "prompt_lengths", "positions")
_IS_TARGET = "is_target"  # only conversations have it


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


def pack(rows: list[list[int]], targets: list[Spans], positions: list[int]) -> EncodedRows:
    """Rows of token ids, with the places of their targets, as one set."""
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


def save_tokens(path: Path, sets: dict[str, EncodedRows]) -> None:
    """Writes named sets of rows (training, validation) to one file."""
    tensors: dict[str, torch.Tensor] = {
        f"{name}.{field}": getattr(rows, field) for name, rows in sets.items() for field in _FIELDS
    }
    for name, rows in sets.items():
        if rows.is_target is not None:
            tensors[f"{name}.{_IS_TARGET}"] = rows.is_target
    save_file(tensors, path)


def load_tokens(path: Path, name: str) -> EncodedRows | None:
    """Reads one set of rows; None if the file has no set of that name."""
    tensors = load_file(path)
    if f"{name}.offsets" not in tensors:
        return None
    fields = {field: tensors[f"{name}.{field}"] for field in _FIELDS}
    return EncodedRows(**fields, is_target=tensors.get(f"{name}.{_IS_TARGET}"))
