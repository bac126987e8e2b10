"""What a run keeps in local files must be seen from every node; one that is not is refused.

A path says nothing of what is behind it: /shared may be a volume that all nodes mount, or a folder
of this one. So a file is put there, and a task on each other node looks for it.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from smt_ray.artifacts.storage import Storage
from smt_ray.cluster.nodes import alive_nodes
from smt_ray.config.run import RunConfig
from smt_ray.errors import UserError
from smt_ray.tracking.uris import resolve_tracking_uri, sqlite_path

_PATIENCE_S = 5.0  # for a network's file system to show what another node has just written
_ANSWER_S = 120.0  # for a node to start a process


def check_shared(config: RunConfig, *, tracks: bool = True, searches: bool = False) -> None:
    """Refuses local files that other nodes of the cluster do not see, before anything long starts.

    Args:
        config: A run's configuration; Ray is connected.
        tracks: Whether what is done under it is tracked, if the configuration says so.
        searches: Whether it is a trial's: each tracks from the node that it was placed on.

    Raises:
        UserError: The storage, or the folder of an sqlite file, is not shared; or several nodes
            would write one sqlite file.
    """
    others = _other_nodes()
    if others and searches:
        refuse_sqlite(config, 1 + len(others))
    places = local_places(config, tracks=tracks)
    if not others or not places:
        return
    with _probes(places) as probes:
        missed = find_missed(others, probes)
    refuse_unshared(places, missed, 1 + len(others))


def local_places(config: RunConfig, *, tracks: bool = True) -> dict[str, Path]:
    """The local folders that are written to, by the field; see :func:`check_shared`."""
    storage, places = Storage(config.storage), {}
    if storage.is_local:
        places["storage"] = Path(storage.root)
    database = _database(config) if tracks else None
    if database and not (storage.is_local and database.is_relative_to(storage.root)):
        places["tracking.uri"] = database.parent
    return places


def _database(config: RunConfig) -> Path | None:
    """The sqlite file that a run is tracked to; None where it is tracked elsewhere, or not."""
    if not config.tracking.enabled:
        return None
    root = Storage(config.storage).root
    return sqlite_path(resolve_tracking_uri(config.tracking.uri, root))


def refuse_sqlite(config: RunConfig, num_nodes: int) -> None:
    """Refuses an sqlite file that several nodes would write.

    Network file systems do not keep its locks: on a volume that all nodes see, it breaks.

    Args:
        config: A run's configuration.
        num_nodes: Of the cluster.

    Raises:
        UserError: It is tracked to one.
    """
    if database := _database(config):
        raise UserError(
            "tracking.uri",
            f"must be a server for a search on {num_nodes} nodes: each trial tracks from its own"
            " node, and an sqlite file does not survive writers on several",
            got=str(database),
            fix="start one (infra/mlflow) and set tracking.uri=http://..., or set"
            " tracking.enabled=false",
        )


def find_missed(nodes: Iterable[str], probes: Mapping[str, Path]) -> dict[str, list[str]]:
    """The nodes that do not see a file, by its name among the probes.

    Args:
        nodes: Ray's ids of them. One that is lost meanwhile has no say.
        probes: Files that are there.
    """
    look = ray.remote(num_cpus=0, max_retries=0)(_missing)
    files = {field: str(file) for field, file in probes.items()}
    asked = {
        look.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(
            files
        ): node
        for node in nodes
    }
    answered, _ = ray.wait(list(asked), num_returns=len(asked), timeout=_ANSWER_S)
    missed: dict[str, list[str]] = {field: [] for field in probes}
    for answer in answered:
        with suppress(ray.exceptions.RayError):
            for field in ray.get(answer):
                missed[field].append(asked[answer])
    return missed


def refuse_unshared(
    places: Mapping[str, Path], missed: Mapping[str, Sequence[str]], num_nodes: int
) -> None:
    """Refuses a place that nodes miss.

    Args:
        places: Folders, by field.
        missed: Nodes that do not see a file there, by field.
        num_nodes: Of the cluster.

    Raises:
        UserError: There is one.
    """
    fixes = {
        "storage": "set storage to an object store (s3://...) or a folder on a volume that all"
        " nodes mount",
        "tracking.uri": "set tracking.uri to a server (http://...) or tracking.enabled=false",
    }
    for field, place in places.items():
        if nodes := missed.get(field):
            raise UserError(
                field,
                f"must be seen from every node, and {len(nodes)} of {num_nodes} do not see it",
                got=str(place),
                fix=fixes[field],
            )


def _other_nodes() -> list[str]:
    here = ray.get_runtime_context().get_node_id()
    return [node["NodeID"] for node in alive_nodes() if node["NodeID"] != here]


@contextmanager
def _probes(places: Mapping[str, Path]) -> Iterator[dict[str, Path]]:
    """A new file in each folder, for the block's time."""
    probes = {field: place / f".probe-{uuid.uuid4().hex}" for field, place in places.items()}
    try:
        for probe in probes.values():
            probe.parent.mkdir(parents=True, exist_ok=True)
            probe.touch()
        yield probes
    finally:
        for probe in probes.values():
            probe.unlink(missing_ok=True)


def _missing(files: dict[str, str]) -> list[str]:
    """The names of those files that this node does not see."""
    until = time.monotonic() + _PATIENCE_S
    while missing := [name for name, file in files.items() if not Path(file).exists()]:
        if time.monotonic() > until:
            break
        time.sleep(0.5)
    return missing
