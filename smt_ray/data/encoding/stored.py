"""Tokenised rows, in memory and on disk."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, pairwise
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from smt_ray.file_rights import save_file

Spans = list[range]
"""The places of a row's targets: ascending, at least one range."""

_FIELDS = ("input_ids", "offsets", "prompt_lengths", "positions")
_IS_TARGET = "is_target"  # only conversations have it
_LENGTHS, _MARKED = "lengths", "marked"
_FILES = {
    "input_ids": torch.int32, _LENGTHS: torch.int64, "prompt_lengths": torch.int32,
    "positions": torch.int32, _IS_TARGET: torch.bool,
}  # fmt: skip


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
        return self._all_after_first if train_on_inputs else self._targets_after_prompt

    @cached_property
    def _all_after_first(self) -> torch.Tensor:
        return (self.lengths - 1).clamp(min=0)

    @cached_property
    def _targets_after_prompt(self) -> torch.Tensor:
        if self.is_target is None:
            return (self.lengths - self.prompt_lengths.clamp(min=1)).clamp(min=0)
        sums = np.add.reduceat(self.is_target.numpy(), self.offsets[:-1].numpy(), dtype=np.int64)
        return torch.from_numpy(sums)

    def marks(self) -> torch.Tensor:
        """``is_target``, also of rows whose targets are all tokens after the prompt."""
        if self.is_target is not None:
            return self.is_target
        starts = self.prompt_lengths.to(torch.int64).minimum(self.lengths)
        places = torch.arange(self.input_ids.numel())
        return places >= (self.offsets[:-1] + starts).repeat_interleave(self.lengths)


def pack(
    rows: Sequence[list[int]], targets: Sequence[Spans], positions: Sequence[int]
) -> EncodedRows:
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
        input_ids=torch.tensor(list(chain.from_iterable(rows)), dtype=torch.int32),
        offsets=offsets,
        prompt_lengths=torch.tensor(prompt_lengths, dtype=torch.int32),
        positions=torch.tensor(positions, dtype=torch.int32),
        is_target=None if plain else _mark(offsets.tolist(), targets),
    )


def _mark(offsets: list[int], targets: Sequence[Spans]) -> torch.Tensor:
    """A mask that is True at the targets, (total tokens,) bool."""
    marked = torch.zeros(offsets[-1], dtype=torch.bool)
    for (start, end), spans in zip(pairwise(offsets), targets, strict=True):
        for span in spans:  # the row may have been cut after its spans were made
            marked[min(start + span.start, end) : min(start + span.stop, end)] = True
    return marked


def join(parts: Sequence[EncodedRows]) -> EncodedRows:
    """The rows of several sets as one set."""
    counts = torch.cat([torch.zeros(1, dtype=torch.int64), *(part.lengths for part in parts)])
    plain = all(part.is_target is None for part in parts)
    return EncodedRows(
        input_ids=torch.cat([part.input_ids for part in parts]),
        offsets=counts.cumsum(0),
        prompt_lengths=torch.cat([part.prompt_lengths for part in parts]),
        positions=torch.cat([part.positions for part in parts]),
        is_target=None if plain else torch.cat([part.marks() for part in parts]),
    )


class TokenFiles:
    """Tokenised rows in a folder, with one file a field, to which rows are appended.

    Args:
        folder: An empty folder, or one that another process has filled.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def append(self, rows: EncodedRows) -> None:
        """Appends rows."""
        if rows.is_target is not None:
            (self._folder / _MARKED).touch()
        fields = (rows.input_ids, rows.lengths, rows.prompt_lengths, rows.positions, rows.marks())
        for name, values in zip(_FILES, fields, strict=True):
            with (self._folder / name).open("ab") as file:
                values.numpy().tofile(file)

    def take(self, other: TokenFiles) -> None:
        """Appends the rows of another folder, which is empty afterwards."""
        for place in sorted(other._folder.iterdir()):
            with place.open("rb") as source, (self._folder / place.name).open("ab") as file:
                shutil.copyfileobj(source, file, 1 << 24)
            place.unlink()

    def mapped(self) -> EncodedRows:
        """All rows; their tokens are mapped into memory."""
        found = {name: self._map(name, dtype) for name, dtype in _FILES.items()}
        is_plain = not (self._folder / _MARKED).exists()
        offsets = torch.cat([torch.zeros(1, dtype=torch.int64), found[_LENGTHS]]).cumsum(0)
        return EncodedRows(
            found["input_ids"], offsets, found["prompt_lengths"], found["positions"],
            None if is_plain else found[_IS_TARGET],
        )  # fmt: skip

    def _map(self, name: str, dtype: torch.dtype) -> torch.Tensor:
        path = self._folder / name
        number = path.stat().st_size // dtype.itemsize
        return torch.from_file(str(path), shared=True, size=number, dtype=dtype)


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
    """One set of rows, mapped into memory; None if the file has no set of that name."""
    tensors = load_file(path)
    if f"{name}.offsets" not in tensors:
        return None
    fields = {field: tensors[f"{name}.{field}"] for field in _FIELDS}
    return EncodedRows(**fields, is_target=tensors.get(f"{name}.{_IS_TARGET}"))
