"""Claims about comparisons in which runs fail: the other runs continue, and all is written.

The runs are stubs, so nothing is trained and Ray is not started.
"""

from __future__ import annotations

import copy
import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest

from smt_ray import cli
from smt_ray.artifacts.layout import (
    COMPARISON,
    COMPARISON_CONFIG,
    COMPARISON_TABLES,
    REPORT,
    comparison_folder,
)
from smt_ray.artifacts.storage import Storage
from smt_ray.artifacts.use import living_uses
from smt_ray.comparison.flow import compare
from smt_ray.config.comparison import ComparisonConfig
from smt_ray.config.load import to_yaml, validate_section
from smt_ray.config.run import RunConfig
from smt_ray.documents.comparison import CellResult, ComparisonDocument, TriedRates
from smt_ray.documents.run import RunMetrics, Status
from smt_ray.documents.stages import Until
from smt_ray.grid.parent import ParentRun
from smt_ray.run.flow import Flow
from tests.finished_runs import Content, finish_run
from tests.runs import QUICK

ROWS: dict[str, dict[str, Any]] = {
    "smt": {},
    "random": {"selection.score": "random"},
    "dora": {"method": "dora"},
    "dora, own rate": {"method": "dora", "training.learning_rate": 0.5},
}
DORA_FAILED = "every learning rate of dora failed: out of memory"


def make(storage: Path, **changes: Any) -> ComparisonConfig:
    run = {key: value for key, value in copy.deepcopy(QUICK).items() if key != "name"}
    run |= {
        "storage": str(storage),
        "tracking": {"enabled": False},
        "evaluation": {"tasks": ["tiny_arithmetic"], "max_rows": 4, "base": False},
    }
    tables = {
        "methods": {
            "title": "Methods",
            "rows": ROWS,
            "claims": [{"better": "smt", "worse": "dora"}, {"better": "smt", "worse": "random"}],
        },
        "speed": {"title": "Time", "rows": {"dora": ROWS["dora"]}, "columns": "speed"},
        "budgets": {
            "title": "Budgets",
            "rows": {"dora": ROWS["dora"]},
            "columns": {"1%": {"lora.budget": 0.01}, "2%": {"lora.budget": 0.02}},
        },
    }
    values = {
        "name": "mine",
        "run": run | changes,
        "seeds": [0, 1],
        "learning_rates": {"smt": [0.01, 0.02], "dora": [0.03, 0.04]},
        "tables": tables,
    }
    return validate_section(ComparisonConfig, values)


@pytest.fixture
def config(tmp_path: Path) -> ComparisonConfig:
    return make(tmp_path / "storage")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "storage" / comparison_folder("mine")


class Stub:
    """Stands in for the flows of runs, which end at once.

    Attributes:
        started: The configurations of the started runs, in order.
        error: Run -> the reason why it fails, or "".
        loss: Run -> its validation loss.
    """

    def __init__(self) -> None:
        self.started: list[RunConfig] = []
        self.error: Callable[[RunConfig], str] = lambda _: ""
        self.loss: Callable[[RunConfig], float] = lambda run: run.training.learning_rate

    def run(self, flow: Flow, until: Until) -> RunMetrics:
        self.started.append(flow.config)
        if why := self.error(flow.config):
            flow.folder.update(status="FAILED")
            raise RuntimeError(why)
        content = Content(losses={2: self.loss(flow.config)})
        return finish_run(flow.config, until, content, plan=flow.plan)


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Stub:
    """Stubs instead of runs, which need no Ray."""
    stub = Stub()
    monkeypatch.setattr(Flow, "run", lambda *given: stub.run(*given))
    monkeypatch.setattr("smt_ray.comparison.flow.ray_for", lambda *_: nullcontext())
    monkeypatch.setattr("smt_ray.grid.side_by_side.cluster_nodes", lambda: [{"CPU": 1.0}])
    monkeypatch.setattr("smt_ray.comparison.flow.check_shared", lambda _: None)
    return stub


Ended = list[tuple[Status, int, int]]


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> Ended:
    """What the tracked run of the comparison ends with: status, numbers of metrics and files."""
    found: Ended = []

    def end(
        parent: ParentRun, status: Status, metrics: Mapping[str, float], summary: str = ""
    ) -> None:
        found.append((status, len(metrics), len(parent.folder.files)))

    monkeypatch.setattr(ParentRun, "end", end)
    return found


def fail_tuned_dora(run: RunConfig) -> str:
    tried = run.method == "dora" and run.training.learning_rate in (0.03, 0.04)
    return "out of memory" if tried else ""


