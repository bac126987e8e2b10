"""``smt-ray diff``: the settings, rows, versions and figures that differ between two runs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from smt_ray.artifacts.layout import ENVIRONMENT
from smt_ray.artifacts.runs import RunFolder
from smt_ray.artifacts.storage import Storage
from smt_ray.config.fields import flatten
from smt_ray.config.load import is_execution_key, validate_config
from smt_ray.documents.kept.runs import Pair, RunDifference
from smt_ray.documents.run import Environment
from smt_ray.errors import UserError
from smt_ray.run.snapshot import final_metrics

_OF_EACH_RUN = {"name", "storage"}


def compare_runs(storage: Storage, a: str, b: str) -> RunDifference:
    """What differs between two runs of a storage.

    Raises:
        UserError: There is no such run, or one of its documents is damaged.
    """
    one, other = RunFolder.open(storage, a), RunFolder.open(storage, b)
    config = _differing(_config(one), _config(other))
    settings = _settings(config, one, other)
    return RunDifference(
        a=a,
        b=b,
        settings=settings,
        execution={key: pair for key, pair in config.items() if key not in settings},
        rows=_differing(_rows(one), _rows(other)),
        versions=_differing(_versions(one), _versions(other)),
        figures=_differing(_figures(one), _figures(other)),
    )


def _differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Pair]:
    return {
        key: (one.get(key), other.get(key))
        for key in dict.fromkeys([*one, *other])
        if not _are_equal(one.get(key), other.get(key))
    }


def _are_equal(a: Any, b: Any) -> bool:
    """Whether two values are the same; averages of the same numbers may differ by rounding."""
    if isinstance(a, float) and isinstance(b, float):
        return math.isclose(a, b, rel_tol=1e-12)
    return bool(a == b)


def _config(run: RunFolder) -> dict[str, Any]:
    values = flatten(run.manifest().config)
    return {key: value for key, value in values.items() if key not in _OF_EACH_RUN}


def _settings(config: Mapping[str, Pair], one: RunFolder, other: RunFolder) -> dict[str, Pair]:
    """The pairs of keys that change results of one of the runs; None in a run where it does not."""
    own = [_effective(run, config) for run in (one, other)]
    return {
        key: (a if key in own[0] else None, b if key in own[1] else None)
        for key, (a, b) in config.items()
        if key in own[0] or key in own[1]
    }


def _effective(run: RunFolder, keys: Iterable[str]) -> set[str]:
    """The keys that change results of a run, such as those of LoRA if its method is lora."""
    try:
        return set(flatten(validate_config(run.manifest().config).semantic_tree()))
    except UserError:  # the run was made by another version
        return {key for key in keys if not is_execution_key(key)}


def _rows(run: RunFolder) -> dict[str, Any]:
    """The fingerprints of data sets, since a file may have changed under its name."""
    return {each.name: each.digest[:12] for each in run.manifest().datasets}


def _versions(run: RunFolder) -> dict[str, Any]:
    place = run.path(ENVIRONMENT)
    if not run.storage.exists(place):
        return {}
    found = run.storage.read_document(Environment, place, fix="delete it")
    return {"python": found.python, **found.packages, "commit": (found.commit or "")[:12]}


def _figures(run: RunFolder) -> dict[str, Any]:
    metrics = run.metrics()
    if metrics is None:
        return {}
    of_training = metrics.training.metrics if metrics.training else {}
    return {**final_metrics(metrics), **of_training, "seconds": metrics.seconds}
