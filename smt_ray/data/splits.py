"""The training and validation rows of a config, read once for all runs that share them."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cachetools import LRUCache, cached

from smt_ray.config.data import DataConfig
from smt_ray.data.rows import Row, digest_rows
from smt_ray.data.sources import Reading, read_sources, source_version
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

    training: list[Row]
    validation: list[Row]
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
    bad = list(found.bad)
    if data.validation:
        held_out = Reading.of(data, seed, "validation")
        given = read_sources(data.validation, held_out, "data.validation")
        bad += given.bad
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
        digest_rows(training),
        digest_rows(validation),
        num_moved,
        BadRows(number=len(bad), first=str(bad[0]) if bad else None),
    )


def hold_out(
    rows: Sequence[Row], *, max_rows: int | None, validation_rows: float, seed: int
) -> tuple[list[Row], list[Row], int]:
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
    order = list(range(len(rows)))
    random.Random(seed).shuffle(order)
    used = order[: max_rows or len(order)]
    wanted = _number(validation_rows, len(used))
    if wanted >= len(used):
        raise UserError(
            "data.validation_rows",
            f"must be smaller than the number of rows ({len(used)})",
            got=validation_rows,
            fix="hold fewer rows out, or give more rows",
        )
    if not wanted:
        return [rows[i] for i in sorted(used)], [], 0
    held = _draw_groups(_identical(rows, used), wanted)
    if not held:
        raise UserError(
            "data.validation_rows", "must leave rows that are not identical to the others",
            got=validation_rows, fix="give other rows, or hold none out",
        )  # fmt: skip
    chosen = set(held)
    num_moved = len(chosen - set(used[: len(held)]))
    training = [rows[i] for i in sorted(used) if i not in chosen]
    return training, [rows[i] for i in sorted(held)], num_moved


def _number(wanted: float, num_rows: int) -> int:
    """A number of rows, which may be given as a share; a share above 0 is at least one row."""
    return max(1, round(wanted * num_rows)) if 0 < wanted < 1 else int(wanted)


def _identical(rows: Sequence[Row], order: Iterable[int]) -> list[list[int]]:
    """The groups of identical rows, in the order of their first ones."""
    groups: dict[bytes, list[int]] = {}
    for place in order:
        groups.setdefault(rows[place].meaning(), []).append(place)
    return list(groups.values())


def _draw_groups(groups: Sequence[list[int]], wanted: int) -> list[int]:
    """The first groups that fit; if they are too few, the smallest of the others, too."""
    held: list[int] = []
    others: list[list[int]] = []
    for group in groups:
        if len(held) + len(group) <= wanted:
            held += group
        else:
            others.append(group)
    if len(held) < wanted and len(others) > 1:
        held += sorted(others, key=len)[0]
    return held


def _without(rows: Sequence[Row], others: Sequence[Row]) -> tuple[list[Row], int]:
    """The rows that are not identical to one of the others, and the number of those that are."""
    known = {row.meaning() for row in others}
    kept = [row for row in rows if row.meaning() not in known]
    return kept, len(rows) - len(kept)


def weighted(rows: Sequence[Row], seed: int) -> list[Row]:
    """The rows as often as their weights say; the rows of a fraction are drawn by the seed."""
    by_weight: dict[float, list[int]] = {}
    for place, row in enumerate(rows):
        by_weight.setdefault(row.weight, []).append(place)
    if set(by_weight) <= {1.0}:
        return list(rows)
    places: list[int] = []
    for weight, group in by_weight.items():
        whole = int(weight)
        number = round((weight - whole) * len(group))
        drawn = random.Random(seed).sample(group, number if whole or number else 1)
        places += group * whole + drawn
    return [rows[place] for place in sorted(places)]
