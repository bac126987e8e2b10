"""Claims about a comparison's page and the artifacts that it is made from."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from smt_ray.artifacts.runs import RunFolder
from smt_ray.artifacts.storage import Storage
from smt_ray.cli.reports import write_report_of
from smt_ray.comparison.flow import final_metrics
from smt_ray.comparison.record import write_comparison
from smt_ray.comparison.report import read_contents
from smt_ray.comparison.results import Tuning, collect_results
from smt_ray.config.comparison import ComparisonConfig, load_comparison
from smt_ray.config.load import validate_section
from smt_ray.errors import UserError
from smt_ray.grid.runs import Outcome
from smt_ray.smt.selection import ModuleSelection, Selection
from smt_ray.tracking.records import encode_record, make_record
from tests.runs import QUICK

MODULE = "model.layers.0.self_attn.q_proj"
ROWS: dict[str, dict[str, Any]] = {
    "smt": {},
    "random": {"selection.score": "random"},
    "lora": {"method": "lora"},
}


@pytest.fixture
def config(tmp_path: Path) -> ComparisonConfig:
    values = {
        "name": "mine",
        "seeds": [0, 1],
        "run": {**copy.deepcopy(QUICK), "storage": str(tmp_path / "storage")},
        "tables": {
            "methods": {
                "title": "Methods",
                "rows": ROWS,
                "claims": [{"better": "smt", "worse": "lora"}],
            },
            "lora": {"title": "LoRA alone", "rows": {"lora": ROWS["lora"]}},
        },
    }
    return validate_section(ComparisonConfig, values)


def finish(storage: Storage, run: Any, place: int) -> Outcome:
    """A run that looks finished, its artifacts made by hand."""
    folder = RunFolder(storage, run.name)
    kinds = ["training", "evaluation of tuned"] + ["selection"] * (run.method == "smt")
    for kind in kinds:
        name = f"{kind.split()[0]}-{place}"
        folder.add_stage(kind, name, seconds=1.0, reused=False)
    if run.method == "smt":
        blocks = torch.tensor([[0, place % 3]], dtype=torch.int32)
        selection = Selection(
            block_size=4, modules={MODULE: ModuleSelection((8, 12), blocks, torch.ones(1))},
            num_base_parameters=960, num_requested=1, score="l2", scope="global", margin=0.1,
        )  # fmt: skip
        selection.save(Path(storage.uri(f"stages/selection-{place}/selection.safetensors")))
    record = make_record(1, {"train/loss": 1.0, "train/step_seconds": 0.5})
    storage.write_bytes(f"stages/training-{place}/metrics.jsonl", encode_record(record).encode())
    answers = [
        {"index": i, "prompt": f"{i}?", "output": "2", "extracted": "2", "expected": str(i),
         "correct": i == place % 2}
        for i in range(4)
    ]  # fmt: skip
    lines = "".join(json.dumps(answer) + "\n" for answer in answers)
    storage.write_bytes(f"stages/evaluation-{place}/generate/sums.jsonl", lines.encode())
    metrics = {
        "name": run.name,
        "method": run.method,
        "seconds": 3.0,
        "stages": folder.manifest()["stages"],
        "tasks": {"sums": {"num_rows": 4, "tuned": {"accuracy": 0.25}}},
    }
    storage.write_json(folder.path("metrics.json"), metrics)
    storage.write_bytes(folder.path("report.html"), b"")
    folder.update(status="FINISHED", config=run.model_dump(mode="json"), tags={}, datasets=[])
    return Outcome(folder, metrics)


@pytest.fixture
def outcomes(config: ComparisonConfig) -> dict[str, Outcome]:
    """Every run is finished but random's of the second seed."""
    storage = Storage(config.run["storage"])
    runs = {run.name: run for *_, runs in config.cell_runs({}) for run in runs}
    found = {name: finish(storage, run, i) for i, (name, run) in enumerate(runs.items())}
    failed = config.make_run(ROWS["random"], 1).name
    RunFolder(storage, failed).update(stages={}, status="FAILED")
    return found | {failed: Outcome(RunFolder(storage, failed), {}, error="out of memory")}


@pytest.fixture
def written(config: ComparisonConfig, outcomes: dict[str, Outcome]) -> list[str]:
    """The comparison's files."""
    results = collect_results(
        config, Tuning({}, {}, {}), list(config.cell_runs({})), outcomes, started_ms=0
    )
    return write_comparison(Storage(config.run["storage"]), config, results)


def test_the_contents_are_those_of_the_runs(config: ComparisonConfig, written: list[str]) -> None:
    contents = read_contents(Storage(config.run["storage"]), "mine")
    reference = config.make_run(ROWS["smt"], 0).name
    assert contents.reference is not None
    assert contents.reference.name == reference
    assert contents.reference.weights[0].blocks == [(0, 0)]
    assert list(contents.records) == ["smt", "lora"]
    assert contents.pages[reference] == f"../../runs/{reference}/report.html"
    assert contents.config_text.startswith("name: mine")
    assert not contents.missing
    assert not any(contents.selections.values()), "random failed, so no two chose differently"


