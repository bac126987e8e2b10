"""What no comparison can do, refused where it is loaded: before anything is trained for it."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

from smt_ray.config.run import RunConfig
from smt_ray.errors import UserError

# What decides which test rows are answered, and in which order: answers are paired by their place.
# How rows are asked and answers are read may differ; that is a comparison of its own.
_QUESTIONS = ("evaluation.tasks", "evaluation.max_rows", "data.dir")


def check_distinct(field: str, values: Sequence[float]) -> None:
    """Refuses a list of numbers with one that stands there twice.

    Raises:
        UserError: There is one; two that read alike in six digits count as one.
    """
    counts = Counter(f"{value:g}" for value in values)
    if twice := [text for text, number in counts.items() if number > 1]:
        raise UserError(
            field,
            "each number must stand there once",
            got=list(values),
            fix=f"leave the second {twice[0]} out",
        )


def check_methods(rates: Mapping[str, Sequence[float]], methods: set[str]) -> None:
    """Refuses learning rates of a method that no cell has.

    Args:
        rates: Method -> learning rates.
        methods: The cells'.

    Raises:
        UserError: There is such a method.
    """
    for method in rates:
        if method not in methods:
            near = difflib.get_close_matches(method, methods, n=1)
            raise UserError(
                "learning_rates",
                f"must name methods that cells have, which are {', '.join(sorted(methods))}",
                got=method,
                fix=f"did you mean {near[0]}?" if near else "leave it out, or add a row of it",
            )


def check_validation(runs: Sequence[RunConfig]) -> None:
    """Refuses runs that try learning rates and have no rows to tell them apart by.

    Raises:
        UserError: One has none.
    """
    for run in runs:
        if not run.data.validation_rows:
            raise UserError(
                "run.data.validation_rows",
                "learning_rates need rows to be chosen by",
                got=run.data.validation_rows,
                fix="hold some training rows out, such as 120, or leave learning_rates out",
            )


def check_cells(runs: Mapping[tuple[str, str, str], RunConfig]) -> None:
    """Refuses cells that are set differently and yet are one run.

    Its one measurement would stand in both. What a column, or another table, sets for other methods
    alone is no such case: full fine-tuning has one run, and so one accuracy, at every budget.

    Args:
        runs: (table, row, column) -> the cell's first run.

    Raises:
        UserError: There are two such cells; the keys are named.
    """
    for (place, run), (other_place, other) in combinations(runs.items(), 2):
        if run.name != other.name:
            continue
        keys = dict(_differing(other, run))
        if place[::2] != other_place[::2]:  # not rows of one column
            idle = other.idle_sections
            keys = {key: value for key, value in keys.items() if key.partition(".")[0] not in idle}
        if keys:
            raise UserError(
                cell_place(*other_place),
                f"must not be the run that {cell_place(*place)} is: {', '.join(keys)} cannot change"
                " a result, so both would show one measurement",
                got=keys,
                fix="leave one of the two out, or set them alike",
            )


def check_claim(table: str, cells: Mapping[str, RunConfig]) -> None:
    """Refuses a claim between cells that answer other questions: nothing could be paired.

    Args:
        table: The table's name.
        cells: The better cell and the worse -> their first runs.

    Raises:
        UserError: They differ in what is evaluated; the first such key is named.
    """
    values = {cell: _flat(run.model_dump(mode="json")) for cell, run in cells.items()}
    for key in _QUESTIONS:
        got = {cell: of_cell[key] for cell, of_cell in values.items()}
        # Answers are paired within a task, so that the order of the tasks is free.
        asked = [set(value) if isinstance(value, list) else value for value in got.values()]
        if asked[0] != asked[-1]:
            raise UserError(
                f"tables.{table}.claims",
                f"{' above '.join(cells)} must be of cells with the same {key}, as answers to the"
                " same questions are compared",
                got=got,
                fix=f"set {key} alike in both, or leave the claim out",
            )


def cell_place(table: str, row: str, column: str) -> str:
    """Where a cell stands in the config.

    >>> cell_place("budgets", "smt", "1%")
    'tables.budgets.smt x 1%'
    """
    return f"tables.{table}.{' x '.join(filter(None, (row, column)))}"


def _differing(run: RunConfig, other: RunConfig) -> Iterator[tuple[str, Any]]:
    """Dotted keys in which the first run is not as the other, and its values."""
    of_other = _flat(other.model_dump(mode="json"))
    for key, value in _flat(run.model_dump(mode="json")).items():
        if key not in of_other or value != of_other[key]:
            yield key, value


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Sections as dotted keys; a section that is null is one key."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict) and value:
            found |= _flat(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = value
    return found
