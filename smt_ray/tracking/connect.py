"""The tracker of a run: its settings from the config, and how it is opened."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from smt_ray.config.running import TrackingConfig
from smt_ray.imports import large_imports
from smt_ray.tracking.protocol import Tracker
from smt_ray.tracking.robust import RobustTracker
from smt_ray.tracking.uris import resolve_tracking_uri, tracking_environment

TRACKER = "mlflow"
"""The name of the tracker in the documents of a run."""


@dataclass(frozen=True)
class TrackerSettings:
    """The settings of a run's tracker.

    Attributes:
        environment: The driver's MLflow variables, including credentials. They are set in the
            process of the writer only.
    """

    uri: str
    experiment: str
    environment: Mapping[str, str]


def tracker_settings(config: TrackingConfig, storage_root: str) -> TrackerSettings | None:
    """The settings of a run's tracker; None if tracking is off.

    The URI is that of the config, else MLFLOW_TRACKING_URI, else an sqlite file in the storage.

    Raises:
        UserError: MLflow does not support the URI.
    """
    if not config.enabled:
        return None
    uri = resolve_tracking_uri(config.uri, storage_root)
    return TrackerSettings(uri, config.experiment, tracking_environment())


def open_tracker(settings: TrackerSettings) -> RobustTracker:
    """Opens the tracker of one run; the connection to the store is made in the background."""
    os.environ.update(settings.environment)

    def connect() -> Tracker:
        with large_imports():
            from smt_ray.tracking.mlflow_tracker import MlflowTracker

            return MlflowTracker(settings.uri, settings.experiment)

    return RobustTracker(connect)
