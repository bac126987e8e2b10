"""Activation bytes by the size of a micro-batch, from two dry runs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from smt_ray.planning.activations import BatchShape, DryRun
from smt_ray.planning.rows import RowStatistics

_MEASURED_ROWS = 4  # more take longer and say no more


@dataclass(frozen=True)
class ActivationCurve:
    """What a micro-batch of so many tokens needs at most, parameters and gradients apart.

    Measured at one row and at a few, elsewhere on the line through both: rows do not attend to each
    other, so that what is alive at a moment is a line, but for the one weight gradient at a time.

    Attributes:
        run: Of the prepared model.
        rows: How long they are, and how many positions have a target.
        packed: Whether rows lie in one sequence.
        training: Whether dropout is active.
        checkpointing: Whether layers are computed once more rather than kept.
    """

    run: DryRun
    rows: RowStatistics
    packed: bool
    training: bool
    checkpointing: bool = False

    def bytes_at(self, max_tokens: int) -> int:
        """Bytes with micro-batches of at most so many tokens."""
        least, each = self._line
        return round(least + each * (self.rows.largest(max_tokens) - self.rows.row_length))

    @cached_property
    def _line(self) -> tuple[int, float]:
        """Bytes of one row, and of each further token."""
        most = min(max(self.rows.step_tokens // self.rows.row_length, 2), _MEASURED_ROWS)
        least = self._measure(1)
        return least, (self._measure(most) - least) / ((most - 1) * self.rows.row_length)

    def _measure(self, num_rows: int) -> int:
        length = self.rows.row_length
        num_targets = max(1, round(self.rows.target_share * num_rows * length))
        shape = BatchShape(num_rows, length, num_targets, self.packed)
        return self.run.peak_bytes(shape, training=self.training, checkpointing=self.checkpointing)
