"""Claims about the pictures of a run: what they show, and that they are written."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest

from smt_ray.documents.module_names import parse_module_name
from smt_ray.reporting.charts.run import (
    curves_figure,
    loss_curves,
    running_mean,
    selection_figure,
    selection_grid,
)
from smt_ray.tracking.records import make_record

PNG = b"\x89PNG"


def _llama(num_layers: int) -> dict[str, int]:
    """The blocks of a Llama with grouped queries: module name -> their number."""
    sizes = {"q_proj": 16, "k_proj": 4, "v_proj": 4}
    return {
        f"model.layers.{layer}.self_attn.{name}": size
        for layer in range(num_layers)
        for name, size in sizes.items()
    }


def test_the_grid_counts_every_chosen_block_once() -> None:
    totals = {**_llama(30), "lm_head": 9}
    counts = {name: index % (total + 1) for index, (name, total) in enumerate(totals.items())}
    grid = selection_grid(counts, totals)
    assert grid.layers == (*range(30), None)
    assert grid.projections == ("q_proj", "k_proj", "v_proj", "lm_head")
    for name, count in counts.items():
        assert grid.counts[parse_module_name(name)] == count
    assert sum(map(grid.num_chosen, grid.projections)) == sum(counts.values())
    assert sum(map(grid.num_total, grid.projections)) == sum(totals.values())


def test_a_cell_without_chosen_blocks_differs_from_a_cell_without_a_module() -> None:
    grid = selection_grid({"l.0.q_proj": 2}, {"l.0.q_proj": 8, "l.1.q_proj": 8, "l.1.v_proj": 4})
    assert grid.share(0, "q_proj") == 0.25
    assert grid.share(1, "q_proj") == 0
    assert grid.share(0, "v_proj") is None


def test_experts_of_a_layer_are_added_up() -> None:
    totals = {f"model.layers.0.mlp.experts.{expert}.up_proj": 10 for expert in range(4)}
    grid = selection_grid(dict.fromkeys(totals, 3), totals)
    assert (grid.counts[0, "up_proj"], grid.totals[0, "up_proj"]) == (12, 40)


def test_chosen_blocks_of_an_unknown_module_are_an_error() -> None:
    with pytest.raises(AssertionError, match="every module with chosen blocks"):
        selection_grid({"l.0.q_proj": 1}, {"l.0.v_proj": 8})


@pytest.mark.parametrize("num_layers", [4, 80])
def test_the_selection_figure_is_written(tmp_path: Path, num_layers: int) -> None:
    totals = _llama(num_layers)
    counts = {name: 1 for name in totals if "v_proj" in name}
    path = tmp_path / "new" / "selection.png"
    selection_figure(counts, totals, path, "a title")
    assert path.read_bytes().startswith(PNG)


def test_an_empty_selection_can_be_drawn(tmp_path: Path) -> None:
    path = tmp_path / "selection.png"
    selection_figure({}, _llama(1), path, "")
    assert path.read_bytes().startswith(PNG)


def test_a_repeated_step_counts_with_its_last_value_and_nan_is_left_out() -> None:
    records = [
        make_record(1, {"train/loss": 3.0}, time_ms=0),
        make_record(2, {"train/loss": 9.0}, time_ms=0),
        make_record(2, {"validation/loss": 5.0}, time_ms=0),
        make_record(2, {"train/loss": 2.0}, time_ms=0),
        make_record(3, {"train/loss": math.nan}, time_ms=0),
    ]
    assert loss_curves(records, "train/loss") == ([1, 2], [3.0, 2.0])
    assert loss_curves(records, "validation/loss") == ([2], [5.0])
    assert loss_curves(records, "nothing") == ([], [])


def test_the_running_mean_does_not_lag_behind_a_straight_line() -> None:
    line = [float(value) for value in range(20)]
    assert running_mean(line, 5) == line
    assert running_mean([0.0, 3.0, 0.0, 3.0], 3) == [0.0, 1.0, 2.0, 3.0]
    assert running_mean(line[::-1], 1) == line[::-1]
    assert running_mean([], 5) == []


@pytest.mark.parametrize("num_steps", [0, 3, 200])
def test_the_curves_figure_is_written(tmp_path: Path, num_steps: int) -> None:
    records = [make_record(i, {"train/loss": 1 / (i + 1)}, time_ms=0) for i in range(num_steps)]
    records += [
        make_record(i, {"validation/loss": 1.0}, time_ms=0) for i in range(0, num_steps, 50)
    ]
    path = tmp_path / "curves.png"
    curves_figure(records, path, "")
    assert path.read_bytes().startswith(PNG)


def test_importing_reporting_loads_no_library_that_draws() -> None:
    code = (
        "import sys, smt_ray.reporting.charts.run, smt_ray.reporting.pages.comparison\n"
        "import smt_ray.reporting.pages.search, smt_ray.reporting.text.run\n"
        "assert not {'matplotlib', 'jinja2', 'rich', 'numpy', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
