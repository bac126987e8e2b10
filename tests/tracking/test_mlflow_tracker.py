"""The MLflow tracker writes to a real sqlite store."""

from __future__ import annotations

import json
import logging
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from smt_ray.documents.run import Record
from smt_ray.tracking.mlflow_tracker import MlflowTracker
from smt_ray.tracking.protocol import RejectedError, RunStart
from smt_ray.tracking.records import make_record
from smt_ray.tracking.replay import RunSnapshot, replay


def _everything(tracker: MlflowTracker, run_id: str) -> dict[str, Any]:
    """Everything that the store holds of a run, in a form that can be compared."""
    client = MlflowClient(tracking_uri=tracker.uri)
    run = client.get_run(run_id)
    folders: list[str | None] = [None, "adapter"]
    return {
        "info": (run.info.run_name, run.info.status, run.info.start_time, run.info.end_time),
        "params": run.data.params,
        "tags": run.data.tags,
        "history": {
            key: [(m.timestamp, m.step, m.value) for m in client.get_metric_history(run_id, key)]
            for key in run.data.metrics
        },
        "inputs": [
            (i.dataset.name, i.dataset.digest, i.dataset.profile, i.tags[0].value)
            for i in run.inputs.dataset_inputs
        ],
        "files": [f.path for folder in folders for f in client.list_artifacts(run_id, folder)],
    }


def _experiment_name(tracker: MlflowTracker) -> str:
    client = MlflowClient(tracking_uri=tracker.uri)
    return str(client.get_experiment(tracker.experiment_id).name)


def test_a_replayed_run_is_whole(
    tracker: MlflowTracker, make_snapshot: Callable[..., RunSnapshot], records: list[Record]
) -> None:
    run_id = replay(tracker, make_snapshot())
    assert run_id is not None
    got = _everything(tracker, run_id)
    assert got["info"] == ("smt-a", "FINISHED", 1_700_000_000_000, 1_700_000_060_000)
    assert got["params"] == {"method": "smt", "selection.budget": "0.0084"}
    assert got["tags"]["suite"] == "commonsense"
    assert got["history"]["train/loss"] == [
        (r["time_ms"], r["step"], r["metrics"]["train/loss"]) for r in records
    ]
    assert got["history"]["eval/boolq/tuned"] == [(1_700_000_060_000, 0, 0.71)]
    assert got["inputs"] == [("generated", "f" * 36, '{"num_rows": 512}', "train")]
    assert set(got["files"]) == {"adapter", "adapter/weights.txt", "config.yaml", "tasks.json"}


def test_a_table_is_what_mlflow_itself_would_write(tracker: MlflowTracker) -> None:
    run_id = tracker.start_run(RunStart(name="a"))
    columns = {"task": ["boolq", "piqa"], "tuned": [0.71, None], "rows": [3270, 1838]}
    tracker.log_table(columns, "ours.json")
    client = MlflowClient(tracking_uri=tracker.uri)
    client.log_table(run_id, columns, "theirs.json")
    ours, theirs = (
        json.loads(Path(client.download_artifacts(run_id, name)).read_text())
        for name in ("ours.json", "theirs.json")
    )
    assert ours == theirs
    listed = json.loads(client.get_run(run_id).data.tags["mlflow.loggedArtifacts"])
    assert listed == [{"path": f"{name}.json", "type": "table"} for name in ("ours", "theirs")]


@pytest.mark.parametrize("known", [True, False], ids=["by its id", "by its key"])
def test_replaying_twice_changes_nothing(
    tracker: MlflowTracker, make_snapshot: Callable[..., RunSnapshot], known: bool
) -> None:
    odd = make_record(3, {"nan": math.nan, "inf": math.inf, "bad[key]": 1.0}, time_ms=5)
    snapshot = make_snapshot(records=[*make_snapshot().records, odd])
    run_id = replay(tracker, snapshot)
    assert run_id is not None
    once = _everything(tracker, run_id)
    again = MlflowTracker(tracker.uri, _experiment_name(tracker))
    changed = make_snapshot(records=snapshot.records, run_id=run_id if known else None)
    assert replay(again, changed) == run_id
    twice = _everything(tracker, run_id)
    assert str(twice) == str(once)  # as text, where NaN equals NaN
    assert len(MlflowClient(tracking_uri=tracker.uri).search_runs([tracker.experiment_id])) == 1


def test_records_that_are_sent_twice_are_stored_once(
    tracker: MlflowTracker, records: list[Record]
) -> None:
    run_id = tracker.start_run(RunStart(name="live"))
    tracker.log_records(records)
    tracker.log_records(records[5:] + records[5:])
    assert [row[1] for row in _everything(tracker, run_id)["history"]["train/lr"]] == [*range(10)]


