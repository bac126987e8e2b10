"""Claims about paired differences and their intervals."""

from __future__ import annotations

import numpy as np
import pytest

from smt_ray.evaluation.paired import Estimate, accuracies, paired_difference, verdict


def answers(seed: int, share: float, num_rows: int = 400, num_seeds: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).random((num_seeds, num_rows)) < share


def test_the_average_is_over_tasks_not_rows() -> None:
    correct = {"a": np.array([[True, False]]), "b": np.array([[True] * 8])}
    assert accuracies(correct).average.value == 0.75


def test_each_task_has_an_interval_and_their_mean_is_the_average() -> None:
    correct = {"a": answers(0, 0.6), "b": answers(1, 0.3, 50)}
    found = accuracies(correct)
    for task, rows in correct.items():
        assert found.tasks[task].value == pytest.approx(rows.mean())
    assert found.tasks["a"] == accuracies({"a": correct["a"]}).average
    assert found.average.value == pytest.approx(np.mean([e.value for e in found.tasks.values()]))
    widths = {task: estimate.high - estimate.low for task, estimate in found.tasks.items()}
    assert widths["b"] > widths["a"], "fewer rows say less"


def test_an_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    hits = 0
    for seed in range(200):
        found = accuracies({"a": answers(seed, 0.7, 200, 1)}).average
        hits += found.low <= 0.7 <= found.high
    assert 0.91 <= hits / 200 <= 0.99


def test_the_interval_of_one_seed_is_the_binomials() -> None:
    found = accuracies({"a": answers(1, 0.5, 1000, 1)}).average
    width = 2 * 1.96 * (0.25 / 1000) ** 0.5
    assert found.high - found.low == pytest.approx(width, rel=0.1)


def test_a_paired_difference_is_surer_than_the_accuracies_where_rows_agree() -> None:
    worse = {"a": answers(0, 0.6)}
    better = {"a": worse["a"] | answers(1, 0.1)}
    found = paired_difference(better, worse)
    alone = accuracies(better).average
    assert found.value == pytest.approx((better["a"] & ~worse["a"]).mean())
    assert found.high - found.low < (alone.high - alone.low) / 1.5
    assert verdict(found) == "held"
    assert verdict(paired_difference(worse, better)) == "reversed"


def test_equal_ways_are_not_resolved_and_seeds_that_disagree_widen_the_interval() -> None:
    same = {"a": answers(0, 0.6)}
    assert verdict(paired_difference(same, same)) == "not resolved"
    rows = answers(0, 0.5, 400, 1)
    steady = {"a": np.concatenate([rows, rows])}
    wild = {"a": np.concatenate([rows, ~rows & answers(5, 0.9, 400, 1)])}
    widths = [e.high - e.low for e in (accuracies(w).average for w in (steady, wild))]
    assert widths[1] != widths[0]


def test_the_same_answers_have_the_same_interval() -> None:
    correct = {"a": answers(0, 0.6), "b": answers(1, 0.3)}
    assert accuracies(correct) == accuracies(correct)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0.1, 0.2, "held"), (-0.2, -0.1, "reversed"), (-0.1, 0.1, "not resolved"),
     (0.0, 0.0, "not resolved")],
)  # fmt: skip
def test_a_verdict_is_where_the_interval_lies(low: float, high: float, expected: str) -> None:
    assert verdict(Estimate((low + high) / 2, low, high)) == expected
