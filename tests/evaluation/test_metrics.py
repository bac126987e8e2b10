from __future__ import annotations

import math

import pytest

from smt_ray.documents.run import Reading
from smt_ray.documents.stages import TaskSummary
from smt_ray.errors import UserError
from smt_ray.evaluation.metrics import accuracy, majority_share, summarise, wilson_interval
from tests.evaluation.made import prediction


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


def test_a_summary_counts_rows_in_any_order() -> None:
    predictions = [
        prediction(0, "a", "a"),
        prediction(1, None, "a"),
        prediction(2, "b", "a"),
        prediction(3, "b", "b"),
    ]
    summary = summarise(predictions)
    assert summary == TaskSummary(
        num_rows=4,
        num_correct=2,
        num_unread=1,
        accuracy=0.5,
        interval=wilson_interval(2, 4),
        majority_share=0.75,
    )
    assert summary.interval == pytest.approx((0.15004, 0.84996), abs=1e-5)
    assert summarise(predictions[::-1]) == summary


def test_a_summary_counts_the_corrected_rule_beside_the_published_one() -> None:
    predictions = [
        prediction(0, "A", "C", has_corrected=True, corrected="C"),
        prediction(1, "A", "A", has_corrected=True),
        prediction(2, "B", "D", has_corrected=True, corrected="D"),
    ]
    summary = summarise(predictions)
    assert summary.num_correct == 1
    assert summary.corrected == Reading(
        num_correct=2, num_unread=1, accuracy=2 / 3, interval=wilson_interval(2, 3)
    )


def test_throughput_counts_rows_and_the_tokens_of_prompts_texts_and_candidates() -> None:
    generated = [prediction(i, num_prompt_tokens=10, num_new_tokens=2) for i in range(3)]
    summary = summarise(generated, 4.0)
    assert (summary.seconds, summary.rows_per_second, summary.tokens_per_second) == (4, 0.75, 9)
    scored = [prediction(0, num_prompt_tokens=10, num_candidate_tokens=30)]
    summary = summarise(scored, 2.0)
    assert (summary.seconds, summary.rows_per_second, summary.tokens_per_second) == (2, 0.5, 20)


def test_nothing_cannot_be_summarised() -> None:
    with pytest.raises(UserError, match="at least one row"):
        summarise([])
