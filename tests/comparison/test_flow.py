"""Claims about a comparison through Ray: shared stages, tables, and MLflow's parent run."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from smt_ray.artifacts.storage import Storage
from smt_ray.comparison.flow import compare
from smt_ray.config.comparison import ComparisonConfig
from smt_ray.config.load import validate_section
from smt_ray.documents.comparison import CellResult, ComparisonDocument, Interval
from smt_ray.run.flow import Flow
from tests.runs import ONE_WORKER, QUICK

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> ComparisonConfig:
    run: dict[str, Any] = copy.deepcopy(QUICK)
    del run["name"]
    run["storage"] = str(tmp_path_factory.mktemp("compared"))
    run["resources"] = ONE_WORKER
    run["training"] |= {"max_steps": 6, "validate_every_steps": 6}
    run["evaluation"] |= {"base": False, "base_likelihood": False}
    values = {
        "name": "mine",
        "run": run,
        "learning_rates": {"smt": [1e-3, 5e-3]},
        "tables": {
            "rates": {
                "title": "Learning rates",
                "rows": {
                    "chosen": {},
                    "low": {"training.learning_rate": 1e-3},
                    "high": {"training.learning_rate": 5e-3},
                },
                "claims": [{"better": "high", "worse": "low"}],
            },
            "speed": {"title": "Time", "rows": {"smt": {}}, "columns": "speed"},
        },
    }
    return validate_section(ComparisonConfig, values)


@pytest.fixture(scope="module")
def compared(cluster: None, comparison: ComparisonConfig) -> ComparisonDocument:
    return compare(comparison)


def average(cell: CellResult) -> Interval:
    assert cell.average is not None
    return cell.average


def cells(compared: ComparisonDocument) -> dict[str, CellResult]:
    return {row: cell for row, _, cell in compared.tables["rates"].cells()}


def test_cells_show_the_measurements_of_their_runs(compared: ComparisonDocument) -> None:
    rates = compared.learning_rates["smt"]
    losses = {rate: loss for rate, loss in rates.validation_loss.items() if loss is not None}
    assert len(losses) == 2
    assert losses[f"{rates.chosen:g}"] == min(losses.values())
    assert cells(compared)["chosen"].learning_rate == rates.chosen
    for cell in cells(compared).values():
        assert cell.errors == []
        found = average(cell)
        assert 0 <= found.low <= found.value <= found.high
        assert cell.by_seed == [found.value]
        assert cell.step_seconds
        assert cell.step_seconds > 0
    (claim,) = compared.tables["rates"].claims
    high, low = (average(cells(compared)[row]).value for row in ("high", "low"))
    assert claim.difference
    assert claim.difference.value == pytest.approx(high - low)


def test_runs_share_their_common_stages(
    compared: ComparisonDocument, comparison: ComparisonConfig
) -> None:
    assert len(compared.runs) == 2, "the cells share the runs of the learning rates"
    storage = Storage(comparison.run["storage"])
    stages = storage.list_folders("stages")
    kinds = [stage.partition("-")[0] for stage in stages]
    assert (kinds.count("tokens"), kinds.count("warmup")) == (1, 1)
    assert kinds.count("training") == 2


def test_a_finished_comparison_starts_no_run_again(
    compared: ComparisonDocument, comparison: ComparisonConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> Any:
        raise AssertionError("a finished run was started")

    monkeypatch.setattr(Flow, "run", refuse)
    again = compare(comparison)
    assert again.tables == compared.tables
    assert all(run.reused for run in again.runs.values())


def test_mlflow_shows_the_runs_under_the_comparison(
    compared: ComparisonDocument, comparison: ComparisonConfig
) -> None:
    from mlflow import MlflowClient

    from smt_ray.tracking.uris import resolve_tracking_uri

    client = MlflowClient(resolve_tracking_uri(None, comparison.run["storage"]))
    (experiment,) = (e for e in client.search_experiments() if e.name == "smt_ray")
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    parent = runs.pop("mine (comparison)")
    assert len(runs) == 2
    assert {run.data.tags["mlflow.parentRunId"] for run in runs.values()} == {parent.info.run_id}
    value = average(cells(compared)["low"]).value
    assert parent.data.metrics["accuracy/rates/low"] == value
    assert compared.tables["rates"].title in parent.data.tags["mlflow.note.content"]
    names = {file.path for file in client.list_artifacts(parent.info.run_id)}
    assert {"comparison.md", "comparison.json", "rates.csv", "rates.png", "report.html"} <= names
    assert parent.info.status == "FINISHED"
    folder = Path(comparison.run["storage"]) / "comparisons" / "mine"
    assert (folder / "comparison.md").read_text().startswith("# mine")
    page = (folder / "report.html").read_text()
    assert all(f'href="../../runs/{name}/report.html"' in page for name in compared.runs)
