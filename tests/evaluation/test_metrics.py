from __future__ import annotations

import math

import pytest

from smt_ray.evaluation.metrics import accuracy, majority_share, throughput, wilson_interval


@pytest.mark.parametrize(
    ("num_correct", "num_rows", "low", "high"),
    [
        # The table of Newcombe (1998), "Two-sided confidence intervals for the single proportion".
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_interval_equals_published_values(
    num_correct: int, num_rows: int, low: float, high: float
) -> None:
    assert wilson_interval(num_correct, num_rows) == pytest.approx((low, high), abs=5e-5)


def test_wilson_bounds_solve_the_score_equation() -> None:
    z, n, p = 1.5, 40, 13 / 40
    for bound in wilson_interval(13, n, z):
        assert (p - bound) ** 2 == pytest.approx(z * z * bound * (1 - bound) / n)


def test_wilson_interval_stays_within_zero_and_one() -> None:
    assert wilson_interval(7, 7)[1] == 1.0
    assert wilson_interval(0, 7)[0] == 0.0
    assert wilson_interval(0, 0) == (0.0, 1.0)


def test_majority_share_is_the_accuracy_of_the_most_frequent_answer() -> None:
    assert majority_share(["a", "b", "a", "c"]) == 0.5
    assert majority_share(["1.0"]) == 1.0
    assert math.isnan(majority_share([]))


def test_accuracy_is_a_share() -> None:
    assert accuracy(3, 4) == 0.75
    assert math.isnan(accuracy(0, 0))


def test_throughput_counts_rows_and_the_tokens_of_prompts_texts_and_candidates() -> None:
    generated = [{"num_prompt_tokens": 10, "num_new_tokens": 2}] * 3
    assert throughput(generated, 4.0) == {
        "seconds": 4.0, "rows_per_second": 0.75, "tokens_per_second": 9.0
    }  # fmt: skip
    scored = [{"num_prompt_tokens": 10, "num_candidate_tokens": 30}]
    assert throughput(scored, 2.0) == {
        "seconds": 2.0, "rows_per_second": 0.5, "tokens_per_second": 20.0
    }  # fmt: skip
