"""``smt-ray clean``: deletes what no run needs, and what finished runs can lose."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from smt_ray.artifacts.layout import MANIFEST
from smt_ray.artifacts.scratch import abandoned_folders, remove_abandoned
from smt_ray.artifacts.storage import Storage
from smt_ray.artifacts.use import check_unused, cleaning
from smt_ray.errors import UserError
from smt_ray.run.kept.removable import Reason, Removable, find_removable


def look_for_removable(storage: Storage, *, checkpoints: bool) -> list[Removable]:
    """Everything that can be deleted, in the storage and in this machine's temporary directory.

    Raises:
        UserError: There is no such storage, a living process uses it, or a manifest is damaged.
    """
    if not storage.exists():
        raise UserError("--storage", "must exist", got=storage.root, fix="check the path")
    check_unused(storage)
    return [*find_removable(storage, checkpoints=checkpoints), *_scratch()]


def clean(storage: Storage, announced: Sequence[Removable], *, checkpoints: bool) -> int:
    """Deletes what was announced and can still be deleted; returns the number of freed bytes.

    Args:
        announced: What :func:`look_for_removable` found.

    Raises:
        UserError: A living process uses the storage, and nothing was deleted.
    """
    with cleaning(storage):
        now = set(map(_key, find_removable(storage, checkpoints=checkpoints)))
        wanted = [each for each in announced if _key(each) in now]
        for each in wanted:
            _delete(storage, each)
    scratch = [each for each in announced if each.reason == Reason.SCRATCH]
    if scratch:
        remove_abandoned()
    return sum(each.num_bytes for each in [*wanted, *scratch])


def _key(each: Removable) -> tuple[str, str, frozenset[str]]:
    return each.reason, each.place, frozenset(each.files)


def _delete(storage: Storage, each: Removable) -> None:
    # Without its manifest, a stage that is half deleted counts as unfinished, not as damaged.
    manifest = f"{each.place}/{MANIFEST}"
    if manifest in each.files:
        storage.delete_file(manifest)
    if each.is_folder:
        storage.delete_folder(each.place)
        return
    for file in each.files:
        with suppress(FileNotFoundError):  # the mark of a process that was just refused
            storage.delete_file(file)
    if storage.is_local:  # object stores have no empty folders
        _remove_empty(Path(storage.key(each.place)))


def _remove_empty(place: Path) -> None:
    """Removes the empty folders below a folder, and the folder if it is then empty."""
    if not place.is_dir():
        return
    for folder in sorted((p for p in place.rglob("*") if p.is_dir()), reverse=True):
        with suppress(OSError):  # it is not empty
            folder.rmdir()
    with suppress(OSError):
        place.rmdir()


def _scratch() -> list[Removable]:
    return [
        Removable(Reason.SCRATCH, str(folder), _local_sizes(folder), is_folder=True)
        for folder in abandoned_folders()
    ]


def _local_sizes(folder: Path) -> dict[str, int]:
    files = (file for file in folder.rglob("*") if file.is_file())
    return {str(file): file.stat().st_size for file in files}
