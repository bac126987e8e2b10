"""Claims about comparisons of which something fails: the rest is done, all of it is written.

Runs are stubs: none is trained, and Ray is not started.
"""

from __future__ import annotations

import copy
import json
import math
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, ClassVar

import pytest

from smt_ray import cli
from smt_ray.artifacts.storage import Storage
from smt_ray.comparison.flow import compare
from smt_ray.config.comparison import ComparisonConfig
from smt_ray.config.load import to_yaml, validate_section
from smt_ray.tracking.records import encode_record, make_record
from smt_ray.training.loop import VALIDATION_LOSS
from tests.runs import QUICK

ROWS: dict[str, dict[str, Any]] = {
    "smt": {},
    "random": {"selection.score": "random"},
    "dora": {"method": "dora"},
    "dora, own rate": {"method": "dora", "training.learning_rate": 0.5},
}


@pytest.fixture
def config(tmp_path: Path) -> ComparisonConfig:
    run = {key: value for key, value in copy.deepcopy(QUICK).items() if key != "name"}
    values = {
        "name": "mine",
        "run": {**run, "storage": str(tmp_path / "storage"), "tracking": {"enabled": False}},
        "seeds": [0, 1],
        "learning_rates": {"smt": [0.01, 0.02], "dora": [0.03, 0.04]},
        "tables": {
            "methods": {
                "title": "Methods",
                "rows": ROWS,
                "claims": [
                    {"better": "smt", "worse": "dora"},
                    {"better": "smt", "worse": "random"},
                ],
            },
            "speed": {"title": "Time", "rows": {"dora": ROWS["dora"]}, "columns": "speed"},
            "budgets": {
                "title": "Budgets",
                "rows": {"dora": ROWS["dora"]},
                "columns": {"1%": {"lora.budget": 0.01}, "2%": {"lora.budget": 0.02}},
            },
        },
    }
    return validate_section(ComparisonConfig, values)


class Stub:
    """Runs that end at once, each started noted.

    Attributes:
        started: Their configurations, in order.
        error: A run's configuration -> why it fails, or "".
        loss: A run's configuration -> its validation loss.
    """

    def __init__(self) -> None:
        self.started: list[Any] = []
        self.error: Callable[[Any], str] = lambda _: ""
        self.loss: Callable[[Any], float] = lambda run: run.training.learning_rate

    def run(self, flow: Any, until: str) -> dict[str, Any]:
        self.started.append(flow.config)
        if why := self.error(flow.config):
            flow.folder.update(status="FAILED")
            raise RuntimeError(why)
        metrics: dict[str, Any] = {"training": {VALIDATION_LOSS: self.loss(flow.config)}}
        kinds = [kind for kind in flow.plan.stages if until in kind or kind == "training"]
        for kind in kinds:
            stage = flow.plan.stages[kind]
            self._publish(kind, stage)
            flow.folder.add_stage(kind, stage.name, seconds=1.0, reused=False)
        if until == "evaluation":
            metrics["tasks"] = {"sums": {"tuned": {"accuracy": 0.5}}}
        metrics["stages"] = flow.folder.manifest()["stages"]
        flow.folder.update(status="FINISHED", semantic=flow.config.semantic_tree())
        flow.folder.storage.write_json(flow.folder.path("metrics.json"), metrics)
        return metrics

    def _publish(self, kind: str, stage: Any) -> None:
        if stage.manifest() is not None:
            return
        record = encode_record(make_record(1, {"train/loss": 1.0, "train/step_seconds": 0.5}))
        answers = [{"index": i, "prompt": "?", "output": "2", "extracted": "2", "expected": "2",
                    "correct": i % 2 == 0} for i in range(4)]  # fmt: skip
        lines = "".join(json.dumps(answer) + "\n" for answer in answers)
        texts = {"metrics.jsonl": record} if kind == "training" else {"generate/sums.jsonl": lines}
        for file, text in texts.items():
            stage.storage.write_bytes(stage.path(file), text.encode())
        stage.publish(list(texts), {}, 1.0)


