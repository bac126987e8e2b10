"""The memory of activations by the size of a micro-batch, from two dry runs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from smt_ray.planning.activations import BatchShape, DryRun
from smt_ray.planning.rows import RowStatistics

_MEASURED_ROWS = 4  # more rows take longer and give the same line


@dataclass(frozen=True)
class ActivationCurve:
    """The memory that a micro-batch needs besides parameters and gradients.

    It is measured for one row and for a few rows; other sizes lie on the line through both. Rows do
    not attend to each other, so the memory grows linearly with their number. The settings are those
    of :class:`BatchShape` and :meth:`DryRun.peak_bytes`.
    """

    run: DryRun
    rows: RowStatistics
    training: bool
    checkpointing: bool = False

    def bytes_at(self, max_tokens: int) -> int:
        """The bytes of the largest micro-batch under a limit of tokens."""
        least, each = self._line
        return round(least + each * (self.rows.largest(max_tokens) - self.rows.row_length))

    @cached_property
    def _line(self) -> tuple[int, float]:
        """The bytes of one row, and of each further token."""
        most = min(max(self.rows.step_tokens // self.rows.row_length, 2), _MEASURED_ROWS)
        least = self._measure(1)
        return least, (self._measure(most) - least) / ((most - 1) * self.rows.row_length)

    def _measure(self, num_rows: int) -> int:
        length = self.rows.row_length
        num_targets = max(1, round(self.rows.target_share * num_rows * length))
        shape = BatchShape(num_rows, length, num_targets, self.run.packed)
        return self.run.peak_bytes(shape, training=self.training, checkpointing=self.checkpointing)
