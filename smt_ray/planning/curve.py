"""The memory and the FLOPs of a micro-batch by its size, from two dry runs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from smt_ray.planning.activations import BatchShape, DryRun, Needs
from smt_ray.planning.rows import RowStatistics

_MEASURED_ROWS = 4  # more rows take longer and give the same line


@dataclass(frozen=True)
class ActivationCurve:
    """The memory that a micro-batch needs besides parameters and gradients, and its FLOPs.

    It is measured for one row and for a few rows; other sizes lie on the line through both. Rows do
    not attend to each other, so both grow linearly with their number. The settings are those
    of :class:`BatchShape` and :meth:`DryRun.measure`.
    """

    run: DryRun
    rows: RowStatistics
    training: bool
    checkpointing: bool = False

    def bytes_at(self, max_tokens: int) -> int:
        """The bytes of the largest micro-batch under a limit of tokens."""
        one, each = self._line
        more = self.rows.largest(max_tokens) - self.rows.row_length
        return round(one.peak + each[0] * more)

    def flops_of(self, num_tokens: float) -> float:
        """The FLOPs of micro-batches with so many tokens together."""
        one, each = self._line
        return max(one.flops + each[1] * (num_tokens - self.rows.row_length), 0.0)

    @cached_property
    def _line(self) -> tuple[Needs, tuple[float, float]]:
        """What one row needs, and the bytes and the FLOPs of each further token."""
        most = min(max(self.rows.step_tokens // self.rows.row_length, 2), _MEASURED_ROWS)
        one, more = self._measure(1), self._measure(most)
        num_tokens = (most - 1) * self.rows.row_length
        return one, ((more.peak - one.peak) / num_tokens, (more.flops - one.flops) / num_tokens)

    def _measure(self, num_rows: int) -> Needs:
        length = self.rows.row_length
        num_targets = max(1, round(self.rows.target_share * num_rows * length))
        shape = BatchShape(num_rows, length, num_targets, self.run.packed)
        return self.run.measure(shape, training=self.training, checkpointing=self.checkpointing)
