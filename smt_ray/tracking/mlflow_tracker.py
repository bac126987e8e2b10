"""The MLflow tracker: the only file that imports mlflow, and that when a tracker is made.

It speaks through ``MlflowClient`` alone, so it has no global state: neither an active run nor a
tracking URI of the process. Every call may be repeated: the store keeps one row for each
(key, time, step, value), parameters keep their first value, artifacts are overwritten.
"""

from __future__ import annotations

import functools
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from smt_ray.documents.run import Dataset, Status
from smt_ray.tracking import uris
from smt_ray.tracking.params import MAX_PARAM_CHARS, MAX_TAG_CHARS, as_text, clean_key, shorten
from smt_ray.tracking.protocol import RejectedError
from smt_ray.tracking.records import Record, make_record

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run

logger = logging.getLogger("smt_ray.tracking")

KEY_TAG = "smt_ray.key"
_PARENT_TAG = "mlflow.parentRunId"
_TABLES_TAG = "mlflow.loggedArtifacts"
_MAX_METRICS, _MAX_PARAMS, _MAX_DIGEST = 1000, 100, 36
_FINAL_CODES = {
    "ALREADY_EXISTS",
    "BAD_REQUEST",
    "INVALID_PARAMETER_VALUE",
    "INVALID_STATE",
    "PERMISSION_DENIED",
    "RESOURCE_ALREADY_EXISTS",
    "RESOURCE_DOES_NOT_EXIST",
    "UNAUTHENTICATED",
}
# A dead server is noticed within seconds, and tried again by RobustTracker; whoever uploads large
# artifacts through a slow server sets these higher, and is obeyed.
_CLIENT_DEFAULTS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}

P = ParamSpec("P")
T = TypeVar("T")

# Without it the page opens as one for chat traces, and shows neither runs nor curves.
_EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}


def _final_errors(method: Callable[P, T]) -> Callable[P, T]:
    """Raise :class:`RejectedError` for a refusal, which no second try would change."""

    @functools.wraps(method)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return method(*args, **kwargs)
        except (FileNotFoundError, ModuleNotFoundError, TypeError) as error:
            raise RejectedError(str(error)) from error
        except Exception as error:
            if getattr(error, "error_code", None) in _FINAL_CODES:
                raise RejectedError(str(error)) from error
            raise

    return wrapped


