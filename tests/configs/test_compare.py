"""Claims about configs/compare: the files load, and train what the paper's tables say."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest

from smt_ray.config.comparison import CellRuns, ComparisonConfig, load_comparison
from smt_ray.config.load import load_config
from smt_ray.config.run import RunConfig
from smt_ray.documents.probe import Probe
from smt_ray.methods.blocks import check_blocks
from smt_ray.methods.lora import LoraSettings
from smt_ray.methods.lora_targets import find_targets
from smt_ray.models.inspect import count_parameters
from smt_ray.probe.probe import probe_skeleton
from smt_ray.smt.linears import linear_shapes
from tests.configs.recipes import ROOT
from tests.configs.test_paper_counts import ARCHITECTURES, skeleton

FOLDER = ROOT / "configs" / "compare"
LLAMA_7B = FOLDER / "llama_7b.yaml"


@cache
def load(path: Path) -> ComparisonConfig:
    inline = ["run.model.path=null", f"run.model.architecture={ARCHITECTURES['llama_7b']}"]
    return load_comparison(path, inline if path == LLAMA_7B else [])


def cells(table: str) -> dict[tuple[str, str], RunConfig]:
    """The run of each cell of a table of LLaMA-7B, by row and column."""
    found: list[CellRuns] = [cell for cell in load(LLAMA_7B).cell_runs({}) if cell.table == table]
    return {(cell.row, cell.column): cell.runs[0] for cell in found}


def percent_of_base(run: RunConfig) -> float:
    """The trained parameters in percent of the base model's, from the run's own checks."""
    model = skeleton("llama_7b")
    num_base = count_parameters(model)
    if run.has_selection:
        blocks = check_blocks(run, model, probe_skeleton(model))
        chosen = sum(ranking.num_blocks for ranking in blocks.rankings)
        return 100 * chosen * blocks.block_size**2 / num_base
    settings = LoraSettings.check(run, lambda: model, Probe(), None)
    targets = linear_shapes(find_targets(model, settings.target_modules))
    each = sum(settings.rank * (o + i) + settings.use_dora * o for o, i in targets.values())
    return 100 * each / num_base


COMPARISONS = sorted(path for path in FOLDER.glob("*.yaml") if not path.stem.endswith("_pilot"))


@pytest.mark.parametrize("path", COMPARISONS, ids=lambda path: path.stem)
def test_a_comparison_has_every_method(path: Path) -> None:
    runs = [run for cell in load(path).cell_runs({}) for run in cell.runs]
    assert {run.method for run in runs} == {"smt", "lora", "dora", "sift", "full"}


def test_the_budgets_of_table_3_are_those_of_the_paper() -> None:
    """A rank of LoRA on five projections is 0.026%, so a budget is met within half of that."""
    budgets = {}
    for (row, column), run in cells("budgets").items():
        budget = float(column.removesuffix("%"))
        budgets.setdefault(row, []).append(budget)
        tolerance = 0.0005 if row in ("smt", "sift") else 0.014
        assert percent_of_base(run) == pytest.approx(budget, abs=tolerance), (row, column)
    expected = [0.43, 0.84, 1.26, 2.5, 3.73, 4.91]
    assert budgets == dict.fromkeys(("lora", "dora", "sift", "smt"), expected)


def test_tables_4_and_6_have_one_budget_on_other_modules() -> None:
    found: dict[str, Any] = {}
    for table in ("attention_mlp", "projections"):
        for (row, _), run in cells(table).items():
            assert percent_of_base(run) == pytest.approx(0.84, abs=0.001)
            blocks = check_blocks(run, skeleton("llama_7b"), Probe())
            found[row] = [
                (sorted({name.rpartition(".")[2] for name in ranking.modules}), ranking.num_blocks)
                for ranking in blocks.rankings
            ]
    attention, mlp = ["k_proj", "q_proj", "v_proj"], ["down_proj", "gate_proj", "up_proj"]
    assert found == {
        "MLP": [(mlp, 864)],
        "half each": [(attention, 432), (mlp, 432)],
        "three quarters attention": [(attention, 648), (mlp, 216)],
        "attention": [(attention, 864)],
        "K": [(["k_proj"], 864)],
        "Q": [(["q_proj"], 864)],
        "V": [(["v_proj"], 864)],
        "QKV": [(attention, 864)],
    }


def test_the_settings_of_the_published_code_select_863_blocks_after_100_training_steps() -> None:
    overrides = ["model.path=null", f"model.architecture={ARCHITECTURES['llama_7b']}"]
    config = load_config(ROOT / "configs" / "llama_7b_commonsense_published.yaml", overrides)
    (ranking,) = check_blocks(config, skeleton("llama_7b"), Probe()).rankings
    assert (ranking.num_blocks, config.first_step) == (863, 100)


def test_the_pilot_asks_for_nothing_that_a_comparison_may_ask_for() -> None:
    for cell in load(FOLDER / "learning_pilot.yaml").cell_runs({}):
        for run in cell.runs:
            (task,) = run.evaluation.tasks
            assert str(task).endswith("_pilot")
            assert run.data.train == run.data.validation == [f"builtin:{task}"]