class Parent:
    """In MLflow's place: how it ended, and with how many numbers and files."""

    run_id = "parent"
    ended: ClassVar[list[tuple[str, int, int]]] = []

    def __init__(self, config: ComparisonConfig, folder: str, run: Any) -> None:
        self.storage = Storage(run.storage)

    def end(self, status: str, numbers: Any = (), files: Any = (), summary: str = "") -> None:
        self.ended.append((status, len(numbers), len(files)))


@pytest.fixture
def parent(monkeypatch: pytest.MonkeyPatch) -> type[Parent]:
    monkeypatch.setattr("smt_ray.comparison.flow.ParentRun", Parent)
    monkeypatch.setattr(Parent, "ended", [])
    return Parent


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Stub:
    stub = Stub()
    monkeypatch.setattr("smt_ray.run.flow.Flow.run", lambda *given: stub.run(*given))
    monkeypatch.setattr("smt_ray.comparison.flow.check_grid", lambda _: None)
    monkeypatch.setattr("smt_ray.comparison.flow.ray_for", lambda _: nullcontext())
    monkeypatch.setattr("smt_ray.comparison.flow.check_shared", lambda _: None)
    return stub


def of_dora_tuned(run: Any) -> str:
    tried = run.method == "dora" and run.training.learning_rate in (0.03, 0.04)
    return "out of memory" if tried else ""


def cells(results: dict[str, Any], table: str) -> dict[str, dict[str, Any]]:
    return {row: columns[""] for row, columns in results["tables"][table]["rows"].items()}


def test_a_method_of_which_no_learning_rate_trains_fails_alone(
    stub: Stub, config: ComparisonConfig
) -> None:
    stub.error = of_dora_tuned
    results = compare(config)
    why = "no learning rate of dora could be trained: out of memory"
    of_methods = cells(results, "methods")
    assert of_methods["dora"]["errors"] == [why] * 2
    assert cells(results, "speed")["dora"]["errors"] == [why] * 2
    budgets = results["tables"]["budgets"]["rows"]["dora"]
    assert [cell["errors"] for cell in budgets.values()] == [[why] * 2] * 2
    for row in ("smt", "random", "dora, own rate"):
        assert of_methods[row]["average"]["value"] == 0.5
    assert results["learning_rates"]["dora"] == {
        "chosen": None, "validation_loss": {"0.03": None, "0.04": None},
    }  # fmt: skip
    assert results["learning_rates"]["smt"]["chosen"] == 0.01
    first, second = results["tables"]["methods"]["claims"]
    assert (first["verdict"], first["reason"]) == ("not resolved", "a run failed")
    assert second["difference"]["value"] == 0.0
    rates = {run.training.learning_rate for run in stub.started if run.method == "dora"}
    assert rates == {0.03, 0.04, 0.5}, "no cell was started at a rate that nobody chose"


def test_what_was_tried_keeps_its_own_error_and_what_was_not_started_has_no_learning_rate(
    stub: Stub, config: ComparisonConfig
) -> None:
    stub.error = of_dora_tuned
    results = compare(config)
    failed = {name: run for name, run in results["runs"].items() if run["error"]}
    tried = [run for run in failed.values() if run["error"] == "out of memory"]
    assert [run["learning_rate"] for run in tried] == [0.03, 0.04]
    others = {name: run for name, run in failed.items() if run not in tried}
    assert len(others) == 2 * 3, "a run of each seed at each budget"
    assert {run["learning_rate"] for run in others.values()} == {None}
    assert set(cells(results, "methods")["dora"]["runs"]) < set(others)


def test_a_failed_method_stands_in_every_file(stub: Stub, config: ComparisonConfig) -> None:
    stub.error = of_dora_tuned
    compare(config)
    folder = Path(config.run["storage"]) / "comparisons" / "mine"
    text = (folder / "comparison.md").read_text()
    assert "| dora | - | - | - | - | failed |  |" in text
    assert "| dora | 0.03: -, 0.04: - | - |" in text
    assert "Not tuned themselves: methods (random). Of dora none could be trained." in text
    assert "no learning rate of dora could be trained: out of memory" in text
    assert json.loads((folder / "comparison.json").read_text())["tables"]
    for table in config.tables:
        assert (folder / f"{table}.png").exists()
        assert (folder / f"{table}.csv").exists()
    page = (folder / "report.html").read_text()
    assert "no learning rate of dora could be trained: out of memory" in page


