"""What users should know about the ranks of a training, as text."""

from __future__ import annotations

FEWEST_ROWS = 8
"""The number of rows of a step and a rank below which ranks are likely to wait for each other."""


def rank_warning(batch_size: int, num_ranks: int) -> str | None:
    """One sentence if a step has too few rows to keep all ranks at work; None otherwise."""
    if num_ranks == 1 or batch_size >= FEWEST_ROWS * num_ranks:
        return None
    share = f"{batch_size / num_ranks:.2g} rows of each step"
    idle = num_ranks - batch_size
    waits = f"{idle} of them have nothing to do" if idle > 0 else "they wait for the slowest"
    return (
        f"each of {num_ranks} ranks gets {share} (training.batch_size {batch_size}), so {waits};"
        f" fewer ranks (resources.num_workers={max(1, batch_size // FEWEST_ROWS)}) take as long,"
        " and larger batches use all of them"
    )