class MlflowTracker:
    """Writes one run at a time to MLflow; see :class:`smt_ray.tracking.protocol.Tracker`.

    Making one connects: it opens the store (an sqlite file is created once, under a lock, since
    two processes that create it together break it) and finds or makes the experiment.

    Args:
        tracking_uri: As :func:`smt_ray.tracking.uris.resolve_tracking_uri` gives it.
        experiment_name: Made if there is none.
        artifact_location: For an experiment made here; None is beside the sqlite file, or what
            the server decides.

    Raises:
        UserError: MLflow has no such scheme.
        RejectedError: The experiment was deleted, or access is denied.
    """

    @_final_errors
    def __init__(
        self, tracking_uri: str, experiment_name: str, artifact_location: str | None = None
    ) -> None:
        self.uri = uris.check_tracking_uri(tracking_uri)
        self.run_id: str | None = None
        for name, value in _CLIENT_DEFAULTS.items():
            os.environ.setdefault(name, value)
        with _creating(self.uri):
            self._client = _quiet_client(self.uri)
            self.experiment_id = self._find_or_make_experiment(experiment_name, artifact_location)

    @_final_errors
    def start_run(
        self,
        run_name: str,
        *,
        key: str | None = None,
        run_id: str | None = None,
        parent_run_id: str | None = None,
        params: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
        started_ms: int | None = None,
    ) -> str:
        """Begin a run, or go on with the one of this ``run_id``, else of this ``key``.

        An id that the store does not have any more is mentioned, and the run sent as a new one.
        """
        run = self._get_run(run_id) or self._find_run(key)
        if run is None:
            if run_id:
                logger.warning("MLflow has no run %s any more: making a new one.", run_id)
            run = self._client.create_run(
                self.experiment_id, start_time=started_ms, run_name=run_name
            )
        else:
            self._client.update_run(run.info.run_id, status="RUNNING", name=run_name)
        self.run_id = run.info.run_id
        own_tags = {KEY_TAG: _tag_value(key), _PARENT_TAG: parent_run_id}
        self.log_tags({**(tags or {}), **{k: v for k, v in own_tags.items() if v}})
        self.log_params(params or {})
        return self.run_id

    @_final_errors
    def log_records(self, records: Sequence[Record]) -> None:
        """Send records, each value with its own time and step."""
        self._log_metrics([metric for record in records for metric in _metrics(record)])

    @_final_errors
    def log_missing_records(self, records: Sequence[Record]) -> None:
        """Send those values that the store does not have; quick where it has nearly all."""
        metrics = [metric for record in records for metric in _metrics(record)]
        present = {
            _identity(metric)
            for key in {metric.key for metric in metrics}
            for metric in self._client.get_metric_history(self._current(), key)
        }
        self._log_metrics([metric for metric in metrics if _identity(metric) not in present])

    @_final_errors
    def log_metrics(
        self, metrics: Mapping[str, float], step: int = 0, *, time_ms: int | None = None
    ) -> None:
        """Send metrics of one moment; without ``time_ms``, of now."""
        self.log_records([make_record(step, metrics, time_ms=time_ms)])

    @_final_errors
    def log_params(self, params: Mapping[str, Any]) -> None:
        """Send parameters that are not None.

        MLflow's never change: other values, None too, are mentioned and not sent.
        """
        from mlflow.entities import Param

        kept = self._client.get_run(self._current()).data.params
        values = {clean_key(k): shorten(as_text(v), MAX_PARAM_CHARS) for k, v in params.items()}
        changed = {key for key, value in values.items() if kept.get(key, value) != value}
        if changed:
            logger.warning(
                "MLflow keeps the first value of: %s.",
                ", ".join(f"{key} ({kept[key]}, now {values[key]})" for key in sorted(changed)),
            )
        unset = {clean_key(key) for key, value in params.items() if value is None}
        new = [Param(k, value) for k, value in values.items() if k not in kept and k not in unset]
        for chunk in _chunks(new, _MAX_PARAMS):
            self._client.log_batch(self._current(), params=chunk)

    @_final_errors
    def log_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags; the newest value stays."""
        from mlflow.entities import RunTag

        values = [RunTag(clean_key(k), shorten(as_text(v), MAX_TAG_CHARS)) for k, v in tags.items()]
        for chunk in _chunks(values, _MAX_PARAMS):
            self._client.log_batch(self._current(), tags=chunk)

    @_final_errors
    def log_dataset(self, dataset: Dataset) -> None:
        """Name rows that the run read, without reading them again."""
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
        self._client.log_inputs(self._current(), datasets=[entities.DatasetInput(entry, [context])])

    @_final_errors
    def log_artifact(self, path: str, artifact_path: str | None = None) -> None:
        """Send one local file."""
        self._client.log_artifact(self._current(), path, artifact_path)

    @_final_errors
    def log_artifacts(self, directory: str, artifact_path: str | None = None) -> None:
        """Send a local folder."""
        self._client.log_artifacts(self._current(), directory, artifact_path)

    @_final_errors
    def log_table(self, columns: Mapping[str, Sequence[Any]], artifact_file: str) -> None:
        """Send a table as MLflow's own ``log_table`` writes it, replacing it instead of adding."""
        table = {"columns": list(columns), "data": list(zip(*columns.values(), strict=True))}
        self._client.log_dict(self._current(), table, artifact_file)
        tags = self._client.get_run(self._current()).data.tags
        entry, listed = (
            {"path": artifact_file, "type": "table"},
            json.loads(tags.get(_TABLES_TAG, "[]")),
        )
        if entry not in listed:
            self._client.set_tag(self._current(), _TABLES_TAG, json.dumps([*listed, entry]))

    @_final_errors
    def end_run(self, status: Status = "FINISHED", *, ended_ms: int | None = None) -> None:
        """Close the run."""
        self._client.set_terminated(self._current(), status, ended_ms)

    def run_url(self) -> str | None:
        """The page of the run; None before one is started."""
        return self.run_id and uris.run_url(self.uri, self.experiment_id, self.run_id)

    def _current(self) -> str:
        assert self.run_id is not None, "start_run comes before anything is logged"
        return self.run_id

    def _log_metrics(self, metrics: Sequence[Metric]) -> None:
        for chunk in _chunks(metrics, _MAX_METRICS):
            self._client.log_batch(self._current(), metrics=chunk)

    def _find_or_make_experiment(self, name: str, artifact_location: str | None) -> str:
        found = self._client.get_experiment_by_name(name)
        if found is None:
            location = artifact_location or uris.default_artifact_location(self.uri)
            try:
                return str(self._client.create_experiment(name, location, _EXPERIMENT_TAGS))
            except Exception:
                found = self._client.get_experiment_by_name(name)  # made by another writer?
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
            if getattr(error, "error_code", None) == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise
        return run if run.info.lifecycle_stage == "active" else None

    def _find_run(self, key: str | None) -> Run | None:
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
    path = uris.sqlite_path(uri)
    if path is not None:
        from filelock import FileLock

        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(f"{path}.lock", timeout=60)
    with lock if path is not None else nullcontext():
        yield


def _quiet_client(uri: str) -> MlflowClient:
    """A client whose libraries speak from WARNING on."""
    from mlflow import MlflowClient

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    return MlflowClient(tracking_uri=uri)


def _metrics(record: Record) -> list[Metric]:
    from mlflow.entities import Metric

    return [
        Metric(clean_key(name), value, record["time_ms"], record["step"])
        for name, value in record["metrics"].items()
    ]


def _identity(metric: Metric) -> tuple[str, int, int, str]:
    # Databases hold infinity as the largest float; and NaN equals no NaN, but its text does.
    largest = 1.7976931348623157e308
    value = (
        metric.value if metric.value != metric.value else max(-largest, min(largest, metric.value))
    )
    return metric.key, metric.timestamp, metric.step, repr(value)


def _tag_value(key: str | None) -> str | None:
    return key and shorten(key.replace("'", "_"), MAX_TAG_CHARS)


def _chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (items[start : start + size] for start in range(0, len(items), size))
