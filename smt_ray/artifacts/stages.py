"""Stages: folders that are named by a fingerprint of their inputs and finished by a manifest."""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from smt_ray.artifacts.layout import MANIFEST, stage_folder
from smt_ray.artifacts.storage import Storage
from smt_ray.documents.base import Document
from smt_ray.documents.rows import TokensSummary
from smt_ray.documents.stages import (
    EvaluationSummary,
    FileDigest,
    SelectionSummary,
    StageManifest,
    TrainingSummary,
    WarmupSummary,
)
from smt_ray.errors import UserError

S = TypeVar("S", bound=Document)


@dataclass(frozen=True)
class StageKind(Generic[S]):
    """A kind of stage.

    Attributes:
        name: The first part of the names of its folders.
        version: A number to raise when the artifacts of equal inputs would change.
    """

    name: str
    version: int
    summary: type[S]


TOKENS = StageKind("tokens", 3, TokensSummary)
WARMUP = StageKind("warmup", 3, WarmupSummary)
SELECTION = StageKind("selection", 3, SelectionSummary)
TRAINING = StageKind("training", 4, TrainingSummary)
EVALUATION = StageKind("evaluation", 3, EvaluationSummary)
_KINDS: tuple[StageKind[Any], ...] = (TOKENS, WARMUP, SELECTION, TRAINING, EVALUATION)
_FINGERPRINT = re.compile("[0-9a-f]{12}")


def is_stage_name(name: str) -> bool:
    """Whether a folder has the name of a stage."""
    kind, _, digits = name.rpartition("-")
    return any(kind == known.name for known in _KINDS) and bool(_FINGERPRINT.fullmatch(digits))


def fingerprint(value: Any) -> str:
    """12 hexadecimal digits that name a JSON value."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Finished(Generic[S]):
    """The content of a finished stage's manifest.

    Attributes:
        summary: The results that a reader needs without opening the artifacts.
        files: The digest of each artifact, by its path within the folder of the stage.
    """

    summary: S
    seconds: float
    files: Mapping[str, FileDigest]


class Stage(Generic[S]):
    """The artifacts of one step of a run.

    Args:
        inputs: Everything that the artifacts depend on, as JSON values.
    """

    def __init__(self, storage: Storage, kind: StageKind[S], inputs: Mapping[str, Any]) -> None:
        self.storage, self.kind = storage, kind
        self.inputs: dict[str, Any] = {"version": kind.version, **inputs}
        self.name = f"{kind.name}-{fingerprint(self.inputs)}"
        self.folder = stage_folder(self.name)
        self._finished: Finished[S] | None = None
        self._verified = False  # hashing takes long, so the files are compared once only

    @classmethod
    def open(cls, storage: Storage, name: str) -> Stage[Any]:
        """Opens a finished stage by its name, and compares its files with their checksums.

        Raises:
            UserError: There is no finished stage of that name, or a file is missing, truncated or
                edited.
        """
        stage = cls.at(storage, name)
        if not stage.verify():
            raise _unfinished(storage, name)
        return stage

    @classmethod
    def at(cls, storage: Storage, name: str) -> Stage[Any]:
        """Finds a stage by its name, finished or not. The inputs of an unfinished one are unknown.

        Raises:
            UserError: No kind of stage has such a name, or the manifest is damaged.
        """
        kind = next((kind for kind in _KINDS if name.startswith(f"{kind.name}-")), None)
        if kind is None:
            raise _unfinished(storage, name)
        stage: Stage[Any] = Stage(storage, kind, {})
        stage.name, stage.folder = name, stage_folder(name)
        if stage.is_done():
            stage.inputs = dict(_read_manifest(storage, name).inputs)
        return stage

    def path(self, file: str) -> str:
        """A file of the stage, as the storage names it."""
        return f"{self.folder}/{file}"

    @property
    def uri(self) -> str:
        """The path or URI of the stage's folder."""
        return self.storage.uri(self.folder)

    def is_done(self) -> bool:
        """Whether the stage is finished. Its files are not checked."""
        return self._finished is not None or self._has(MANIFEST)

    def verify(self) -> bool:
        """Whether the stage is finished. If it is, its files are compared with their checksums.

        Raises:
            UserError: A file is missing, truncated or edited.
        """
        if not self.is_done():
            return False
        if not self._verified:
            self._check_files(self.read().files)
            self._verified = True
        return True

    def read(self) -> Finished[S]:
        """The content of the manifest. The files of the stage are not checked.

        Raises:
            UserError: The stage is not finished, or its manifest is damaged.
        """
        if self._finished is None:
            if not self._has(MANIFEST):
                raise _unfinished(self.storage, self.name)
            manifest = _read_manifest(self.storage, self.name)
            summary = self.kind.summary.from_json(
                manifest.summary,
                place=self.storage.uri(self.path(MANIFEST)),
                fix=_make_again(self.uri),
            )
            self._finished = Finished(summary, manifest.seconds, manifest.files)
        return self._finished

    def publish(self, files: Sequence[str], summary: S, seconds: float) -> Finished[S]:
        """Marks the stage as finished, by writing its manifest.

        Args:
            files: The artifacts, relative to the folder of the stage; they must be written already.
        """
        digests = {file: self.storage.digest(self.path(file)) for file in sorted(files)}
        manifest = StageManifest(
            stage=self.name,
            inputs=self.inputs,
            files=digests,
            summary=summary.to_json(),
            seconds=round(seconds, 2),
            finished_at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        )
        self.storage.write_json(self.path(MANIFEST), manifest.to_json())
        self._finished = Finished(summary, manifest.seconds, digests)
        self._verified = True
        return self._finished

    def _check_files(self, files: Mapping[str, FileDigest]) -> None:
        for file, digest in files.items():
            found = self.storage.digest(self.path(file)) if self._has(file) else None
            if found != digest:
                raise UserError(
                    self.storage.uri(self.path(file)),
                    "was truncated or edited since its stage was finished",
                    got=found.to_json() if found else "missing",
                    fix=_make_again(self.uri),
                )

    def _has(self, file: str) -> bool:
        return self.storage.exists(self.path(file))


def _read_manifest(storage: Storage, name: str) -> StageManifest:
    place = storage.uri(stage_folder(name), MANIFEST)
    fix = _make_again(storage.uri(stage_folder(name)))
    manifest = storage.read_document(StageManifest, f"{stage_folder(name)}/{MANIFEST}", fix=fix)
    if not manifest.stage == name == f"{name.rpartition('-')[0]}-{fingerprint(manifest.inputs)}":
        raise UserError(place, f"must be the manifest of {name}", got=manifest.stage, fix=fix)
    return manifest


def _make_again(uri: str) -> str:
    return f"delete {uri} to make the stage again"


def _unfinished(storage: Storage, name: str) -> UserError:
    return UserError(
        storage.uri(stage_folder(name)), "must be a finished stage", fix="finish its run first"
    )
