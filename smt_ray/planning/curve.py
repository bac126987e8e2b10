"""Activation bytes by the size of a micro-batch, from two dry runs."""

from __future__ import annotations

from functools import cached_property

from smt_ray.planning.activations import BatchShape, DryRun


_MEASURED_ROWS = 4  # each row of a pack has its own attention: many of them take long


class ActivationCurve:
    """What a micro-batch of so many tokens needs at most, parameters and gradients apart.

    Measured at one row and at a few, elsewhere on the line through both: rows do not attend to each
    other, so that what is alive at a moment is a line, but for the one weight gradient at a time.

    Args:
        run: Of the prepared model.
        row_length: Tokens that a row feeds to the model.
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
        num_targets = max(1, round(self._target_share * num_rows * self._row_length))
        return BatchShape(num_rows, self._row_length, num_targets, self._packed)

    def bytes_at(self, max_tokens: int) -> int:
        """Bytes with micro-batches of at most so many tokens."""
        least, each = self._line
        return round(least + each * (self.num_rows(max_tokens) - 1))

    @cached_property
    def _line(self) -> tuple[int, float]:
        """Bytes of one row, and of each further one."""
        least, rows = self._measure(1), min(self._max_rows, _MEASURED_ROWS)
        return least, (self._measure(rows) - least) / (rows - 1) if rows > 1 else 0.0

    def _measure(self, num_rows: int) -> int:
        return self._run.peak_bytes(
            self.shape(num_rows), training=self._training, checkpointing=self._checkpointing
        )
