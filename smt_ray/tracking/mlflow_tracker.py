"""The MLflow tracker, which imports mlflow when a tracker is made.

It uses ``MlflowClient`` only and therefore no global state, such as an active run or a tracking URI
of the process. Every call may be repeated: the store keeps one row for each (key, time, step,
value), parameters keep their first value, and artifacts are overwritten.
"""

from __future__ import annotations

import json
import logging
import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from smt_ray.documents.run import Dataset, Record, Status
from smt_ray.tracking import uris
from smt_ray.tracking.mlflow_model import log_transformers_model
from smt_ray.tracking.params import clean_key, param_value, tag_key, tag_value
from smt_ray.tracking.protocol import RejectedError, RunStart
from smt_ray.tracking.refusals import error_code, final_errors

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run

logger = logging.getLogger("smt_ray.tracking")

KEY_TAG = "smt_ray.key"
_PARENT_TAG = "mlflow.parentRunId"
_TABLES_TAG = "mlflow.loggedArtifacts"
# Without the tag, MLflow shows the experiment as one of chat traces, without runs and curves.
_EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}
_MAX_METRICS, _MAX_PARAMS, _MAX_DIGEST = 1000, 100, 36
# The client notices a dead server within seconds, and RobustTracker tries again. Users can set
# larger values for uploads of large artifacts to a slow server.
_CLIENT_DEFAULTS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}

T = TypeVar("T")


