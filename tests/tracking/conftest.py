"""A real sqlite store, which the tests share, and snapshots to send to it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from smt_ray.documents.run import Dataset, Record
from smt_ray.tracking.mlflow_tracker import MlflowTracker
from smt_ray.tracking.records import make_record
from smt_ray.tracking.replay import RunSnapshot

START_MS = 1_700_000_000_000


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The URI of an sqlite store, which takes seconds to create."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    uri = f"sqlite:///{path}"
    MlflowTracker(uri, "warm")
    return uri


@pytest.fixture
def tracker(store: str, request: pytest.FixtureRequest) -> MlflowTracker:
    """A tracker with an experiment of its own."""
    return MlflowTracker(store, request.node.name)


@pytest.fixture
def records() -> list[Record]:
    """Ten steps of two metrics."""
    return [
        make_record(step, {"train/loss": 1 / (step + 1), "train/lr": 1e-4}, time_ms=START_MS + step)
        for step in range(10)
    ]


@pytest.fixture
def make_snapshot(tmp_path: Path, records: list[Record]) -> Callable[..., RunSnapshot]:
    """A finished run with one of everything."""
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "weights.txt").write_text("w")
    config = tmp_path / "config.yaml"
    config.write_text("name: a\n")

    def make(**changes: object) -> RunSnapshot:
        values: dict[str, object] = {
            "name": "smt-a",
            "key": "store/smt-a/1",
            "started_ms": START_MS,
            "ended_ms": START_MS + 60_000,
            "status": "FINISHED",
            "params": {"method": "smt", "selection.budget": 0.0084},
            "tags": {"suite": "commonsense"},
            "records": records,
            "final_metrics": {"eval/boolq/tuned": 0.71},
            "datasets": [
                Dataset(
                    name="generated",
                    source="/rows.jsonl",
                    digest="f" * 64,
                    num_rows=512,
                    context="train",
                )
            ],
            "artifacts": [(str(folder), "adapter"), (str(config), None)],
            "tables": {"tasks.json": {"task": ["boolq", "piqa"], "tuned": [0.71, 0.5]}},
        }
        return RunSnapshot(**{**values, **changes})  # type: ignore[arg-type]

    return make
