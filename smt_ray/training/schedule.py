"""Learning rate as a function of the step."""

from __future__ import annotations

import math


def learning_rate(
    step: int, *, peak: float, num_steps: int, num_warmup_steps: int, schedule: str
) -> float:
    """The learning rate of an optimizer step, counted from 0.

    The rate rises linearly over ``num_warmup_steps`` (step 0 has 1/num_warmup_steps of the peak).
    Then it stays (``constant``), or it decays (``linear``, ``cosine``) so that it would be 0 at
    step ``num_steps``.
    """
    if step < num_warmup_steps:
        return peak * (step + 1) / num_warmup_steps
    if schedule == "constant":
        return peak
    progress = (step - num_warmup_steps) / max(1, num_steps - num_warmup_steps)
    if schedule == "cosine":
        return peak * 0.5 * (1 + math.cos(math.pi * progress))
    assert schedule == "linear", schedule
    return peak * (1 - progress)
