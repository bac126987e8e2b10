"""Claims about the learning rate."""

from __future__ import annotations

import math
from functools import partial

import pytest

from smt_ray.training.schedule import learning_rate

rate = partial(learning_rate, peak=2.0, num_steps=10)


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
def test_the_rate_rises_linearly_to_the_peak(schedule: str) -> None:
    rates = [rate(step, num_warmup_steps=4, schedule=schedule) for step in range(5)]
    assert rates == [0.5, 1.0, 1.5, 2.0, 2.0]


def test_linear_decays_linearly_and_would_be_zero_after_the_last_step() -> None:
    rates = [rate(step, num_warmup_steps=0, schedule="linear") for step in range(11)]
    assert rates == pytest.approx([2.0 - 0.2 * step for step in range(11)])


def test_cosine_is_half_way_in_the_middle_and_zero_at_the_end() -> None:
    cosine = partial(rate, num_warmup_steps=2, schedule="cosine")
    assert [cosine(2), cosine(6), cosine(10)] == pytest.approx([2.0, 1.0, 0.0], abs=1e-15)
    assert cosine(4) == pytest.approx(1 + math.cos(math.pi / 4))


def test_constant_stays_at_the_peak() -> None:
    assert {rate(step, num_warmup_steps=0, schedule="constant") for step in range(10)} == {2.0}


def test_more_warmup_steps_than_steps_do_not_divide_by_zero() -> None:
    assert rate(9, num_warmup_steps=10, schedule="linear") == 2.0
    assert rate(10, num_warmup_steps=10, schedule="cosine") == 2.0
