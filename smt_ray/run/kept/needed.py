"""What the runs and evaluations of a storage need, by their manifests."""

from __future__ import annotations

from dataclasses import dataclass

from smt_ray.artifacts.layout import EVALUATIONS_FOLDER, RUNS_FOLDER
from smt_ray.artifacts.runs import RunFolder
from smt_ray.artifacts.stages import is_stage_name
from smt_ray.artifacts.storage import Storage
from smt_ray.documents.kept.use import EvaluationEntry
from smt_ray.documents.run import RunManifest
from smt_ray.documents.search import STOPPED


@dataclass(frozen=True)
class Needed:
    """What must be kept.

    Attributes:
        stages: The stages, by name, finished or not.
        resumable: The stages among them that a run may resume. A search never resumes the trials
            that it stopped early.
        probes: The files of probes, as the storage names them.
        stale_evaluations: The entries of evaluations of models that no run has any more, as the
            storage names them.
    """

    stages: frozenset[str]
    resumable: frozenset[str]
    probes: frozenset[str]
    stale_evaluations: tuple[str, ...]


def read_needed(storage: Storage) -> Needed:
    """Reads all manifests of runs, and all entries of evaluations.

    Raises:
        UserError: One of them is damaged, so that nobody knows what it needs.
    """
    folders = [RunFolder(storage, name) for name in storage.list_folders(RUNS_FOLDER)]
    manifests = [folder.manifest() for folder in folders if folder.exists()]
    stages, resumable, stale = set[str](), set[str](), []
    for manifest in manifests:
        stages |= (of_run := stages_of(manifest)) | _started_from(manifest)
        if manifest.tags.get("trial") != STOPPED:
            resumable |= of_run
    for place, entry in _evaluations(storage).items():
        if entry.training is None or entry.training in stages:
            stages.add(entry.stage)
            resumable.add(entry.stage)
        else:
            stale.append(place)
    probes = {manifest.probe for manifest in manifests if manifest.probe}
    return Needed(frozenset(stages), frozenset(resumable), frozenset(probes), tuple(stale))


def stages_of(manifest: RunManifest) -> set[str]:
    """The stages of a run, finished or not."""
    return {*manifest.planned.values(), *(entry.stage for entry in manifest.stages.values())}


def _started_from(manifest: RunManifest) -> set[str]:
    """The stage of the adapter that the training started from; the run's command reads it again."""
    training = manifest.config.get("training")
    place = training.get("init_adapter") if isinstance(training, dict) else None
    return set(filter(is_stage_name, place.split("/"))) if isinstance(place, str) else set()


def _evaluations(storage: Storage) -> dict[str, EvaluationEntry]:
    places = [f"{EVALUATIONS_FOLDER}/{file}" for file in storage.list_files(EVALUATIONS_FOLDER)]
    return {
        place: storage.read_document(
            EvaluationEntry, place, fix="delete it; the evaluation can be made again"
        )
        for place in places
        if place.endswith(".json")
    }