def test_a_loss_that_is_not_finite_chooses_no_learning_rate(
    stub: Stub, config: ComparisonConfig
) -> None:
    stub.loss = lambda run: math.nan if run.method == "dora" else 1.0
    (reason,) = set(cells(compare(config), "methods")["dora"]["errors"])
    assert reason == (
        "no learning rate of dora could be trained: the validation loss is not finite"
    )


def test_where_every_method_fails_all_of_it_is_written(
    stub: Stub, config: ComparisonConfig
) -> None:
    stub.error = lambda _: "the disk is full"
    results = compare(config)
    assert all(cell["errors"] for cell in cells(results, "methods").values())
    assert all(run["error"] for run in results["runs"].values())
    folder = Path(config.run["storage"]) / "comparisons" / "mine"
    assert {file.name for file in folder.iterdir()} >= {
        "comparison.md", "comparison.json", "comparison.yaml", "report.html", "methods.png",
    }  # fmt: skip


Command = Callable[[], tuple[int, str, list[str]]]


@pytest.fixture
def command(
    config: ComparisonConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Command:
    """Runs ``smt-ray compare`` on it: exit code, output, lines on standard error."""
    file = tmp_path / "mine.yaml"
    file.write_text(to_yaml(config))
    monkeypatch.setattr(sys, "argv", ["smt-ray", "compare", str(file)])

    def run() -> tuple[int, str, list[str]]:
        with pytest.raises(SystemExit) as end:
            cli.main()
        captured = capsys.readouterr()
        return int(end.value.code or 0), captured.out, captured.err.splitlines()

    return run


def test_failed_runs_end_a_comparison_with_1_once_all_is_written(
    stub: Stub, parent: type[Parent], command: Command, config: ComparisonConfig
) -> None:
    stub.error = lambda run: "no more memory" if run.selection.score == "random" else ""
    code, text, errors = command()
    page = Path(config.run["storage"]) / "comparisons" / "mine" / "report.html"
    assert code == 1
    assert errors[-1] == f"error: 2 of 12 runs failed: see {page}"
    assert page.exists()
    assert not any("Traceback" in line for line in errors)
    assert text.startswith("# mine")
    ((status, num_numbers, num_files),) = parent.ended
    assert status == "FAILED"
    assert min(num_numbers, num_files) > 0, "what came out is sent all the same"


def test_the_same_command_tries_the_failed_runs_again_and_no_others(
    stub: Stub, parent: type[Parent], command: Command
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
    assert [status for status, *_ in parent.ended] == ["FAILED", "FAILED", "FINISHED"]


def test_a_learning_rate_that_fails_beside_one_that_trains_is_no_failure(
    stub: Stub, parent: type[Parent], command: Command
) -> None:
    stub.error = lambda run: "diverged" if run.training.learning_rate == 0.04 else ""
    code, text, _ = command()
    assert code == 0
    assert "| dora | 0.03: 0.0300, 0.04: - | 0.03 |" in text
    assert "diverged" in text, "it is told of"
    assert parent.ended[0][0] == "FINISHED"


def test_a_comparison_of_which_nothing_could_be_done_says_so(
    stub: Stub, parent: type[Parent], command: Command
) -> None:
    stub.error = lambda _: "the disk is full"
    code, text, errors = command()
    assert code == 1
    assert errors[-1].startswith("error: 12 of 12 runs failed: see ")
    assert "no learning rate of smt could be trained: the disk is full" in text


def test_a_run_that_cannot_even_be_planned_is_a_failed_one(
    stub: Stub, parent: type[Parent], config: ComparisonConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(run: Any) -> Any:
        raise OSError("the rows are gone")

    monkeypatch.setattr("smt_ray.run.flow.make_plan", gone)
    results = compare(config)
    assert {run["error"].rpartition(": ")[2] for run in results["runs"].values()} == {
        "the rows are gone"
    }
