"""A comparison: tables of runs that differ from one run by what their rows and columns set.

Every table of the paper is one: rows are ways to train, columns are test tasks, budgets, or what a
run measures. A cell is a run for each seed; cells that come to the same run, in one table or in
several, are one.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from smt_ray.config.comparison_checks import (
    cell_place,
    check_cells,
    check_claim,
    check_distinct,
    check_methods,
    check_validation,
)
from smt_ray.config.fields import Section, execution, semantic
from smt_ray.config.load import load_named, validate_member, with_settings
from smt_ray.config.run import RunConfig
from smt_ray.errors import UserError

Overrides = dict[str, Any]
"""Keys of a run's config, dotted, and their values."""

LEARNING_RATE = "training.learning_rate"


Cell = tuple[str, str]
"""Row and column; the column is "" where columns are what a run measures."""

_Side = str | Annotated[list[str], Field(min_length=2, max_length=2)]


class Claim(Section):
    """That one cell of a table is better than another.

    By average accuracy; where columns are ``speed``, by seconds a step; where they are
    ``projections``, by the share of the blocks.
    """

    better: _Side = semantic()
    """The row that is claimed to be better; [row, column] where columns are settings, [row,
    projection] where they are projections."""
    worse: _Side = semantic()
    """The other."""
    source: str = execution("")
    """Where it is claimed, such as "Table 2"."""

    @property
    def cells(self) -> tuple[Cell, Cell]:
        """The better, the other."""
        return _cell(self.better), _cell(self.worse)


def _cell(side: _Side) -> Cell:
    return (side, "") if isinstance(side, str) else (side[0], side[1])


class TableConfig(Section):
    """One table of runs."""

    title: str = execution()
    """What the table is called."""
    rows: dict[str, Overrides] = semantic(min_length=1)
    """Name of each row, and what it sets: {lora: {method: lora}}."""
    columns: Literal["tasks", "speed", "projections"] | dict[str, Overrides] = semantic("tasks")
    """tasks: accuracies and their average; speed: seconds a step; projections: where blocks are. Or
    the name of each column and what it sets, a cell being the average accuracy."""
    claims: list[Claim] = semantic([])
    """Orderings that the comparison answers: held, reversed or not resolved."""

    @model_validator(mode="after")
    def _claims_name_cells(self) -> TableConfig:
        for claim in self.claims:
            for row, column in claim.cells:
                if row not in self.rows:
                    known = ", ".join(self.rows)
                    raise ValueError(f"claims must name rows, which are {known}; got {row}")
                self._check_column(column)
        return self

    def _check_column(self, column: str) -> None:
        if isinstance(self.columns, dict):
            if column not in self.columns:
                known = ", ".join(self.columns)
                raise ValueError(
                    f"claims must be of [row, column], columns being {known}; got {column or None}"
                )
        elif bool(column) != (self.columns == "projections"):
            wanted = "[row, projection]" if self.columns == "projections" else "a row"
            raise ValueError(
                f"claims of a table of {self.columns} must name {wanted}; got {column or None}"
            )

    @property
    def shows_accuracies(self) -> bool:
        """Whether cells are accuracies, of which claims are answered by pairing them."""
        return self.columns not in ("speed", "projections")

    def cells(self) -> Iterator[tuple[str, str, Overrides]]:
        """Row, column and what the cell's runs set; a column's settings come after its row's.

        Where columns are what a run measures, a row is one cell and its column is "".
        """
        columns = self.columns if isinstance(self.columns, dict) else {"": {}}
        for row, of_row in self.rows.items():
            for column, of_column in columns.items():
                yield row, column, {**of_row, **of_column}


class ComparisonConfig(Section):
    """A whole comparison; one YAML file is one of these."""

    name: str = execution()
    """Names the folder under ``<storage>/comparisons`` and the parent run in MLflow."""
    run: dict[str, Any] = semantic()
    """The run that every cell starts from, as in a run's own file."""
    seeds: list[int] = semantic([0], min_length=1)
    """Each cell is run once with each."""
    learning_rates: dict[str, list[float]] = semantic({})
    """By method, those that are tried on ``run`` with the first seed; the one of the lowest
    validation loss is every cell's of that method. As many for each; methods that are not named
    keep the run's."""
    tables: dict[str, TableConfig] = semantic(min_length=1)
    """By a short name each."""

    @model_validator(mode="after")
    def _as_many_for_each(self) -> ComparisonConfig:
        numbers = {method: len(rates) for method, rates in self.learning_rates.items()}
        if len(set(numbers.values())) > 1 or 0 in numbers.values():
            raise ValueError(f"learning_rates must be as many for each method; got {numbers}")
        return self

    @model_validator(mode="after")
    def _can_be_carried_out(self) -> ComparisonConfig:
        check_distinct("seeds", self.seeds)
        for method, rates in self.learning_rates.items():
            check_distinct(f"learning_rates.{method}", rates)
        first = {(name, row, column): runs[0] for name, row, column, runs in self.cell_runs({})}
        check_methods(self.learning_rates, {run.method for run in first.values()})
        check_validation([run for tried in self.tuning_runs().values() for run in tried.values()])
        check_cells(first)
        for name, table in self.tables.items():
            for claim in table.claims if table.shows_accuracies else ():
                cells = {" x ".join(filter(None, cell)): first[name, *cell] for cell in claim.cells}
                check_claim(name, cells)
        return self

    def make_run(self, overrides: Overrides, seed: int) -> RunConfig:
        """The run that some settings come to, named after what it is.

        Raises:
            UserError: A setting is bad.
        """
        return validate_member(with_settings(self.run, {**overrides, "seed": seed}), self.name)

    def tuning_runs(self) -> dict[str, dict[float, RunConfig]]:
        """Method -> learning rate -> the run that tries it.

        Raises:
            UserError: A learning rate is bad; its method is named.
        """
        return {
            method: {rate: self._tuning_run(method, rate) for rate in rates}
            for method, rates in self.learning_rates.items()
        }

    def cell_runs(
        self, chosen: dict[str, float]
    ) -> Iterator[tuple[str, str, str, list[RunConfig]]]:
        """Table, row, column and a run for each seed.

        Args:
            chosen: Method -> learning rate, of those that were tuned; a cell that sets its own
                keeps it.

        Raises:
            UserError: A cell's settings are bad; the cell is named.
        """
        for name, table in self.tables.items():
            for row, column, overrides in table.cells():
                try:
                    yield (
                        name,
                        row,
                        column,
                        [self._with_rate(overrides, seed, chosen) for seed in self.seeds],
                    )
                except UserError as error:
                    raise _placed(cell_place(name, row, column), error) from None

    def _tuning_run(self, method: str, rate: float) -> RunConfig:
        try:
            return self.make_run({"method": method, LEARNING_RATE: rate}, self.seeds[0])
        except UserError as error:
            raise _placed(f"learning_rates.{method}", error) from None

    def _with_rate(self, overrides: Overrides, seed: int, chosen: dict[str, float]) -> RunConfig:
        method = self.make_run(overrides, seed).method
        tuned = {LEARNING_RATE: chosen[method]} if method in chosen else {}
        return self.make_run({**tuned, **overrides}, seed)


def _placed(place: str, error: UserError) -> UserError:
    """A run's error with the place that the run stands for."""
    return UserError(f"{place}: {error.field}", error.rule, got=error.got, fix=error.fix)


def load_comparison(path: str | Path, overrides: list[str]) -> ComparisonConfig:
    """Reads a comparison's YAML; see :func:`smt_ray.config.load.load_named`."""
    return load_named(ComparisonConfig, path, overrides)
