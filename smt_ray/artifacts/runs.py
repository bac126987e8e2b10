"""A run's folder: a small manifest that names its stages, and what it ended with."""

from __future__ import annotations

from typing import Any

from smt_ray.artifacts.storage import Storage
from smt_ray.errors import UserError


class RunFolder:
    """``runs/<name>/``: run.json, config.yaml, environment.json, metrics.json."""

    def __init__(self, storage: Storage, name: str) -> None:
        self.storage, self.name = storage, name
        self.folder = f"runs/{name}"

    @classmethod
    def open(cls, storage: Storage, name: str) -> RunFolder:
        """An existing run.

        Raises:
            UserError: There is none of that name; the names there are are listed.
        """
        run = cls(storage, name)
        if not storage.exists(run.path("run.json")):
            known = ", ".join(storage.list_folders("runs")) or "none"
            raise UserError(
                "--run",
                f"no such run in {storage.root}",
                got=name,
                fix=f"runs there: {known}; another storage is chosen with --storage",
            )
        return run

    def path(self, file: str) -> str:
        """A file of the run, as the storage names it."""
        return f"{self.folder}/{file}"

    @property
    def uri(self) -> str:
        """Where the run lies."""
        return self.storage.uri(self.folder)

    def manifest(self) -> dict[str, Any]:
        """run.json, or an empty one where the run is new.

        Raises:
            UserError: It is no JSON any more.
        """
        place = self.path("run.json")
        if not self.storage.exists(place):
            return {"name": self.name, "stages": {}}
        try:
            manifest: dict[str, Any] = self.storage.read_json(place)
        except ValueError as error:
            raise UserError(
                self.storage.uri(place),
                f"cannot be read ({error})",
                fix="delete it and start the run again: finished stages are found again",
            ) from None
        return manifest

    def update(self, **entries: Any) -> dict[str, Any]:
        """Merges entries into run.json."""
        manifest = {**self.manifest(), **entries}
        self.storage.write_json(self.path("run.json"), manifest)
        return manifest

    def add_stage(self, kind: str, name: str, *, seconds: float, reused: bool) -> None:
        """Notes a finished stage in run.json."""
        stages = dict(self.manifest()["stages"])
        stages[kind] = {"stage": name, "seconds": seconds, "reused": reused}
        self.update(stages=stages)
