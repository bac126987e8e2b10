"""What no comparison can do, refused where it is loaded: before anything is trained for it."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Mapping, Sequence

from smt_ray.config.run import RunConfig
from smt_ray.errors import UserError


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


def cell_place(table: str, row: str, column: str) -> str:
    """Where a cell stands in the config.

    >>> cell_place("budgets", "smt", "1%")
    'tables.budgets.smt x 1%'
    """
    return f"tables.{table}.{' x '.join(filter(None, (row, column)))}"
