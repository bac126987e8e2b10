"""Where a run is tracked, and what of it: the config's tracking section made concrete."""

from __future__ import annotations

import os
from typing import Any

from smt_ray.artifacts.storage import Storage
from smt_ray.config.run import RunConfig
from smt_ray.imports import large_imports
from smt_ray.tracking.robust import RobustTracker
from smt_ray.tracking.uris import (
    default_artifact_location,
    resolve_tracking_uri,
    tracking_environment,
)


def tracker_arguments(config: RunConfig, storage: Storage) -> dict[str, Any] | None:
    """Arguments of :func:`open_tracker`, or None where tracking is off.

    The URI is the config's, else MLFLOW_TRACKING_URI, else an sqlite file in the storage.

    Raises:
        UserError: MLflow cannot use the URI.
    """
    if not config.tracking.enabled:
        return None
    return {
        "uri": resolve_tracking_uri(config.tracking.uri, storage.root),
        "experiment": config.tracking.experiment,
        "environment": tracking_environment(),
    }


def open_tracker(uri: str, experiment: str, environment: dict[str, str]) -> RobustTracker:
    """The tracker of one run; its store is opened in the background.

    Args:
        uri: Tracking URI.
        experiment: Experiment name.
        environment: The driver's MLflow variables, credentials among them, for this process only.
    """
    os.environ.update(environment)

    def connect() -> Any:
        with large_imports():
            from smt_ray.tracking.mlflow_tracker import MlflowTracker

            return MlflowTracker(uri, experiment, default_artifact_location(uri))

    return RobustTracker(connect)
