"""Claims about the measurements of runs and cells."""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest

from smt_ray.artifacts.runs import RunFolder
from smt_ray.artifacts.storage import Storage
from smt_ray.comparison.measured import measure_cell, measure_run, read_weights
from smt_ray.config.run import RunConfig
from smt_ray.documents.stages import Until
from smt_ray.grid.runs import Outcome
from tests.finished_runs import MODULE, Content, finish_run

Make = Callable[..., RunConfig]


def outcome_of(run: RunConfig, content: Content, until: Until = "evaluation") -> Outcome:
    folder = RunFolder(Storage(run.storage), run.name)
    return Outcome(folder, finish_run(run, until, content))


def test_the_speed_leaves_out_the_first_tenth_of_the_steps(make_config: Make) -> None:
    """Of 20 steps that take 20, 19, ..., 1 seconds, 18 count; their median is 9.5."""
    content = Content(step_seconds=[float(seconds) for seconds in range(20, 0, -1)])
    assert measure_run(outcome_of(make_config(), content)).step_seconds == 9.5


def test_a_run_without_step_times_or_evaluation_has_no_such_measurements(make_config: Make) -> None:
    measured = measure_run(outcome_of(make_config(), Content(step_seconds=()), "training"))
    assert (measured.correct, measured.step_seconds) == ({}, None)
    cell = measure_cell([measured])
    assert (cell.correct, cell.step_seconds) == (None, None)
    assert cell.shares == [{"q_proj": 1.0}]


def test_a_cell_has_the_answers_and_speeds_of_all_its_seeds(make_config: Make) -> None:
    outcomes = [
        outcome_of(
            make_config(f"seed={seed}", f"name=s{seed}", "method=lora"),
            Content(is_correct=partial(operator.eq, seed), step_seconds=[1.0 + seed]),
        )
        for seed in (0, 1)
    ]
    cell = measure_cell([measure_run(outcome) for outcome in outcomes])
    assert cell.correct
    assert np.argwhere(cell.correct["boolq"]).tolist() == [[0, 0], [1, 1]]
    assert cell.step_seconds == [1.0, 2.0]
    assert cell.shares is None, "lora selects no blocks"


def test_eligible_projections_without_a_selected_block_have_a_share_of_zero(
    make_config: Make,
) -> None:
    outcome = outcome_of(make_config(), Content(blocks=[(0, 1), (1, 2)]))
    (weight,) = read_weights(outcome)
    assert (weight.module, weight.chosen, weight.blocks) == (MODULE, 2, 6)
    cell = measure_cell([measure_run(outcome)], ["q_proj", "v_proj"])
    assert cell.shares == [{"q_proj": 1.0, "v_proj": 0.0}]


@pytest.mark.parametrize("missing", [0, 1])
def test_a_cell_is_not_measured_if_one_of_its_runs_is_not(make_config: Make, missing: int) -> None:
    contents = [Content(), Content()]
    contents[missing] = Content(step_seconds=())
    runs = [
        measure_run(outcome_of(make_config(f"seed={i}", f"name=s{i}"), content))
        for i, content in enumerate(contents)
    ]
    assert measure_cell(runs).step_seconds is None
