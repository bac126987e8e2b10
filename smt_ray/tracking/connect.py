"""The tracker of a run: what the config's tracking section means, and how a tracker is opened."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from smt_ray.config.running import TrackingConfig
from smt_ray.imports import large_imports
from smt_ray.tracking.protocol import Tracker
from smt_ray.tracking.robust import RobustTracker
from smt_ray.tracking.uris import (
    default_artifact_location,
    resolve_tracking_uri,
    tracking_environment,
)

TRACKER = "mlflow"
"""The name of the tracker in the documents of a run."""


@dataclass(frozen=True)
class TrackerSettings:
    """Where a run is tracked.

    Attributes:
        uri: The tracking URI.
        experiment: The name of the experiment.
        environment: The driver's MLflow variables, credentials among them. They are set in the
            process of the writer only.
    """

    uri: str
    experiment: str
    environment: Mapping[str, str]


def tracker_settings(config: TrackingConfig, storage_root: str) -> TrackerSettings | None:
    """Where a run is tracked, or None if tracking is off.

    The URI is the config's, or MLFLOW_TRACKING_URI, or an sqlite file in the storage.

    Args:
        config: The ``tracking`` section.
        storage_root: The path or URI of the storage.

    Raises:
        UserError: MLflow cannot use the URI.
    """
    if not config.enabled:
        return None
    uri = resolve_tracking_uri(config.uri, storage_root)
    return TrackerSettings(uri, config.experiment, tracking_environment())


def open_tracker(settings: TrackerSettings) -> RobustTracker:
    """The tracker of one run; its store is opened in the background."""
    os.environ.update(settings.environment)

    def connect() -> Tracker:
        with large_imports():
            from smt_ray.tracking.mlflow_tracker import MlflowTracker

            location = default_artifact_location(settings.uri)
            return MlflowTracker(settings.uri, settings.experiment, location)

    return RobustTracker(connect)
