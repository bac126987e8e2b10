"""Claims about accuracies, paired differences and their intervals."""

from __future__ import annotations

import numpy as np
import pytest

from smt_ray.comparison.statistics import (
    accuracies,
    mean_over_seeds,
    paired_difference,
    verdict,
)
from smt_ray.documents.comparison import Interval
from smt_ray.evaluation.metrics import wilson_interval


def draw_rows(seed: int, share: float, number: int) -> np.ndarray:
    return np.random.default_rng(seed).permutation(number)[: int(share * number)]


def answers(seed: int, share: float, num_rows: int = 400, num_seeds: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).random((num_seeds, num_rows)) < share


def numbers(found: Interval) -> tuple[float, float, float]:
    return found.value, found.low, found.high


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


def test_fewer_rows_have_a_wider_interval() -> None:
    found = accuracies({"a": answers(0, 0.5, 400, 1), "b": answers(1, 0.5, 50, 1)})
    widths = {task: estimate.high - estimate.low for task, estimate in found.tasks.items()}
    assert widths["b"] > 2 * widths["a"]


def test_an_interval_of_one_seed_covers_the_truth_in_about_95_percent_of_cases() -> None:
    hits = 0
    for seed in range(200):
        found = accuracies({"a": answers(seed, 0.7, 200, 1)}).average
        hits += found.low <= 0.7 <= found.high
    assert 0.91 <= hits / 200 <= 0.99


@pytest.mark.parametrize("num_seeds", [3, 5])
@pytest.mark.parametrize("spread", [0.0, 0.02, 0.1])
def test_intervals_of_several_seeds_cover_the_truth_in_about_95_percent_of_cases(
    num_seeds: int, spread: float
) -> None:
    """The range of three seeds alone would cover the truth in 75% of cases only."""
    draw = np.random.default_rng(0)

    def trained() -> np.ndarray:
        shares = 0.5 + spread * draw.standard_normal((num_seeds, 1))
        return draw.random((num_seeds, 200)) < shares

    wrong, missed, cases = 0, 0, 1000
    for _ in range(cases):
        one, other = {"a": trained()}, {"a": trained()}
        wrong += verdict(paired_difference(one, other)) != "not resolved"
        found = accuracies(one).average
        missed += not found.low <= 0.5 <= found.high
    assert wrong / cases < 0.07
    assert missed / cases < 0.08


def test_the_interval_of_one_seed_and_one_task_is_wilsons() -> None:
    correct = answers(1, 0.5, 1000, 1)
    found = accuracies({"a": correct}).average
    expected = wilson_interval(int(correct.sum()), 1000)
    assert (found.low, found.high) == pytest.approx(expected, abs=1e-4)


def test_the_interval_of_correct_answers_only_ends_at_one() -> None:
    found = accuracies({"a": np.ones((3, 50), dtype=bool)}).average
    assert numbers(found) == (1.0, pytest.approx(wilson_interval(50, 50)[0]), 1.0)


def test_the_interval_of_equal_answers_is_as_wide_as_wilsons_for_a_share_of_zero() -> None:
    right = {"a": np.ones((3, 40), dtype=bool), "b": np.ones((3, 10), dtype=bool)}
    hidden = 1 - wilson_interval(50, 50)[0]
    assert numbers(paired_difference(right, right)) == pytest.approx((0.0, -hidden, hidden))
    wrong = {task: ~rows for task, rows in right.items()}
    assert numbers(paired_difference(right, wrong)) == pytest.approx((1.0, 1 - hidden, 1.0))


def test_three_seeds_make_a_t_interval_of_two_degrees_of_freedom() -> None:
    """Its half width is 4.303 standard errors; the rows add no variance here."""
    rows = np.zeros((3, 100_000), dtype=bool)
    for seed, share in enumerate((0.4, 0.5, 0.6)):
        rows[seed, draw_rows(seed, share, rows.shape[1])] = True
    found = paired_difference({"a": rows}, {"a": np.zeros_like(rows)})
    assert (found.high - found.value) / (0.1 / 3**0.5) == pytest.approx(4.303, rel=0.01)
    alone = mean_over_seeds([0.4, 0.5, 0.6])
    reach = 4.3027 * 0.1 / 3**0.5
    assert alone
    assert numbers(alone) == pytest.approx((0.5, 0.5 - reach, 0.5 + reach), rel=1e-4)
    assert mean_over_seeds([0.5]) is None


def test_a_paired_difference_has_a_narrower_interval_than_accuracies_if_rows_agree() -> None:
    worse = {"a": answers(0, 0.6)}
    better = {"a": worse["a"] | answers(1, 0.1)}
    found = paired_difference(better, worse)
    alone = accuracies(better).average
    assert found.value == pytest.approx((better["a"] & ~worse["a"]).mean())
    assert found.high - found.low < (alone.high - alone.low) / 1.5
    assert verdict(found) == "held"
    assert verdict(paired_difference(worse, better)) == "reversed"


def test_equal_answers_are_not_resolved_and_different_seeds_widen_the_interval() -> None:
    same = {"a": answers(0, 0.6)}
    assert verdict(paired_difference(same, same)) == "not resolved"
    steady = {"a": np.concatenate([answers(seed, 0.5, 400, 1) for seed in range(3)])}
    wild = {"a": np.concatenate([answers(s, p, 400, 1) for s, p in enumerate((0.3, 0.5, 0.7))])}
    widths = [e.high - e.low for e in (accuracies(w).average for w in (steady, wild))]
    assert widths[1] > 2 * widths[0]


def test_the_same_answers_have_the_same_interval() -> None:
    correct = {"a": answers(0, 0.6), "b": answers(1, 0.3)}
    assert accuracies(correct) == accuracies(correct)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0.1, 0.2, "held"), (-0.2, -0.1, "reversed"), (-0.1, 0.1, "not resolved"),
     (0.0, 0.0, "not resolved")],
)  # fmt: skip
def test_a_verdict_follows_from_the_ends_of_the_interval(
    low: float, high: float, expected: str
) -> None:
    assert verdict(Interval(value=(low + high) / 2, low=low, high=high)) == expected