def cells(results: ComparisonDocument, table: str) -> dict[str, CellResult]:
    return {row: columns[""] for row, columns in results.tables[table].rows.items()}


def test_the_storage_is_marked_as_used_from_the_first_run_to_the_last(
    stub: Stub, config: ComparisonConfig
) -> None:
    uses: list[list[str]] = []

    def look(run: RunConfig) -> str:
        uses.append([use.what for use in living_uses(Storage(run.storage)).values()])
        return ""

    stub.error = look
    compare(config)
    assert len(uses) > 1
    assert all(found == ["comparison mine"] for found in uses)
    assert living_uses(Storage(config.make_run({}, 0).storage)) == {}


def test_if_every_learning_rate_of_a_method_fails_only_that_method_is_marked_as_failed(
    stub: Stub, config: ComparisonConfig
) -> None:
    stub.error = fail_tuned_dora
    results = compare(config)
    of_methods = cells(results, "methods")
    assert of_methods["dora"].errors == [DORA_FAILED] * 2
    assert cells(results, "speed")["dora"].errors == [DORA_FAILED] * 2
    budgets = results.tables["budgets"].rows["dora"]
    assert [cell.errors for cell in budgets.values()] == [[DORA_FAILED] * 2] * 2
    for row in ("smt", "random", "dora, own rate"):
        average = of_methods[row].average
        assert average
        assert average.value == 0.5
    assert results.learning_rates["dora"] == TriedRates(
        chosen=None, validation_loss={"0.03": None, "0.04": None}
    )
    assert results.learning_rates["smt"].chosen == 0.01
    first, second = results.tables["methods"].claims
    assert (first.verdict, first.reason) == ("not resolved", "a run failed")
    assert second.difference
    assert second.difference.value == 0.0
    rates = {run.training.learning_rate for run in stub.started if run.method == "dora"}
    assert rates == {0.03, 0.04, 0.5}, "no cell was started with a default learning rate"


def test_if_every_learning_rate_of_a_cell_fails_only_that_cell_is_marked_as_failed(
    stub: Stub, config: ComparisonConfig
) -> None:
    by_cell = config.model_copy(update={"learning_rates_for": "cell"})
    groups = by_cell.rate_groups()
    lost = next(name for name in groups if name.startswith("dora") and "budget" in name)
    doomed = {run.name for run in by_cell.tuning_runs()[lost].values()}
    stub.error = lambda run: "out of memory" if run.name in doomed else ""
    results = compare(by_cell)
    assert results.learning_rates.keys() == groups.keys()
    assert [group for group, tried in results.learning_rates.items() if tried.chosen is None] == [
        lost
    ]
    failed = [
        (table, row, column)
        for table in results.tables
        for row, column, cell in results.tables[table].cells()
        if cell.errors
    ]
    cells_of = {(c.table, c.row, c.column): c.rate_group for c in by_cell.cell_runs({})}
    assert failed == [cell for cell, group in cells_of.items() if group == lost]
    assert failed


def test_tried_runs_keep_their_errors_and_unstarted_runs_have_no_learning_rate(
    stub: Stub, config: ComparisonConfig
) -> None:
    stub.error = fail_tuned_dora
    results = compare(config)
    failed = {name: run for name, run in results.runs.items() if run.error}
    tried = [run for run in failed.values() if run.error == "out of memory"]
    assert [run.learning_rate for run in tried] == [0.03, 0.04]
    others = {name: run for name, run in failed.items() if run not in tried}
    assert len(others) == 2 * 3, "a run of each seed at the default and at each budget"
    assert {run.learning_rate for run in others.values()} == {None}
    assert set(cells(results, "methods")["dora"].runs) < set(others)


def test_a_failed_method_appears_in_every_file(
    stub: Stub, config: ComparisonConfig, folder: Path
) -> None:
    stub.error = fail_tuned_dora
    compare(config)
    text = (folder / COMPARISON_TABLES).read_text()
    assert "| dora | - | - | - | - | failed |  |" in text
    assert "| dora | 0.03: -, 0.04: - | - |" in text
    assert "Cells whose learning rate was not tuned: methods (random)." in text
    assert "All learning rates of dora failed." in text
    assert DORA_FAILED in text
    assert json.loads((folder / COMPARISON).read_text())["tables"]
    for table in config.tables:
        assert (folder / f"{table}.png").exists()
        assert (folder / f"{table}.csv").exists()
    assert DORA_FAILED in (folder / REPORT).read_text()


