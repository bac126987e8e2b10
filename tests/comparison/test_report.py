"""Claims about the files and the page of a comparison, and the artifacts that they show."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any

import pytest

from smt_ray.artifacts.layout import (
    COMPARISON,
    COMPARISON_CONFIG,
    COMPARISON_TABLES,
    COMPARISONS_FOLDER,
    RECORDS,
    REPORT,
    RUNS_FOLDER,
    SEARCHES_FOLDER,
    SELECTION,
    comparison_folder,
)
from smt_ray.artifacts.runs import RunFolder
from smt_ray.artifacts.storage import Storage
from smt_ray.cli.reports import write_report_of
from smt_ray.comparison.flow import final_metrics
from smt_ray.comparison.record import write_comparison
from smt_ray.comparison.report import read_contents
from smt_ray.comparison.results import collect_results
from smt_ray.config.comparison import ComparisonConfig, load_comparison
from smt_ray.config.load import validate_section
from smt_ray.config.run import RunConfig
from smt_ray.documents.comparison import CellResult, ComparisonDocument, Interval, TableResult
from smt_ray.errors import UserError
from smt_ray.grid.folder import GroupFolder
from smt_ray.grid.learning_rates import Tuning
from smt_ray.grid.runs import Outcome
from smt_ray.reporting.pages.comparison import ComparisonContents
from tests.finished_runs import Content, finish_run
from tests.runs import QUICK

ROWS: dict[str, dict[str, Any]] = {
    "smt": {},
    "random": {"selection.score": "random"},
    "lora": {"method": "lora"},
}
FOLDER = comparison_folder("mine")
NOTHING_TUNED = Tuning({}, {}, {})


def make(storage: str) -> ComparisonConfig:
    run: dict[str, Any] = {key: value for key, value in QUICK.items() if key != "name"}
    run = copy.deepcopy(run) | {"storage": storage}
    run["evaluation"] = {"tasks": ["tiny_arithmetic"], "max_rows": 4, "base": False}
    values = {
        "name": "mine",
        "seeds": [0, 1],
        "run": run,
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


def finish(run: RunConfig, place: int) -> Outcome:
    """A finished run; its place decides its selected block and its only correct answer."""
    content = Content(blocks=[(0, place % 3)], is_correct=lambda index: index == place % 2)
    return Outcome(RunFolder(Storage(run.storage), run.name), finish_run(run, content=content))


def finish_all(config: ComparisonConfig) -> dict[str, Outcome]:
    """All runs are finished, except for the run of random with the second seed."""
    failed = config.make_run(ROWS["random"], 1).name
    runs = {run.name: run for cell in config.cell_runs({}) for run in cell.runs}
    outcomes = {
        name: finish(run, place) for place, (name, run) in enumerate(runs.items()) if name != failed
    }
    for outcome in outcomes.values():
        outcome.folder.storage.write_bytes(outcome.folder.path(REPORT), b"")
    folder = RunFolder(Storage(config.run["storage"]), failed)
    folder.update(status="FAILED")
    return outcomes | {failed: Outcome(folder, None, error="out of memory")}


def write(config: ComparisonConfig, outcomes: dict[str, Outcome]) -> list[str]:
    cells = list(config.cell_runs({}))
    results = collect_results(config, NOTHING_TUNED, cells, outcomes, started_ms=0)
    folder = GroupFolder(Storage(config.run["storage"]), FOLDER)
    write_comparison(folder, config, results)
    return folder.files


class Written:
    """A comparison in a storage.

    Attributes:
        storage: The storage.
        config: The comparison.
        files: The files of its folder, as the storage names them.
    """

    def __init__(self, root: str, files: list[str]) -> None:
        self.storage, self.config, self.files = Storage(root), make(root), files

    def results(self) -> ComparisonDocument:
        return self.storage.read_document(ComparisonDocument, f"{FOLDER}/{COMPARISON}", fix="")

    def contents(self) -> ComparisonContents:
        return read_contents(GroupFolder(self.storage, FOLDER))

    def run(self, row: str, seed: int = 0) -> RunFolder:
        return RunFolder(self.storage, self.config.make_run(ROWS[row], seed).name)

    def artifact(self, row: str, key: str, file: str) -> Path:
        stage = self.run(row).manifest().stages[key].stage
        return Path(self.storage.uri("stages", stage, file))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """The comparison; tests leave it as it is."""
    root = str(tmp_path_factory.mktemp("written"))
    config = make(root)
    return Written(root, write(config, finish_all(config)))


@pytest.fixture
def copied(written: Written, tmp_path: Path) -> Written:
    """A copy of the comparison, which a test may change."""
    root = tmp_path / "storage"
    shutil.copytree(written.storage.root, root)
    return Written(str(root), written.files)


def test_the_contents_are_those_of_the_runs(written: Written) -> None:
    contents = written.contents()
    reference = written.run("smt").name
    assert contents.reference is not None
    assert contents.reference.name == reference
    assert contents.reference.weights[0].blocks == [(0, 0)]
    assert list(contents.records) == ["smt", "lora"]
    assert contents.pages[reference] == f"../../runs/{reference}/report.html"
    assert contents.stages[reference] == written.run("smt").manifest().stages
    assert contents.config_text.startswith("name: mine")
    assert not contents.missing
    assert not any(contents.selections.values()), "random failed, so no two selections differ"


def test_tables_whose_cells_have_different_selections_show_each_of_them(copied: Written) -> None:
    outcomes = finish_all(copied.config)
    second = copied.config.make_run(ROWS["random"], 1)
    write(copied.config, outcomes | {second.name: finish(second, 9)})
    selections = copied.contents().selections
    blocks = {row: weights[0].blocks for row, weights in selections["methods"].items()}
    assert blocks == {"smt": [(0, 0)], "random": [(0, 2)]}
    assert not selections["lora"]


def test_every_run_is_listed_with_its_settings_and_its_outcome(written: Written) -> None:
    results = written.results()
    assert len(results.runs) == 6, "the runs of lora are in both tables"
    of_random = [run for run in results.runs.values() if run.sets == {"selection.score": "random"}]
    assert [run.error for run in of_random] == ["", "out of memory"]
    assert [run.accuracy for run in of_random] == [0.25, None]
    cell = results.tables["lora"].rows["lora"][""]
    assert cell.tasks
    assert cell.average
    low, high = cell.task_intervals["tiny_arithmetic"]
    assert low <= cell.tasks["tiny_arithmetic"] <= high
    assert (low, high) == (cell.average.low, cell.average.high)


def test_the_page_is_written_with_the_comparison_and_again_by_its_name(copied: Written) -> None:
    assert f"{FOLDER}/{REPORT}" in copied.files
    page = Path(copied.storage.uri(FOLDER, REPORT))
    first = page.read_text()
    for part in ("out of memory", "smt above lora", "LoRA alone", 'id="selection"', 'id="wrong"'):
        assert part in first
    page.unlink()
    assert write_report_of(copied.storage.root, "mine") == str(page)
    assert page.read_text() == first


def test_the_configuration_is_kept_and_can_be_carried_out_again(written: Written) -> None:
    assert f"{FOLDER}/{COMPARISON_CONFIG}" in written.files
    place = Path(written.storage.uri(FOLDER, COMPARISON_CONFIG))
    assert load_comparison(place, []) == written.config


def test_a_missing_artifact_is_named_and_the_rest_is_shown(copied: Written) -> None:
    gone = copied.artifact("smt", "training", RECORDS)
    gone.unlink()
    page = Path(write_report_of(copied.storage.root, "mine")).read_text()
    assert f"Missing artifact, not shown: {gone}" in page
    assert "smt above lora" in page
    assert copied.contents().missing == [str(gone)]


def test_damaged_predictions_are_refused(copied: Written) -> None:
    outcomes = finish_all(copied.config)
    place = copied.artifact("smt", "evaluation_tuned", "generate/tiny_arithmetic.jsonl")
    place.write_text(place.read_text().replace('"correct":true', '"correct":false'))
    with pytest.raises(UserError, match="was truncated or edited"):
        write(copied.config, outcomes)


def test_a_page_that_cannot_be_written_is_a_warning_and_not_among_the_files(
    copied: Written, capsys: pytest.CaptureFixture[str]
) -> None:
    outcomes = finish_all(copied.config)
    place = copied.artifact("smt", "selection", SELECTION)
    place.write_bytes(place.read_bytes()[:20])
    files = write(copied.config, outcomes)
    assert f"{FOLDER}/{COMPARISON_TABLES}" in files
    assert f"{FOLDER}/{REPORT}" not in files
    assert "WARNING report: could not be written" in capsys.readouterr().err


def test_truncated_results_are_refused(copied: Written) -> None:
    place = Path(copied.storage.uri(FOLDER, COMPARISON))
    place.write_text(place.read_text()[:40])
    with pytest.raises(UserError, match="cannot be read"):
        write_report_of(copied.storage.root, "mine")


def test_an_unknown_name_is_refused_with_the_known_names(written: Written) -> None:
    with pytest.raises(UserError) as refused:
        write_report_of(written.storage.root, "yours")
    for place in (RUNS_FOLDER, COMPARISONS_FOLDER, SEARCHES_FOLDER):
        assert written.storage.uri(place) in str(refused.value)
    assert "comparisons there: mine" in str(refused.value)


def test_a_run_comes_before_a_comparison_with_the_same_name(copied: Written) -> None:
    run = copied.config.make_run(ROWS["lora"], 0).model_copy(update={"name": "mine"})
    finish_run(run)
    assert write_report_of(copied.storage.root, "mine") == copied.storage.uri("runs/mine", REPORT)


def test_mlflow_gets_the_main_number_of_each_cell_and_nothing_of_failed_cells() -> None:
    average = CellResult(average=Interval(value=0.5, low=0.4, high=0.6), step_seconds=0.1)
    failed = CellResult(errors=["why"])
    tables = {
        "budgets": TableResult(
            title="", columns=["5%", "10%"], rows={"smt": {"5%": average, "10%": failed}}
        ),
        "speed": TableResult(title="", columns="speed", rows={"lora": {"": average}}),
        "where": TableResult(
            title="",
            columns="projections",
            rows={
                "smt": {"": CellResult(projections={"q_proj": 3})},
                "lora": {"": CellResult()},
                "gone": {"": failed},
            },
        ),
    }
    assert final_metrics(ComparisonDocument(name="mine", seeds=[0], tables=tables, runs={})) == {
        "accuracy/budgets/smt/5": 0.5,
        "step_seconds/speed/lora": 0.1,
        "blocks/where/smt/q_proj": 3,
    }