class MlflowTracker:
    """Writes one run at a time to MLflow; see :class:`smt_ray.tracking.protocol.Tracker`.

    The constructor opens the store, and finds or creates the experiment. An sqlite file is created
    under a lock, because two processes that create it at the same time would break it.

    Args:
        tracking_uri: The URI, from :func:`smt_ray.tracking.uris.resolve_tracking_uri`.
        experiment_name: The name of the experiment, which is created if it does not exist. Its
            artifacts are kept beside the sqlite file, or where the server decides.

    Raises:
        UserError: MLflow does not support the scheme of the URI.
        RejectedError: The experiment was deleted, or access is denied.
    """

    @final_errors
    def __init__(self, tracking_uri: str, experiment_name: str) -> None:
        self.uri = uris.check_tracking_uri(tracking_uri)
        self.run_id: str | None = None
        for name, value in _CLIENT_DEFAULTS.items():
            os.environ.setdefault(name, value)
        with _creating(self.uri):
            self._client = _quiet_client(self.uri)
            self.experiment_id = self._find_or_make_experiment(experiment_name)

    @final_errors
    def start_run(self, start: RunStart) -> str:
        """Starts or continues the run.

        If the store has no run of this id any more, that is logged and a new run is started.
        """
        run = self._get_run(start.run_id) or self._find_run(start.key)
        if run is None:
            if start.run_id:
                logger.warning("MLflow has no run %s any more: starting a new one.", start.run_id)
            run = self._client.create_run(
                self.experiment_id, start_time=start.started_ms, run_name=start.name
            )
        else:
            self._client.update_run(run.info.run_id, status="RUNNING", name=start.name)
        self.run_id = run.info.run_id
        own_tags = {KEY_TAG: _tag_value(start.key), _PARENT_TAG: start.parent_run_id}
        self.log_tags({**start.tags, **{k: v for k, v in own_tags.items() if v}})
        self.log_params(start.params)
        return self.run_id

    @final_errors
    def log_records(self, records: Sequence[Record]) -> None:
        """Sends records."""
        self._log_metrics(_metrics(records))

    @final_errors
    def log_missing_records(self, records: Sequence[Record]) -> None:
        """Sends the values that the store does not have, which is fast if it has nearly all."""
        metrics = _metrics(records)
        present = {
            _identity(metric)
            for key in {metric.key for metric in metrics}
            for metric in self._client.get_metric_history(self._current(), key)
        }
        self._log_metrics([metric for metric in metrics if _identity(metric) not in present])

    @final_errors
    def log_params(self, params: Mapping[str, Any]) -> None:
        """Sends the parameters that are not None.

        MLflow does not change a parameter. A value that differs from the stored one is logged.
        """
        from mlflow.entities import Param

        kept = self._client.get_run(self._current()).data.params
        values = {clean_key(key): param_value(value) for key, value in params.items()}
        changed = {key for key, value in values.items() if kept.get(key, value) != value}
        if changed:
            logger.warning(
                "MLflow keeps the first value of: %s.",
                ", ".join(f"{key} ({kept[key]}, now {values[key]})" for key in sorted(changed)),
            )
        unset = {clean_key(key) for key, value in params.items() if value is None}
        new = [Param(k, v) for k, v in values.items() if k not in kept and k not in unset]
        for chunk in _chunks(new, _MAX_PARAMS):
            self._client.log_batch(self._current(), params=chunk)

    @final_errors
    def log_tags(self, tags: Mapping[str, str]) -> None:
        """Sets tags, which replace earlier values."""
        from mlflow.entities import RunTag

        values = [RunTag(tag_key(key), tag_value(value)) for key, value in tags.items()]
        for chunk in _chunks(values, _MAX_PARAMS):
            self._client.log_batch(self._current(), tags=chunk)

    @final_errors
    def log_dataset(self, dataset: Dataset) -> None:
        """Sends the name, source and digest of rows that the run read."""
        from mlflow import entities

        scheme = dataset.source.split("://", 1)[0] if "://" in dataset.source else "local"
        entry = entities.Dataset(
            name=dataset.name,
            digest=dataset.digest[:_MAX_DIGEST],
            source_type=scheme,
            source=json.dumps({"uri": dataset.source}),
            profile=json.dumps({"num_rows": dataset.num_rows}),
        )
        context = entities.InputTag("mlflow.data.context", dataset.context)
        given = entities.DatasetInput(entry, [context])
        self._client.log_inputs(self._current(), datasets=[given])

    @final_errors
    def log_artifact(self, path: str, artifact_path: str | None = None) -> None:
        """Sends a local file."""
        self._client.log_artifact(self._current(), path, artifact_path)

    @final_errors
    def log_artifacts(self, directory: str, artifact_path: str | None = None) -> None:
        """Sends a local folder."""
        self._client.log_artifacts(self._current(), directory, artifact_path)

    @final_errors
    def log_model(self, directory: str, name: str) -> None:
        """Sends a plain transformers model, unless the run has it already."""
        log_transformers_model(self._client, self._current(), directory, name)

    @final_errors
    def log_table(self, columns: Mapping[str, Sequence[Any]], artifact_file: str) -> None:
        """Sends a table in the format of MLflow's own ``log_table``; it replaces an earlier one."""
        table = {"columns": list(columns), "data": list(zip(*columns.values(), strict=True))}
        self._client.log_dict(self._current(), table, artifact_file)
        tags = self._client.get_run(self._current()).data.tags
        entry = {"path": artifact_file, "type": "table"}
        tables = json.loads(tags.get(_TABLES_TAG, "[]"))
        if entry not in tables:
            self._client.set_tag(self._current(), _TABLES_TAG, json.dumps([*tables, entry]))

    @final_errors
    def end_run(self, status: Status = "FINISHED", *, ended_ms: int | None = None) -> None:
        """Ends the run."""
        self._client.set_terminated(self._current(), status, ended_ms)

    def run_url(self) -> str | None:
        """The page of the run; None before a run is started."""
        return self.run_id and uris.run_url(self.uri, self.experiment_id, self.run_id)

    def _current(self) -> str:
        assert self.run_id is not None, "call start_run first"
        return self.run_id

    def _log_metrics(self, metrics: Sequence[Metric]) -> None:
        for chunk in _chunks(metrics, _MAX_METRICS):
            self._client.log_batch(self._current(), metrics=chunk)

    def _find_or_make_experiment(self, name: str) -> str:
        found = self._client.get_experiment_by_name(name)
        if found is None:
            location = uris.default_artifact_location(self.uri)
            try:
                return str(self._client.create_experiment(name, location, _EXPERIMENT_TAGS))
            except Exception:
                found = self._client.get_experiment_by_name(name)  # another writer may create it
                if found is None:
                    raise
        if found.lifecycle_stage != "active":
            raise RejectedError(
                f"experiment {name!r} is deleted; restore it (mlflow experiments restore "
                f"--experiment-id {found.experiment_id}) or set tracking.experiment"
            )
        return str(found.experiment_id)

    def _get_run(self, run_id: str | None) -> Run | None:
        if not run_id:
            return None
        try:
            run = self._client.get_run(run_id)
        except Exception as error:
            if error_code(error) == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise
        return run if run.info.lifecycle_stage == "active" else None

    def _find_run(self, key: str) -> Run | None:
        if not key:
            return None
        runs = self._client.search_runs(
            [self.experiment_id],
            f"tags.`{KEY_TAG}` = '{_tag_value(key)}'",
            max_results=1,
            order_by=["start_time ASC"],
        )
        return runs[0] if runs else None


@contextmanager
def _creating(uri: str) -> Iterator[None]:
    """Holds a lock on the creation of an sqlite file; does nothing for other stores."""
    path = uris.sqlite_path(uri)
    if path is None:
        yield
        return
    from filelock import FileLock

    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock", timeout=60):
        yield


def _quiet_client(uri: str) -> MlflowClient:
    """A client whose libraries log warnings and errors only."""
    from mlflow import MlflowClient

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    return MlflowClient(tracking_uri=uri)


def _metrics(records: Sequence[Record]) -> list[Metric]:
    from mlflow.entities import Metric

    return [
        Metric(clean_key(name), value, record["time_ms"], record["step"])
        for record in records
        for name, value in record["metrics"].items()
    ]


def _identity(metric: Metric) -> tuple[str, int, int, str]:
    # NaN differs from itself, but its text does not. Databases store infinity as the largest float.
    value, largest = metric.value, sys.float_info.max
    stored = value if math.isnan(value) else max(-largest, min(largest, value))
    return metric.key, metric.timestamp, metric.step, repr(stored)


def _tag_value(key: str) -> str:
    return tag_value(key.replace("'", "_"))


def _chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (items[start : start + size] for start in range(0, len(items), size))
