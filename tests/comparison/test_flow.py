"""A comparison through Ray: shared stages, tables, MLflow's parent and children."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from smt_ray.artifacts.storage import Storage
from smt_ray.comparison.flow import compare
from smt_ray.config.comparison import ComparisonConfig
from smt_ray.config.load import validate_section
from smt_ray.grid import runs as grid
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
def compared(cluster: None, comparison: ComparisonConfig) -> dict[str, Any]:
    return compare(comparison)


def test_cells_hold_what_their_runs_measured(compared: dict[str, Any]) -> None:
    rows = compared["tables"]["rates"]["rows"]
    chosen = compared["learning_rates"]["smt"]["chosen"]
    losses = compared["learning_rates"]["smt"]["validation_loss"]
    assert losses[f"{chosen:g}"] == min(losses.values())
    assert rows["chosen"][""]["learning_rate"] == chosen
    for row in rows.values():
        cell = row[""]
        assert cell["errors"] == []
        assert 0 <= cell["average"]["low"] <= cell["average"]["value"] <= cell["average"]["high"]
        assert cell["by_seed"] == [cell["average"]["value"]]
        assert cell["step_seconds"] > 0
    (claim,) = compared["tables"]["rates"]["claims"]
    values = [rows[row][""]["average"]["value"] for row in ("high", "low")]
    assert claim["difference"]["value"] == pytest.approx(values[0] - values[1])


def test_runs_share_what_they_have_in_common(
    compared: dict[str, Any], comparison: ComparisonConfig
) -> None:
    assert len(compared["runs"]) == 2, "each learning rate's, which are the cells' too"
    storage = Storage(comparison.run["storage"])
    stages = storage.list_folders("stages")
    kinds = [stage.partition("-")[0] for stage in stages]
    assert (kinds.count("tokens"), kinds.count("warmup")) == (1, 1)
    assert kinds.count("training") == 2


def test_a_second_time_nothing_is_run_again(
    compared: dict[str, Any], comparison: ComparisonConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> Any:
        raise AssertionError("a finished run was started")

    monkeypatch.setattr(grid, "_carry_out", refuse)
    again = compare(comparison)
    assert again["tables"] == compared["tables"]


def test_mlflow_shows_the_runs_under_the_comparison(
    compared: dict[str, Any], comparison: ComparisonConfig
) -> None:
    from mlflow import MlflowClient

    from smt_ray.tracking.uris import resolve_tracking_uri

    client = MlflowClient(resolve_tracking_uri(None, comparison.run["storage"]))
    (experiment,) = (e for e in client.search_experiments() if e.name == "smt_ray")
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    parent = runs.pop("mine (comparison)")
    assert len(runs) == 2
    assert {run.data.tags["mlflow.parentRunId"] for run in runs.values()} == {parent.info.run_id}
    value = compared["tables"]["rates"]["rows"]["low"][""]["average"]["value"]
    assert parent.data.metrics["accuracy/rates/low"] == value
    assert compared["tables"]["rates"]["title"] in parent.data.tags["mlflow.note.content"]
    names = {file.path for file in client.list_artifacts(parent.info.run_id)}
    assert {"comparison.md", "comparison.json", "rates.csv", "rates.png", "report.html"} <= names
    assert parent.info.status == "FINISHED"
    folder = Path(comparison.run["storage"]) / "comparisons" / "mine"
    assert (folder / "comparison.md").read_text().startswith("# mine")
    page = (folder / "report.html").read_text()
    assert all(f'href="../../runs/{name}/report.html"' in page for name in compared["runs"])
