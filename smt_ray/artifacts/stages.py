"""Stages: folders named after what made them, done only by a manifest that is written last."""

from __future__ import annotations

import hashlib
import json
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from smt_ray.artifacts.storage import Storage
from smt_ray.errors import UserError

MANIFEST = "manifest.json"

# Raised where a stage's artifacts would come out otherwise than before from the same inputs.
STAGE_VERSIONS = {"tokens": 2, "warmup": 1, "selection": 1, "training": 2, "evaluation": 1}


def fingerprint(value: Any) -> str:
    """12 hexadecimal digits that name a JSON value."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


class Stage:
    """One step's artifacts.

    Args:
        storage: Where stages are kept.
        kind: The step: a key of ``STAGE_VERSIONS``.
        inputs: Everything that its artifacts depend on, as JSON values.
    """

    def __init__(self, storage: Storage, kind: str, inputs: dict[str, Any]) -> None:
        self.storage, self.kind = storage, kind
        self.inputs = {"version": STAGE_VERSIONS[kind], **inputs}
        self.name = f"{kind}-{fingerprint(self.inputs)}"
        self.folder = f"stages/{self.name}"
        self._manifest: dict[str, Any] | None = None  # once checked, not hashed again

    @classmethod
    def open(cls, storage: Storage, name: str) -> Stage:
        """A finished stage by its name alone.

        Raises:
            UserError: There is none of that name, or a file is missing, truncated or edited.
        """
        if not storage.exists("stages", name, MANIFEST):
            raise UserError(
                storage.uri("stages", name), "must be a finished stage", fix="finish its run first"
            )
        stage = cls(storage, name.rpartition("-")[0], _read_manifest(storage, name)["inputs"])
        stage.manifest()
        return stage

    def path(self, file: str) -> str:
        """A file of the stage, as the storage names it."""
        return f"{self.folder}/{file}"

    @property
    def uri(self) -> str:
        """Where the stage lies."""
        return self.storage.uri(self.folder)

    def local(self, file: str) -> AbstractContextManager[Path]:
        """A local path that holds a file or folder of the stage, for the block's time."""
        return self.storage.local(self.path(file))

    def manifest(self) -> dict[str, Any] | None:
        """What the finished stage says of itself, or None where it is not done.

        Raises:
            UserError: A file is missing, truncated or edited.
        """
        if self._manifest is not None:
            return self._manifest
        if not self.storage.exists(self.path(MANIFEST)):
            return None
        manifest = _read_manifest(self.storage, self.name)
        for file, digest in manifest["files"].items():
            found = self.storage.digest(self.path(file)) if self._has(file) else "missing"
            if found != digest:
                raise UserError(
                    self.storage.uri(self.path(file)),
                    "was truncated or edited since its stage was done",
                    got=found,
                    fix=f"delete {self.uri} to make it again",
                )
        self._manifest = manifest
        return manifest

    def is_done(self) -> bool:
        """Whether there is a manifest, whatever became of its files: no byte of them is read."""
        return self._manifest is not None or self._has(MANIFEST)

    def publish(self, files: list[str], summary: dict[str, Any], seconds: float) -> dict[str, Any]:
        """Marks the stage done.

        Args:
            files: Its artifacts, relative to its folder, already written.
            summary: What a reader wants to know without opening them.
            seconds: What it took.
        """
        manifest = {
            "stage": self.name,
            "inputs": self.inputs,
            "files": {file: self.storage.digest(self.path(file)) for file in sorted(files)},
            "summary": summary,
            "seconds": round(seconds, 2),
            "finished_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        self.storage.write_json(self.path(MANIFEST), manifest)
        self._manifest = manifest
        return manifest

    def _has(self, file: str) -> bool:
        return self.storage.exists(self.path(file))


def _read_manifest(storage: Storage, name: str) -> dict[str, Any]:
    place = f"stages/{name}/{MANIFEST}"
    try:
        manifest: dict[str, Any] = storage.read_json(place)
        made = f"{name.rpartition('-')[0]}-{fingerprint(manifest['inputs'])}"
        if manifest["stage"] == made == name and isinstance(manifest["files"], dict):
            return manifest
        problem = f"must be the manifest of {name}"
    except (ValueError, KeyError, TypeError) as error:
        problem = f"cannot be read ({type(error).__name__}: {error})"
    raise UserError(
        storage.uri(place),
        problem,
        fix=f"delete {storage.uri('stages', name)} to make the stage again",
    )
