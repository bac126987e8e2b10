"""The check that every node sees the local files of a run.

A path does not say whether it is shared: /shared may be a volume that all nodes mount, or a folder
of this node. So the check writes a file there, and a task on every other node looks for it.
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

_PATIENCE_S = 5.0  # within which a network file system shows a file of another node
_ANSWER_S = 120.0  # within which a node starts a process


def check_shared(config: RunConfig, *, tracks: bool = True, searches: bool = False) -> None:
    """Refuses local files that other nodes do not see, before anything long is computed.

    Ray must be connected.

    Args:
        tracks: Whether the work is tracked if the configuration says so.
        searches: Whether the run is a trial of a search. A trial writes to the tracking store from
            the node on which Ray places it.

    Raises:
        UserError: The storage or the folder of the sqlite file is not shared, or several nodes
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
    """The local folders that a run writes to, by config key; see :func:`check_shared`."""
    storage, places = Storage(config.storage), {}
    if storage.is_local:
        places["storage"] = Path(storage.root)
    database = _database(config) if tracks else None
    if database and not (storage.is_local and database.is_relative_to(storage.root)):
        places["tracking.uri"] = database.parent
    return places


def _database(config: RunConfig) -> Path | None:
    """The sqlite file of the tracking store; None for a server or without tracking."""
    if not config.tracking.enabled:
        return None
    root = Storage(config.storage).root
    return sqlite_path(resolve_tracking_uri(config.tracking.uri, root))


def refuse_sqlite(config: RunConfig, num_nodes: int) -> None:
    """Refuses to track a search on several nodes in an sqlite file.

    A shared volume does not help, since network file systems do not keep sqlite's locks.

    Raises:
        UserError: The tracking store is an sqlite file.
    """
    if database := _database(config):
        raise UserError(
            "tracking.uri",
            f"must be a server for a search on {num_nodes} nodes, since each trial is tracked from"
            " its own node, and writers on several nodes break an sqlite file",
            got=str(database),
            fix="start one (infra/mlflow) and set tracking.uri=http://..., or set"
            " tracking.enabled=false",
        )


def find_missed(nodes: Iterable[str], probes: Mapping[str, Path]) -> dict[str, list[str]]:
    """The nodes that do not see a file, by config key.

    Args:
        nodes: Ray's ids of the nodes. A node that is lost meanwhile is left out.
        probes: The files, by config key; they exist on this node.
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
    """Refuses folders, by config key, that some nodes do not see.

    Raises:
        UserError: Some node does not see one of the folders.
    """
    fixes = {
        "storage": "set storage to an object store (s3://...) or to a folder on a volume that all"
        " nodes mount",
        "tracking.uri": "set tracking.uri to a server (http://...) or tracking.enabled=false",
    }
    for field, place in places.items():
        if nodes := missed.get(field):
            raise UserError(
                field,
                f"must be visible on every node, and {len(nodes)} of {num_nodes} do not see it",
                got=str(place),
                fix=fixes[field],
            )


def _other_nodes() -> list[str]:
    here = ray.get_runtime_context().get_node_id()
    return [node["NodeID"] for node in alive_nodes() if node["NodeID"] != here]


@contextmanager
def _probes(places: Mapping[str, Path]) -> Iterator[dict[str, Path]]:
    """Creates a file in each folder, which exists while the context is open."""
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
    """The names of the files that this node does not see."""
    until = time.monotonic() + _PATIENCE_S
    while missing := [name for name, file in files.items() if not Path(file).exists()]:
        if time.monotonic() > until:
            break
        time.sleep(0.5)
    return missing
