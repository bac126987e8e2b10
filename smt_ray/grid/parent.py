"""The tracked run that the runs of a comparison or the trials of a search are shown under."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Literal, Self

from smt_ray.cluster.writer import TrackedRun
from smt_ray.config.comparison import ComparisonConfig
from smt_ray.config.running import TrackingConfig
from smt_ray.config.search import SearchConfig
from smt_ray.documents.run import Status
from smt_ray.grid.folder import GroupFolder
from smt_ray.run.record import now_ms, user_name
from smt_ray.tracking.connect import tracker_settings
from smt_ray.tracking.params import as_description, config_params
from smt_ray.tracking.protocol import RunStart
from smt_ray.tracking.replay import RunSnapshot

_PATIENCE_S = 60.0


class ParentRun:
    """The tracked run of a comparison or a search; it does nothing without tracking.

    As a context manager it ends the tracked run if an exception leaves the context.
    """

    def __init__(
        self,
        kind: Literal["comparison", "search"],
        config: ComparisonConfig | SearchConfig,
        folder: GroupFolder,
        tracking: TrackingConfig,
    ) -> None:
        self.folder = folder
        self._kind, self._config = kind, config
        self._started_ms = now_ms()
        self._has_ended = False
        settings = tracker_settings(tracking, folder.storage.root)
        self._tracked = TrackedRun(
            settings,
            f"when it answers, start the same {kind} again: finished work is skipped and the rest"
            " is sent",
        )
        if settings:
            self._tracked.start(self._start())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None and not self._has_ended:
            self.end("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")

    @property
    def run_id(self) -> str | None:
        """The tracker's id of this run, which its runs name; None without tracking."""
        return self._tracked.run_id

    def end(
        self, status: Status, metrics: Mapping[str, float] | None = None, summary: str = ""
    ) -> None:
        """Sends the metrics, a summary as Markdown and the files of the folder.

        It warns if the tracker does not take them.
        """
        self._has_ended = True
        self._tracked.finish(self._snapshot(status, dict(metrics or {}), summary), _PATIENCE_S)

    @contextmanager
    def _snapshot(
        self, status: Status, metrics: dict[str, float], summary: str
    ) -> Iterator[RunSnapshot]:
        start = self._start({"description": as_description(summary)} if summary else None)
        storage = self.folder.storage
        with ExitStack() as copies:  # the process of the writer reads them
            files = [copies.enter_context(storage.local(file)) for file in self.folder.files]
            yield RunSnapshot(
                **{**vars(start), "run_id": self.run_id},
                status=status,
                ended_ms=now_ms(),
                final_metrics=metrics,
                artifacts=[(str(file), None) for file in files],
            )

    def _start(self, tags: Mapping[str, str] | None = None) -> RunStart:
        return RunStart(
            name=f"{self._config.name} ({self._kind})",  # a search may share a comparison's name
            key=self.folder.uri(),
            started_ms=self._started_ms,
            params=config_params(self._config.model_dump(mode="json")),
            tags={
                "kind": self._kind,
                "source": "smt-ray",
                "user": user_name(),
                **(tags or {}),
            },
        )
