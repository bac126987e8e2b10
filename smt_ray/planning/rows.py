"""How large micro-batches become: by the run's rows where they can be read, else by its limits."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from smt_ray.data.batches import PADDED, StepPlan, step_micro_batches
from smt_ray.data.encoding import EncodedRows

ASSUMED_TARGET_SHARE = 0.5
"""Of the positions, those with a target, where prompts are not trained on and no rows are known."""


@dataclass(frozen=True)
class RowStatistics:
    """What decides the size of a rank's micro-batches.

    Attributes:
        row_length: Tokens that the longest row feeds to the model.
        step_tokens: Tokens of a whole step's rows on one rank: no micro-batch is larger.
        target_share: Of a micro-batch's positions, those with a target; the highest.
        source: Where this is known from, in words.
    """

    row_length: int
    step_tokens: int
    target_share: float
    source: str

    def largest(self, max_tokens: int) -> int:
        """Tokens of the largest micro-batch under a limit; a longer row stands alone."""
        return max(min(max_tokens, self.step_tokens), self.row_length)


def assumed_rows(
    max_length: int, batch_size: int, num_ranks: int, *, mode: str, train_on_inputs: bool
) -> RowStatistics:
    """All rows as long as they may be.

    Args:
        max_length: Tokens a row may have.
        batch_size: Rows of a step over all ranks.
        num_ranks: Ranks that share them.
        mode: Of batching. A row's last token is only a target: a pack leaves it out.
        train_on_inputs: Whether every token is a target.
    """
    length = max(max_length - (mode != PADDED), 1)
    share = 1.0 if train_on_inputs else ASSUMED_TARGET_SHARE
    steps = -(-batch_size // num_ranks) * length
    return RowStatistics(length, steps, share, "assumed, not read")


def seen_rows(
    encoded: EncodedRows,
    plan: StepPlan,
    steps: Iterable[int],
    num_ranks: int,
    *,
    mode: str,
    max_tokens: int,
    train_on_inputs: bool,
) -> RowStatistics:
    """The statistics of some steps' real micro-batches, which no rank is spared.

    Args:
        encoded: The tokenised rows.
        plan: Which of them make a step.
        steps: Those that are looked at.
        num_ranks: Ranks that share a step.
        mode: Of batching.
        max_tokens: Of a micro-batch.
        train_on_inputs: Whether prompt tokens are targets.
    """
    row_length, step_tokens, share = 1, 1, 0.0
    for step in steps:
        rows = plan.rows(step)
        row_length = max(row_length, int(encoded.lengths[rows].max()) - (mode != PADDED))
        for rank in range(num_ranks):
            batches = step_micro_batches(
                encoded,
                rows,
                mode=mode,
                max_tokens=max_tokens,
                train_on_inputs=train_on_inputs,
                rank=rank,
                num_ranks=num_ranks,
            )
            sizes = [batch.input_ids.numel() for batch in batches]
            step_tokens = max(step_tokens, sum(sizes))
            shares = [len(b.positions) / size for b, size in zip(batches, sizes, strict=True)]
            share = max(share, *shares)
    return RowStatistics(row_length, step_tokens, min(share, 1.0), "as in the run's rows")
