"""The training and validation rows of a config, read once for all runs that share them."""

from __future__ import annotations

import random
from array import array
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from cachetools import LRUCache, cached

from smt_ray.config.data import DataConfig
from smt_ray.data.sources import Reading, ReadRows, read_sources, source_version
from smt_ray.data.table import Places, Rows, first_places
from smt_ray.documents.rows import BadRows
from smt_ray.errors import UserError

_NONE = BadRows()


@dataclass(frozen=True)
class Split:
    """The rows to learn from and the rows that are held out.

    Attributes:
        training: The rows to learn from.
        validation: The held-out rows.
        training_digest: The fingerprint of the training rows.
        validation_digest: The fingerprint of the held-out rows.
        num_moved: The number of rows that are not in training because an identical row is held out.
        bad: The rows that were left out because they cannot be used.
    """

    training: Rows
    validation: Rows
    training_digest: str
    validation_digest: str
    num_moved: int = 0
    bad: BadRows = _NONE


def _key(data: DataConfig, seed: int) -> tuple[object, ...]:
    versions = [source_version(s, data.dir) for s in (*data.train, *data.validation)]
    return data.row_key(), seed, tuple(versions)


@cached(LRUCache(maxsize=8), key=_key)
def read_split(data: DataConfig, seed: int) -> Split:
    """Reads, draws and fingerprints the rows of a data section.

    A process does this once for the runs that share the rows, until a file changes.

    Args:
        data: The ``data`` section of a config.
        seed: The seed of the draw.

    Raises:
        UserError: A source cannot be read, or no row is left to train on.
    """
    found = read_sources(data.train, Reading.of(data, seed, "train"), "data.train")
    bad = [found]
    if data.validation:
        held_out = Reading.of(data, seed, "validation")
        given = read_sources(data.validation, held_out, "data.validation")
        bad.append(given)
        validation = given.rows
        used, _, _ = hold_out(found.rows, max_rows=data.max_rows, validation_rows=0, seed=seed)
        training, num_moved = _without(used, validation)
    else:
        training, validation, num_moved = hold_out(
            found.rows, max_rows=data.max_rows, validation_rows=data.validation_rows, seed=seed
        )
    training = weighted(training, seed)
    if not training:
        raise UserError(
            "data.train", "must leave a row to train on", got=0,
            fix=f"{num_moved} rows are identical to rows of data.validation: give others"
            if num_moved
            else "give more rows",
        )  # fmt: skip
    return Split(
        training,
        validation,
        training.digest(),
        validation.digest(),
        num_moved,
        _bad_rows(bad),
    )


def _bad_rows(found: list[ReadRows]) -> BadRows:
    first = next((str(part.first_bad) for part in found if part.first_bad), None)
    return BadRows(number=sum(part.num_bad for part in found), first=first)


def hold_out(
    rows: Rows, *, max_rows: int | None, validation_rows: float, seed: int
) -> tuple[Rows, Rows, int]:
    """Draws the training rows and the validation rows, each in the order of the source.

    Identical rows stay together, so that no row is on both sides. They are held out if all of them
    fit into the number of validation rows.

    Args:
        rows: All rows.
        max_rows: The number of rows to use; None for all.
        validation_rows: The number of validation rows, or their share below 1.
        seed: The seed of the draw.

    Returns:
        The training rows, the validation rows, and the number of rows that were moved out of
        training because of an identical row.

    Raises:
        UserError: No row would be left to train on.
    """
    order = array("i", range(len(rows)))
    random.Random(seed).shuffle(order)
    used: Places = np.array(order, np.int32)[: max_rows or len(order)]
    wanted = _number(validation_rows, len(used))
    if wanted >= len(used):
        raise UserError(
            "data.validation_rows",
            f"must be smaller than the number of rows ({len(used)})",
            got=validation_rows,
            fix="hold fewer rows out, or give more rows",
        )
    if not wanted:
        return rows.select(np.sort(used)), rows.select([]), 0
    held = _draw_groups(first_places(rows.select(used).meanings()), wanted)
    if not len(held):
        raise UserError(
            "data.validation_rows", "must leave rows that are not identical to the others",
            got=validation_rows, fix="give other rows, or hold none out",
        )  # fmt: skip
    training, validation = np.sort(np.delete(used, held)), np.sort(used[held])
    return rows.select(training), rows.select(validation), int((held >= len(held)).sum())


def _number(wanted: float, num_rows: int) -> int:
    """A number of rows, which may be given as a share; a share above 0 is at least one row."""
    return max(1, round(wanted * num_rows)) if 0 < wanted < 1 else int(wanted)


def _draw_groups(first: Places, wanted: int) -> npt.NDArray[np.int64]:
    """The places of the first groups of identical rows that fit; if they are too few, the smallest
    of the others, too.

    Args:
        first: The place of the first row of each row's group.
        wanted: The number of rows.
    """
    groups = np.flatnonzero(first == np.arange(len(first)))
    sizes = np.bincount(first)[groups]
    held, left = [], wanted
    for place, size in enumerate(sizes):
        if not left:
            break
        if size <= left:
            held.append(place)
            left -= int(size)
    others = np.delete(np.arange(len(groups)), held) if left else groups[:0]
    if len(others) > 1:
        held.append(int(others[np.argmin(sizes[others])]))
    return np.flatnonzero(np.isin(first, groups[held]))


def _without(rows: Rows, others: Rows) -> tuple[Rows, int]:
    """The rows that are not identical to one of the others, and the number of those that are."""
    first = first_places(np.concatenate([others.meanings(), rows.meanings()]))
    kept = np.flatnonzero(first[len(others) :] >= len(others))
    return rows.select(kept), len(rows) - len(kept)


def weighted(rows: Rows, seed: int) -> Rows:
    """The rows as often as their weights say; the rows of a fraction are drawn by the seed."""
    weights = rows.weights()
    values, first = np.unique(weights, return_index=True)
    if set(values.tolist()) <= {1.0}:
        return rows
    places: list[npt.NDArray[np.int64]] = []
    for weight in values[np.argsort(first)].tolist():  # in the order in which they appear
        group = np.flatnonzero(weights == weight)
        whole = int(weight)
        number = round((weight - whole) * len(group))
        drawn = random.Random(seed).sample(range(len(group)), number if whole or number else 1)
        places += [*[group] * whole, group[drawn]]
    return rows.select(np.sort(np.concatenate(places)))