def test_tables_whose_cells_chose_differently_show_what_each_chose(
    config: ComparisonConfig, outcomes: dict[str, Outcome]
) -> None:
    storage = Storage(config.run["storage"])
    second = config.make_run(ROWS["random"], 1)
    outcomes[second.name] = finish(storage, second, 9)
    results = collect_results(config, Tuning({}, {}, {}), list(config.cell_runs({})), outcomes, 0)
    write_comparison(storage, config, results)
    selections = read_contents(storage, "mine").selections
    blocks = {row: weights[0].blocks for row, weights in selections["methods"].items()}
    assert blocks == {"smt": [(0, 0)], "random": [(0, 2)]}
    assert not selections["lora"]


def test_every_run_stands_with_what_it_sets_and_what_became_of_it(
    config: ComparisonConfig, written: list[str]
) -> None:
    storage = Storage(config.run["storage"])
    results = storage.read_json("comparisons/mine/comparison.json")
    assert len(results["runs"]) == 6, "lora's are those of both tables"
    of_random = [
        run for run in results["runs"].values() if run["sets"] == {"selection.score": "random"}
    ]
    assert [run["error"] for run in of_random] == ["", "out of memory"]
    assert [run["accuracy"] for run in of_random] == [0.25, None]
    cell = results["tables"]["lora"]["rows"]["lora"][""]
    low, high = cell["task_intervals"]["sums"]
    assert low <= cell["tasks"]["sums"] <= high
    assert (low, high) == (cell["average"]["low"], cell["average"]["high"])


def test_the_page_is_written_with_the_comparison_and_anew_by_its_name(
    config: ComparisonConfig, written: list[str]
) -> None:
    root = config.run["storage"]
    assert "comparisons/mine/report.html" in written
    page = Path(root) / "comparisons" / "mine" / "report.html"
    first = page.read_text()
    for part in ("out of memory", "smt above lora", "LoRA alone", 'id="selection"', 'id="wrong"'):
        assert part in first
    page.unlink()
    assert write_report_of(root, "mine") == str(page)
    assert page.read_text() == first


def test_the_configuration_is_kept_and_can_be_carried_out_again(
    config: ComparisonConfig, written: list[str]
) -> None:
    assert "comparisons/mine/comparison.yaml" in written
    place = Path(config.run["storage"]) / "comparisons" / "mine" / "comparison.yaml"
    assert load_comparison(place, []) == config


def test_an_artifact_that_is_gone_is_named_and_the_rest_is_shown(
    config: ComparisonConfig, written: list[str]
) -> None:
    root = config.run["storage"]
    gone = Path(root) / "stages" / "training-0" / "metrics.jsonl"
    gone.unlink()
    page = Path(write_report_of(root, "mine")).read_text()
    assert f"Gone, and so not shown: {gone}" in page
    assert "smt above lora" in page


def test_a_page_that_cannot_be_written_is_told_of_and_not_among_the_files(
    config: ComparisonConfig,
    outcomes: dict[str, Outcome],
    capsys: pytest.CaptureFixture[str],
) -> None:
    storage = Storage(config.run["storage"])
    place = Path(storage.uri("stages/selection-0/selection.safetensors"))
    place.write_bytes(place.read_bytes()[:20])
    results = collect_results(config, Tuning({}, {}, {}), list(config.cell_runs({})), outcomes, 0)
    files = write_comparison(storage, config, results)
    assert "comparisons/mine/comparison.md" in files
    assert "comparisons/mine/report.html" not in files
    assert "WARNING report: could not be written" in capsys.readouterr().err


def test_truncated_results_are_refused(config: ComparisonConfig, written: list[str]) -> None:
    root = config.run["storage"]
    place = Path(root) / "comparisons" / "mine" / "comparison.json"
    place.write_text(place.read_text()[:40])
    with pytest.raises(UserError, match="cannot be read"):
        write_report_of(root, "mine")


def test_a_name_that_nothing_bears_is_refused_with_the_names_there_are(
    config: ComparisonConfig, written: list[str]
) -> None:
    storage = Storage(config.run["storage"])
    with pytest.raises(UserError) as refused:
        write_report_of(storage.root, "yours")
    for place in ("runs", "comparisons", "searches"):
        assert storage.uri(place) in str(refused.value)
    assert "comparisons there: mine" in str(refused.value)


def test_a_run_comes_before_a_comparison_of_its_name(
    config: ComparisonConfig, written: list[str]
) -> None:
    storage = Storage(config.run["storage"])
    RunFolder(storage, "mine").update(status="FINISHED", config={}, tags={}, datasets=[])
    assert write_report_of(storage.root, "mine") == storage.uri("runs/mine/report.html")


def test_mlflow_gets_what_each_cell_shows_and_nothing_of_failed_ones() -> None:
    average, failed = {"average": {"value": 0.5, "low": 0.4, "high": 0.6}}, {"errors": ["why"]}
    tables = {
        "budgets": {"columns": ["5%", "10%"], "rows": {"smt": {"5%": average, "10%": failed}}},
        "speed": {"columns": "speed", "rows": {"lora": {"": {"step_seconds": 0.1, **average}}}},
        "where": {
            "columns": "projections",
            "rows": {
                "smt": {"": {"projections": {"q_proj": 3}}},
                "lora": {"": {"projections": None}},
                "gone": {"": failed},
            },
        },
    }
    assert final_metrics({"tables": tables}) == {
        "accuracy/budgets/smt/5": 0.5,
        "step_seconds/speed/lora": 0.1,
        "blocks/where/smt/q_proj": 3,
    }