def test_a_loss_that_is_not_finite_chooses_no_learning_rate(
    stub: Stub, config: ComparisonConfig
) -> None:
    stub.loss = lambda run: math.nan if run.method == "dora" else 1.0
    (reason,) = set(cells(compare(config), "methods")["dora"].errors)
    assert reason == "every learning rate of dora failed: the validation loss is not finite"


def test_everything_is_written_if_every_run_fails(
    stub: Stub, config: ComparisonConfig, folder: Path
) -> None:
    stub.error = lambda _: "the disk is full"
    results = compare(config)
    assert all(cell.errors for cell in cells(results, "methods").values())
    assert all(run.error for run in results.runs.values())
    assert {file.name for file in folder.iterdir()} >= {
        COMPARISON_TABLES, COMPARISON, COMPARISON_CONFIG, REPORT, "methods.png",
    }  # fmt: skip


Command = Callable[[], tuple[int, str, list[str]]]


@pytest.fixture
def command(
    config: ComparisonConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Command:
    """Runs ``smt-ray compare``; returns the exit code, the output and the lines of errors."""
    file = tmp_path / "mine.yaml"
    file.write_text(to_yaml(config))
    monkeypatch.setattr(sys, "argv", ["smt-ray", "compare", str(file)])

    def run() -> tuple[int, str, list[str]]:
        with pytest.raises(SystemExit) as end:
            cli.main()
        captured = capsys.readouterr()
        return int(end.value.code or 0), captured.out, captured.err.splitlines()

    return run


def test_failed_runs_end_a_comparison_with_exit_code_1_after_everything_is_written(
    stub: Stub, ended: Ended, command: Command, folder: Path
) -> None:
    stub.error = lambda run: "no more memory" if run.selection.score == "random" else ""
    code, text, errors = command()
    assert code == 1
    assert errors[-1] == f"error: 2 of 12 runs failed: see {folder / REPORT}"
    assert (folder / REPORT).exists()
    assert not any("Traceback" in line for line in errors)
    assert text.startswith("# mine")
    ((status, num_metrics, num_files),) = ended
    assert status == "FAILED"
    assert min(num_metrics, num_files) > 0, "the results are sent all the same"


def test_the_same_command_tries_the_failed_runs_again_and_no_others(
    stub: Stub, ended: Ended, command: Command
) -> None:
    stub.error = lambda run: "no more memory" if run.method == "dora" else ""
    assert command()[0] == 1
    stub.started.clear()
    assert command()[0] == 1
    assert {run.method for run in stub.started} == {"dora"}
    stub.started.clear()
    stub.error = lambda _: ""
    code, text, errors = command()
    assert code == 0
    assert not any(line.startswith("error") for line in errors)
    assert "failed" not in text.lower()
    assert {run.method for run in stub.started} == {"dora"}
    assert [status for status, *_ in ended] == ["FAILED", "FAILED", "FINISHED"]


def test_a_failed_learning_rate_is_no_failure_if_another_one_was_trained(
    stub: Stub, ended: Ended, command: Command
) -> None:
    stub.error = lambda run: "diverged" if run.training.learning_rate == 0.04 else ""
    code, text, _ = command()
    assert code == 0
    assert "| dora | 0.03: 0.0300, 0.04: - | 0.03 |" in text
    assert "diverged" in text, "the failure is mentioned"
    assert ended[0][0] == "FINISHED"


def test_a_comparison_in_which_every_run_fails_says_so(
    stub: Stub, ended: Ended, command: Command
) -> None:
    stub.error = lambda _: "the disk is full"
    code, text, errors = command()
    assert code == 1
    assert errors[-1].startswith("error: 12 of 12 runs failed: see ")
    assert "every learning rate of smt failed: the disk is full" in text


def test_a_run_that_cannot_even_be_planned_is_marked_as_failed(
    stub: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = tmp_path / "train.json"
    rows.write_text(json.dumps([{"instruction": f"{i}?", "output": "yes"} for i in range(12)]))

    @contextmanager
    def lose_rows(*_: Any) -> Iterator[None]:
        rows.unlink()
        yield

    monkeypatch.setattr("smt_ray.comparison.flow.ray_for", lose_rows)
    data = {"train": [str(rows)], "validation_rows": 2}
    results = compare(make(tmp_path / "storage", data=data))
    assert all(
        "must be a file, a folder or a pattern" in run.error for run in results.runs.values()
    )
    assert not stub.started