def test_only_missing_records_are_sent(tracker: MlflowTracker, records: list[Record]) -> None:
    tracker.start_run(RunStart(name="live"))
    tracker.log_records(records[:4] + records[6:])
    sent: list[Any] = []
    tracker._client.log_batch = lambda run_id, metrics: sent.extend(metrics)
    tracker.log_missing_records(records)
    assert sorted({metric.step for metric in sent}) == [4, 5]
    assert len(sent) == 4


def test_more_than_one_batch_of_metrics_and_params_arrives(tracker: MlflowTracker) -> None:
    run_id = tracker.start_run(RunStart(name="big", params={f"p{i}": i for i in range(230)}))
    tracker.log_records([make_record(i, {"x": i}, time_ms=i) for i in range(2500)])
    got = _everything(tracker, run_id)
    assert len(got["params"]) == 230
    assert [row[2] for row in got["history"]["x"]] == [*range(2500)]


def test_a_param_keeps_its_first_value_and_another_one_is_logged(
    tracker: MlflowTracker, caplog: pytest.LogCaptureFixture
) -> None:
    first = {"zero_stage": 2, "long": "v" * 7000, "rank": 8, "seed": None}
    run_id = tracker.start_run(RunStart(name="a", params=first))
    with caplog.at_level(logging.WARNING, logger="smt_ray.tracking"):
        tracker.log_params({**first, "zero_stage": 3, "rank": None, "new": True})
    params = _everything(tracker, run_id)["params"]
    assert len(params.pop("long")) == 6000
    assert params == {"zero_stage": "2", "rank": "8", "new": "true"}, "and none that is not set"
    assert caplog.messages == [
        "MLflow keeps the first value of: rank (8, now null), zero_stage (2, now 3)."
    ]


def test_an_unknown_id_starts_a_new_run_and_is_logged(
    tracker: MlflowTracker, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="smt_ray.tracking"):
        run_id = tracker.start_run(RunStart(name="a", run_id="0" * 32))
    assert _everything(tracker, run_id)["info"][:2] == ("a", "RUNNING")
    assert "no run 00000000000000000000000000000000" in caplog.text


def test_a_child_finds_its_parent_from_another_process(store: str) -> None:
    tracker = MlflowTracker(store, "family")
    parent = tracker.start_run(RunStart(name="search"))
    code = (
        "import sys; from smt_ray.tracking.mlflow_tracker import MlflowTracker, RunStart\n"
        "tracker = MlflowTracker(sys.argv[1], 'family')\n"
        "start = RunStart(name='trial-0', parent_run_id=sys.argv[2])\n"
        "print(tracker.start_run(start))\n"
        "tracker.end_run()"
    )
    command = [sys.executable, "-c", code, store, parent]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr == "", "MLflow's own chatter stays silent"
    found = MlflowClient(tracking_uri=store).search_runs(
        [tracker.experiment_id], f"tags.mlflow.parentRunId = '{parent}'"
    )
    assert [run.info.run_id for run in found] == [done.stdout.strip()]


@pytest.mark.slow
def test_processes_that_create_one_store_together_all_succeed(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/new/mlflow.db"
    code = (
        "import sys; from smt_ray.tracking.mlflow_tracker import MlflowTracker, RunStart\n"
        "MlflowTracker(sys.argv[1], 'shared').start_run(RunStart(name='a'))"
    )
    writers = [subprocess.Popen([sys.executable, "-c", code, uri]) for _ in range(3)]
    assert [writer.wait(120) for writer in writers] == [0, 0, 0]
    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("shared")
    assert experiment is not None
    assert len(client.search_runs([experiment.experiment_id])) == 3
    assert experiment.artifact_location == f"file://{tmp_path}/new/mlflow-artifacts"


def test_a_refused_call_raises_a_rejected_error(tracker: MlflowTracker, tmp_path: Path) -> None:
    tracker.start_run(RunStart(name="a"))
    with pytest.raises(RejectedError, match="nothing-here"):
        tracker.log_artifact(str(tmp_path / "nothing-here"))


def test_a_deleted_experiment_is_refused_with_what_to_do(tracker: MlflowTracker) -> None:
    MlflowClient(tracking_uri=tracker.uri).delete_experiment(tracker.experiment_id)
    with pytest.raises(RejectedError, match="mlflow experiments restore"):
        MlflowTracker(tracker.uri, _experiment_name(tracker))


def test_importing_the_tracking_room_imports_no_mlflow() -> None:
    rooms = "mlflow_tracker, params, protocol, records, replay, robust, uris"
    code = f"import sys; from smt_ray.tracking import {rooms}; assert 'mlflow' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
