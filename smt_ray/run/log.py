"""``smt-ray log``: sends a run to MLflow from its storage."""

from __future__ import annotations

from contextlib import ExitStack

from smt_ray.artifacts.runs import RunFolder
from smt_ray.artifacts.storage import Storage
from smt_ray.config.load import validate_config
from smt_ray.errors import UserError
from smt_ray.run.export.logged_model import merged_model
from smt_ray.run.snapshot import read_snapshot
from smt_ray.tracking.connect import TRACKER, open_tracker, tracker_settings
from smt_ray.tracking.replay import replay
from smt_ray.tracking.uris import how_to_open, redact

_PATIENCE_S = 600.0


def log_run(storage_root: str, name: str) -> str:
    """Sends a run; returns its address in MLflow, or the command that shows it.

    Entries that MLflow already has stay unchanged.

    Raises:
        UserError: There is no such run, tracking is off in its config, or MLflow does not answer.
    """
    storage = Storage(storage_root)
    run = RunFolder.open(storage, name)
    config = validate_config(run.manifest().config)
    settings = tracker_settings(config.tracking, storage.root)
    if settings is None:
        raise UserError("tracking.enabled", "must be true to send a run", got=False)
    tracker = open_tracker(settings)
    with ExitStack() as models:
        sends_model = config.tracking.log_model and "training" in run.manifest().stages
        model = models.enter_context(merged_model(run)) if sends_model else None
        snapshot = models.enter_context(read_snapshot(run, model))
        run_id = replay(tracker, snapshot)
        complete = tracker.close(_PATIENCE_S)
    if not complete:
        raise UserError(
            "tracking.uri",
            f"MLflow did not take the run ({redact(str(tracker.last_error))})",
            got=redact(settings.uri),
            fix="start the server, or mend the database, and send the run again",
        )
    if found := run_id or tracker.run_id:
        run.update(tracked={TRACKER: found})
    return how_to_open(settings.uri)
