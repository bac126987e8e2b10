"""``smt-ray runs``: the runs of a storage, each in one line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from smt_ray.artifacts.layout import RUNS_FOLDER, STAGES_FOLDER
from smt_ray.artifacts.runs import RunFolder
from smt_ray.artifacts.storage import Storage
from smt_ray.artifacts.use import living_uses, use_of_run
from smt_ray.documents.kept.runs import ListedStatus, RunList, RunSummary
from smt_ray.documents.run import RunManifest, RunMetrics
from smt_ray.errors import UserError
from smt_ray.run.kept.needed import stages_of

_AT_ONCE = 8  # reads of a remote storage


@dataclass(frozen=True)
class _Found:
    """The documents of a run; an empty manifest if they cannot be read."""

    manifest: RunManifest
    metrics: RunMetrics | None = None
    problem: str = ""


def list_runs(storage: Storage) -> RunList:
    """The runs of a storage, the latest first; none if there is no such storage."""
    folders = [RunFolder(storage, name) for name in storage.list_folders(RUNS_FOLDER)]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        found = list(pool.map(_read, [folder for folder in folders if folder.exists()]))
    living = {use.what for use in living_uses(storage).values()}
    of_runs, of_stages = _sizes(storage, RUNS_FOLDER), _sizes(storage, STAGES_FOLDER)
    stages = {stage for each in found for stage in stages_of(each.manifest)}
    runs = [_summary(each, living, of_runs, of_stages) for each in found]
    return RunList(
        storage=storage.root,
        num_bytes=sum(of_runs.values()) + sum(of_stages[stage] for stage in stages),
        runs=sorted(runs, key=lambda run: (-(run.started_ms or 0), run.name)),
    )


def _read(folder: RunFolder) -> _Found:
    try:
        return _Found(folder.manifest(), folder.metrics())
    except UserError as error:
        return _Found(RunManifest(name=folder.name), problem=str(error))


def _sizes(storage: Storage, folder: str) -> Counter[str]:
    """The bytes of each folder of a folder."""
    sizes: Counter[str] = Counter()
    for file, size in storage.sizes(folder).items():
        sizes[file.partition("/")[0]] += size
    return sizes


def _summary(
    found: _Found, living: Set[str], of_runs: Mapping[str, int], of_stages: Mapping[str, int]
) -> RunSummary:
    manifest, metrics = found.manifest, found.metrics or RunMetrics()
    training = [each.source for each in manifest.datasets if each.context == "training"]
    return RunSummary(
        name=manifest.name,
        status="DAMAGED" if found.problem else _status(manifest, living),
        problem=found.problem,
        method=manifest.tags.get("method"),
        model=manifest.tags.get("model"),
        data=[source for text in training for source in text.split(", ")],
        base_accuracy=metrics.average("base"),
        accuracy=metrics.average("tuned"),
        validation_loss=metrics.training.validation_loss if metrics.training else None,
        started_ms=manifest.started_ms,
        seconds=metrics.seconds,
        num_bytes=of_runs[manifest.name] + sum(of_stages[s] for s in stages_of(manifest)),
    )


def _status(manifest: RunManifest, living: Set[str]) -> ListedStatus | None:
    if manifest.status == "RUNNING" and use_of_run(manifest.name) not in living:
        return "INTERRUPTED"
    return manifest.status
