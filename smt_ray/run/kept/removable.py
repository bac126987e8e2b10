"""What a storage can lose: what no run needs, and the checkpoints of finished stages."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from smt_ray.artifacts.layout import (
    CHECKPOINTS,
    COMPARISONS_FOLDER,
    EVALUATIONS_FOLDER,
    MANIFEST,
    PROBES_FOLDER,
    RUNS_FOLDER,
    SEARCHES_FOLDER,
    STAGES_FOLDER,
    TUNE_FOLDER,
    USES_FOLDER,
    stage_folder,
)
from smt_ray.artifacts.stages import Stage, is_stage_name
from smt_ray.artifacts.storage import Storage
from smt_ray.artifacts.use import dead_marks
from smt_ray.run.kept.needed import Needed, read_needed

Sizes = dict[str, int]
"""File of the storage -> its bytes."""

_UNFINISHED = re.compile(r"\.[0-9a-f]{8}\.part$|(^|/)\.(probe|clock)-[0-9a-f]{32}$")


class Reason(StrEnum):
    """Why something can be deleted, as users read it."""

    NO_RUN = "stages that no run names"
    NO_PROBE = "probes that no run names"
    INTERRUPTED = "files that killed processes left"
    TUNE = "Ray Tune's files of searches"
    CHECKPOINTS = "checkpoints of finished stages"
    SCRATCH = "temporary folders of killed processes"


@dataclass(frozen=True)
class Removable:
    """Something that can be deleted.

    Attributes:
        place: The file or folder, as the storage names it; a local path for scratch folders.
        files: The files that are deleted, as the storage names them, with their bytes.
        is_folder: Whether the place is a folder that is deleted as a whole.
    """

    reason: Reason
    place: str
    files: Sizes
    is_folder: bool = False

    @property
    def num_bytes(self) -> int:
        """The bytes of its files."""
        return sum(self.files.values())


def find_removable(storage: Storage, *, checkpoints: bool = True) -> list[Removable]:
    """Everything that the storage can lose. Nothing that a run names is damaged by its loss.

    Args:
        checkpoints: Whether the checkpoints of finished stages are among it.

    Raises:
        UserError: A manifest is damaged, so that nobody knows what is needed.
    """
    needed, stages = read_needed(storage), _by_folder(storage, STAGES_FOLDER)
    found = list(_unneeded(needed, stages))
    found += [
        Removable(Reason.NO_RUN, place, _sizes(storage, place))
        for place in needed.stale_evaluations
    ]
    found += _probes(storage, needed)
    found += _tune(storage)
    if checkpoints:
        found += _checkpoints(storage, needed, stages)
    listed = {file for each in found for file in each.files}
    found += [e for e in _interrupted(storage, needed, stages) if e.place not in listed]
    return [each for each in found if each.files]


def _by_folder(storage: Storage, folder: str) -> dict[str, Sizes]:
    """The files below each folder of a folder, as the storage names them."""
    found: dict[str, Sizes] = defaultdict(dict)
    for file, size in storage.sizes(folder).items():
        if "/" in file:
            found[file.partition("/")[0]][f"{folder}/{file}"] = size
    return found


def _sizes(storage: Storage, place: str) -> Sizes:
    folder, _, name = place.rpartition("/")
    sizes = storage.sizes(folder, recursive=False)
    return {place: sizes[name]} if name in sizes else {}


def _unneeded(needed: Needed, stages: Mapping[str, Sizes]) -> Iterator[Removable]:
    for name, files in stages.items():
        if is_stage_name(name) and name not in needed.stages:
            yield Removable(Reason.NO_RUN, stage_folder(name), files, is_folder=True)


def _probes(storage: Storage, needed: Needed) -> Iterator[Removable]:
    for file, size in storage.sizes(PROBES_FOLDER).items():
        place = f"{PROBES_FOLDER}/{file}"
        if place.endswith(".json") and place not in needed.probes:
            yield Removable(Reason.NO_PROBE, place, {place: size})


def _interrupted(
    storage: Storage, needed: Needed, stages: Mapping[str, Sizes]
) -> Iterator[Removable]:
    """What killed processes left of their writes, and their marks."""
    files = dict(storage.sizes("", recursive=False))
    for folder in (RUNS_FOLDER, COMPARISONS_FOLDER, SEARCHES_FOLDER, EVALUATIONS_FOLDER,
                   PROBES_FOLDER, USES_FOLDER):  # fmt: skip
        files |= {f"{folder}/{file}": size for file, size in storage.sizes(folder).items()}
    for name, of_stage in stages.items():
        if name in needed.stages:
            files |= of_stage
    dead = set(dead_marks(storage))
    for file, size in files.items():
        if _UNFINISHED.search(file) or file in dead:
            yield Removable(Reason.INTERRUPTED, file, {file: size})


def _tune(storage: Storage) -> Iterator[Removable]:
    """A search resumes from its own record and from stages, never from Ray Tune's files."""
    for search in storage.list_folders(SEARCHES_FOLDER):
        place = f"{SEARCHES_FOLDER}/{search}/{TUNE_FOLDER}"
        files = {f"{place}/{file}": size for file, size in storage.sizes(place).items()}
        yield Removable(Reason.TUNE, place, files, is_folder=True)


def _checkpoints(
    storage: Storage, needed: Needed, stages: Mapping[str, Sizes]
) -> Iterator[Removable]:
    """The checkpoints that no run can resume from.

    They hold optimizer states and, after a trained warm-up, the sums of gradients. A stage that
    finishes deletes its own; those of trials that a search stopped remain.
    """
    for name, files in stages.items():
        if name not in needed.stages:
            continue
        place = f"{stage_folder(name)}/{CHECKPOINTS}"
        lost = {file: size for file, size in files.items() if file.startswith(f"{place}/")}
        if lost and (name not in needed.resumable or _is_done(storage, name, files)):
            yield Removable(Reason.CHECKPOINTS, place, lost)


def _is_done(storage: Storage, name: str, files: Sizes) -> bool:
    """Whether a stage is finished and its manifest can be read.

    Raises:
        UserError: The manifest is damaged.
    """
    if f"{stage_folder(name)}/{MANIFEST}" not in files:
        return False
    Stage.at(storage, name)
    return True
