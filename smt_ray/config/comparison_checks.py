"""Checks of a comparison when it is loaded, before anything is trained."""

from __future__ import annotations

import difflib
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

from smt_ray.config.fields import flatten
from smt_ray.config.run import RunConfig
from smt_ray.errors import UserError

# The keys that decide which test rows are answered. Answers are paired by their position. Cells may
# differ in how questions are asked and answers are read, since that can be compared too.
_QUESTIONS = ("evaluation.tasks", "evaluation.max_rows", "data.dir")

CellName = tuple[str, str, str]
"""Table, row and column."""


def check_distinct(field: str, values: Sequence[float]) -> None:
    """Refuses a list of numbers with a duplicate.

    Raises:
        UserError: There is one. Numbers are equal if their first six digits are.
    """
    counts = Counter(f"{value:g}" for value in values)
    if twice := [text for text, number in counts.items() if number > 1]:
        raise UserError(
            field, "contains a duplicate", got=list(values), fix=f"remove the second {twice[0]}"
        )


def check_methods(rates: Mapping[str, Sequence[float]], methods: set[str]) -> None:
    """Refuses learning rates of a method that no cell uses.

    Raises:
        UserError: There is such a method.
    """
    for method in rates:
        if method not in methods:
            near = difflib.get_close_matches(method, methods, n=1)
            raise UserError(
                "learning_rates",
                f"must name methods of the tables ({', '.join(sorted(methods))})",
                got=method,
                fix=f"did you mean {near[0]}?" if near else "remove it, or add a row that uses it",
            )


def check_validation(runs: Sequence[RunConfig]) -> None:
    """Refuses runs that try learning rates and have no validation rows.

    Raises:
        UserError: There is such a run.
    """
    for run in runs:
        if not run.data.has_validation:
            raise UserError(
                "run.data.validation_rows",
                "must be positive, because learning rates are chosen by validation loss",
                got=run.data.validation_rows,
                fix="hold out some training rows, such as 120, or remove learning_rates",
            )


def check_cells(runs: Mapping[CellName, RunConfig]) -> None:
    """Refuses cells with different settings that describe the same run.

    Both would show the same measurement. Settings of another method do not count between cells of
    different columns or tables: full fine-tuning has one accuracy, whatever the budget of the
    column is.

    Args:
        runs: Cell -> its first run.

    Raises:
        UserError: There are two such cells; the keys in which they differ are named.
    """
    same: dict[str, list[CellName]] = defaultdict(list)
    for cell, run in runs.items():
        same[run.name].append(cell)
    for cells in same.values():
        for first, second in combinations(cells, 2):
            _check_same_run(first, second, runs)


def _check_same_run(first: CellName, second: CellName, runs: Mapping[CellName, RunConfig]) -> None:
    keys = dict(_differences(runs[second], runs[first]))
    if first[::2] != second[::2]:  # not rows of the same column
        idle = runs[second].idle_sections
        keys = {key: value for key, value in keys.items() if key.partition(".")[0] not in idle}
    if keys:
        raise UserError(
            cell_place(*second),
            f"describes the same run as {cell_place(*first)}, because {', '.join(keys)} cannot"
            " change a result",
            got=keys,
            fix="remove one of the two cells, or give both the same settings",
        )


def check_claim(table: str, cells: Mapping[str, RunConfig]) -> None:
    """Refuses a claim between cells that answer different questions, which cannot be paired.

    Args:
        cells: The better cell and the worse one -> their first runs.

    Raises:
        UserError: They answer different questions; the first key in which they differ is named.
    """
    values = {cell: flatten(run.model_dump(mode="json")) for cell, run in cells.items()}
    for key in _QUESTIONS:
        got = {cell: of_cell[key] for cell, of_cell in values.items()}
        # Answers are paired within a task, so the order of the tasks does not matter.
        asked = [
            set(map(str, value)) if isinstance(value, list) else value for value in got.values()
        ]
        if asked[0] != asked[-1]:
            raise UserError(
                f"tables.{table}.claims",
                f"{' and '.join(cells)} must have the same {key}, because a claim compares answers"
                " to the same questions",
                got=got,
                fix=f"set {key} to the same value in both, or remove the claim",
            )


def cell_place(table: str, row: str, column: str) -> str:
    """The place of a cell in the configuration.

    >>> cell_place("budgets", "smt", "1%")
    'tables.budgets.smt x 1%'
    """
    return f"tables.{table}.{' x '.join(filter(None, (row, column)))}"


def _differences(run: RunConfig, other: RunConfig) -> Iterator[tuple[str, Any]]:
    """The dotted keys in which the first run differs from the other, and its values."""
    of_other = flatten(other.model_dump(mode="json"))
    for key, value in flatten(run.model_dump(mode="json")).items():
        if key not in of_other or value != of_other[key]:
            yield key, value
