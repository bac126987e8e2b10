"""Activation bytes by the size of a micro-batch, from two dry runs."""

from __future__ import annotations

from functools import cached_property

from smt_ray.planning.activations import BatchShape, DryRun


class ActivationCurve:
    """What a micro-batch of so many tokens needs at most, parameters and gradients apart.

    Measured at one row and at the most rows, in between on the line through both: rows do not
    attend to each other, so that each moment's bytes are a line, and their peak is below it.

    Args:
        run: Of the prepared model.
        row_length: Tokens of a row.
        max_rows: Of the largest micro-batch.
        target_share: Of the positions, those that the head and the loss are computed at.
        packed: Whether rows lie in one sequence.
        training: Whether dropout is active.
        checkpointing: Whether layers are computed once more rather than kept.
    """

    def __init__(
        self,
        run: DryRun,
        *,
        row_length: int,
        max_rows: int,
        target_share: float,
        packed: bool,
        training: bool,
        checkpointing: bool = False,
    ) -> None:
        self._run, self._training, self._checkpointing = run, training, checkpointing
        self._row_length, self._max_rows = row_length, max_rows
        self._target_share, self._packed = target_share, packed

    def num_rows(self, max_tokens: int) -> int:
        """Rows of the longest length in a micro-batch of so many tokens."""
        return min(max(max_tokens // self._row_length, 1), self._max_rows)

    def shape(self, num_rows: int) -> BatchShape:
        """The micro-batch of so many rows."""
        positions = num_rows * (self._row_length - 1)
        num_targets = max(1, round(self._target_share * positions))
        return BatchShape(num_rows, self._row_length, num_targets, self._packed)

    def bytes_at(self, max_tokens: int) -> int:
        """Bytes with micro-batches of at most so many tokens."""
        num_rows = self.num_rows(max_tokens)
        least, most = self._ends
        if self._max_rows == 1:
            return least
        return round(least + (most - least) * (num_rows - 1) / (self._max_rows - 1))

    @cached_property
    def _ends(self) -> tuple[int, int]:
        least = self._measure(1)
        return least, self._measure(self._max_rows) if self._max_rows > 1 else least

    def _measure(self, num_rows: int) -> int:
        return self._run.peak_bytes(
            self.shape(num_rows), training=self._training, checkpointing=self._checkpointing
        )
