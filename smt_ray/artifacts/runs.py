"""The folder of a run: a small manifest that names its stages, and the results of the run."""

from __future__ import annotations

from typing import Any

from smt_ray.artifacts.layout import RUN, RUN_METRICS, RUNS_FOLDER, run_folder
from smt_ray.artifacts.storage import Storage
from smt_ray.documents.run import RunManifest, RunMetrics, StageEntry
from smt_ray.errors import UserError


class RunFolder:
    """The folder ``runs/<name>/`` of one run."""

    def __init__(self, storage: Storage, name: str) -> None:
        self.storage, self.name = storage, name
        self.folder = run_folder(name)

    @classmethod
    def open(cls, storage: Storage, name: str) -> RunFolder:
        """Opens the folder of an existing run.

        Raises:
            UserError: The storage has no run of that name; the message lists the runs it has.
        """
        run = cls(storage, name)
        if not run.exists():
            known = ", ".join(storage.list_folders(RUNS_FOLDER)) or "none"
            raise UserError(
                "--run",
                f"no such run in {storage.root}",
                got=name,
                fix=f"runs there: {known}; choose another storage with --storage",
            )
        return run

    def path(self, file: str) -> str:
        """A file of the run, as the storage names it."""
        return f"{self.folder}/{file}"

    @property
    def uri(self) -> str:
        """The path or URI of the run's folder."""
        return self.storage.uri(self.folder)

    def exists(self) -> bool:
        """Whether the run was ever started."""
        return self.storage.exists(self.path(RUN))

    def manifest(self) -> RunManifest:
        """``run.json``, or an empty manifest for a new run.

        Raises:
            UserError: The file is damaged.
        """
        if not self.exists():
            return RunManifest(name=self.name)
        return self.storage.read_document(
            RunManifest,
            self.path(RUN),
            fix="delete it and start the run again, which reuses the finished stages",
        )

    def update(self, **fields: Any) -> RunManifest:
        """Sets fields of ``run.json``; returns the new manifest."""
        values = {**self.manifest().to_json(), **fields}
        manifest = RunManifest.model_validate(values)
        self.storage.write_json(self.path(RUN), manifest.to_json())
        return manifest

    def add_stage(self, kind: str, name: str, *, seconds: float, reused: bool) -> None:
        """Adds a finished stage to ``run.json``."""
        entry = StageEntry(stage=name, seconds=seconds, reused=reused)
        self.update(stages={**self.manifest().stages, kind: entry})

    def metrics(self) -> RunMetrics | None:
        """``metrics.json``, or None for a run that has not ended.

        Raises:
            UserError: The file is damaged.
        """
        if not self.storage.exists(self.path(RUN_METRICS)):
            return None
        return self.storage.read_document(
            RunMetrics,
            self.path(RUN_METRICS),
            fix="start the same run again, which writes the file again",
        )
