"""A comparison: tables whose cells are runs that differ from one base run by a few settings.

A cell has one run for each seed. Cells that describe the same run share it, within a table and
between tables.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, model_validator

from smt_ray.config.comparison_checks import (
    cell_place,
    check_cells,
    check_claim,
    check_distinct,
    check_methods,
    check_validation,
)
from smt_ray.config.fields import FolderName, Section, execution, semantic
from smt_ray.config.load import load_named, validate_member, with_settings
from smt_ray.config.run import RunConfig
from smt_ray.errors import UserError

Overrides = dict[str, Any]
"""Dotted key of a run -> its value."""

LEARNING_RATE = "training.learning_rate"

Cell = tuple[str, str]
"""Row and column; the column is "" in tables whose columns are measurements."""

_Side = str | Annotated[list[str], Field(min_length=2, max_length=2)]


class CellRuns(NamedTuple):
    """The runs of one cell.

    Attributes:
        column: The name of the column; "" in tables whose columns are measurements.
        settings: The settings of the row and the column.
        runs: A run for each seed.
        rate_group: The cells that share its learning rate; see ``learning_rates_for``.
    """

    table: str
    row: str
    column: str
    settings: Overrides
    runs: list[RunConfig]
    rate_group: str


class Claim(Section):
    """An expected result: one cell of a table is better than another.

    Cells are compared by their average accuracy. In a table of ``speed`` they are compared by their
    seconds a step, and in a table of ``projections`` by their share of the selected blocks.
    """

    better: _Side = semantic()
    """The row that is expected to be better. It is [row, column] if columns are settings, and [row,
    projection] in a table of ``projections``."""
    worse: _Side = semantic()
    """The row that it is compared with, in the same form."""
    source: str = execution("")
    """The source of the claim, such as "Table 2"."""

    @property
    def cells(self) -> tuple[Cell, Cell]:
        """The cell that is expected to be better, and the other one."""
        return _cell(self.better), _cell(self.worse)


def _cell(side: _Side) -> Cell:
    return (side, "") if isinstance(side, str) else (side[0], side[1])


class TableConfig(Section):
    """One table of runs."""

    title: str = execution()
    """The title of the table."""
    rows: dict[str, Overrides] = semantic(min_length=1)
    """Name of a row -> its settings, such as {lora: {method: lora}}."""
    columns: Literal["tasks", "speed", "projections"] | dict[str, Overrides] = semantic("tasks")
    """The measurements that the columns show: tasks (accuracies and their average), speed (seconds
    a step) or projections (shares of the selected blocks). Or name of a column -> its settings; the
    cells then show average accuracies."""
    claims: list[Claim] = semantic([])
    """Expected results. Each is answered with held, reversed or not resolved."""

    @model_validator(mode="after")
    def _claims_name_cells(self) -> TableConfig:
        for claim in self.claims:
            for row, column in claim.cells:
                if row not in self.rows:
                    known = ", ".join(self.rows)
                    raise ValueError(f"claims must name rows of the table ({known}); got {row}")
                self._check_column(column)
        return self

    def _check_column(self, column: str) -> None:
        if isinstance(self.columns, dict):
            if column not in self.columns:
                known = ", ".join(self.columns)
                raise ValueError(
                    f"claims must name [row, column] with a column of the table ({known}); got"
                    f" {column or 'no column'}"
                )
        elif bool(column) != (self.columns == "projections"):
            wanted = "[row, projection]" if self.columns == "projections" else "rows only"
            raise ValueError(
                f"claims of a table of {self.columns} must name {wanted}; got"
                f" {column or 'no projection'}"
            )

    @property
    def shows_accuracies(self) -> bool:
        """Whether cells are accuracies, so that claims compare answers to test rows."""
        return self.columns not in ("speed", "projections")

    def cells(self) -> Iterator[tuple[str, str, Overrides]]:
        """Row, column and settings of every cell; a column's settings override its row's.

        If columns are measurements, a row is one cell and its column is "".
        """
        columns = self.columns if isinstance(self.columns, dict) else {"": {}}
        for row, of_row in self.rows.items():
            for column, of_column in columns.items():
                yield row, column, {**of_row, **of_column}


class ComparisonConfig(Section):
    """A comparison; a YAML file holds one."""

    name: FolderName = execution()
    """The name of the folder under ``<storage>/comparisons`` and of the parent run in MLflow."""
    run: dict[str, Any] = semantic()
    """The base run, with the keys of a run's own file. The cells change some of them."""
    seeds: list[int] = semantic([0], min_length=1)
    """Seeds; every cell has one run for each."""
    learning_rates: dict[str, list[float]] = semantic({})
    """Method -> learning rates. Each is tried with the first seed, and the one with the lowest
    validation loss is used. All methods must list the same number; methods that are not listed use
    the learning rate of the base run."""
    learning_rates_for: Literal["method", "cell"] = semantic("method")
    """What learning rates are tried for. method: the base run with each method; all cells of the
    method then use its learning rate. cell: every cell, so that each budget, score or set of
    modules is compared at its own best. That needs as many more runs for each cell as there are
    learning rates, less one."""
    tables: dict[str, TableConfig] = semantic(min_length=1)
    """Short name -> table."""
    max_concurrent_runs: int | None = execution(None, ge=1)
    """The largest number of runs at the same time; null for as many as the cluster holds. An
    autoscaler is asked for the nodes of this many runs, or of one run if it is null."""

    @model_validator(mode="after")
    def _equal_numbers_of_rates(self) -> ComparisonConfig:
        numbers = {method: len(rates) for method, rates in self.learning_rates.items()}
        if len(set(numbers.values())) > 1 or 0 in numbers.values():
            raise ValueError(
                f"learning_rates must list the same number of values for each method; got {numbers}"
            )
        return self

    @model_validator(mode="after")
    def _can_be_carried_out(self) -> ComparisonConfig:
        check_distinct("seeds", self.seeds)
        for method, rates in self.learning_rates.items():
            check_distinct(f"learning_rates.{method}", rates)
        first = {(c.table, c.row, c.column): c.runs[0] for c in self.cell_runs({})}
        check_methods(self.learning_rates, {run.method for run in first.values()})
        check_validation([run for tried in self.tuning_runs().values() for run in tried.values()])
        check_cells(first)
        for name, table in self.tables.items():
            for claim in table.claims if table.shows_accuracies else ():
                cells = {" x ".join(filter(None, cell)): first[name, *cell] for cell in claim.cells}
                check_claim(name, cells)
        return self

    def make_run(self, overrides: Overrides, seed: int) -> RunConfig:
        """The base run with some settings and a seed; its name follows from them.

        Raises:
            UserError: A setting is bad.
        """
        return validate_member(with_settings(self.run, {**overrides, "seed": seed}), self.name)

    def tuning_runs(self) -> dict[str, dict[float, RunConfig]]:
        """Group of cells -> learning rate -> the run that tries it.

        Raises:
            UserError: A learning rate is bad; its group is named.
        """
        return {
            group: {rate: self._tuning_run(group, settings, rate) for rate in rates}
            for group, settings in self.rate_groups().items()
            for rates in [self.learning_rates[self._method(settings)]]
        }

    def rate_groups(self) -> dict[str, Overrides]:
        """The groups of cells that share a learning rate -> the settings that it is tried with."""
        if self.learning_rates_for == "method":
            return {method: {"method": method} for method in self.learning_rates}
        cells = [settings for table in self.tables.values() for _, _, settings in table.cells()]
        return {
            self._rate_group(settings): settings
            for settings in cells
            if LEARNING_RATE not in settings and self._method(settings) in self.learning_rates
        }

    def _rate_group(self, settings: Overrides) -> str:
        method = self._method(settings)
        if self.learning_rates_for == "method":
            return method
        others = {key: settings[key] for key in sorted(settings) if key != "method"}
        return ", ".join([method, *(f"{key} {value}" for key, value in others.items())])

    def _method(self, settings: Overrides) -> str:
        default = self.run.get("method", RunConfig.model_fields["method"].default)
        return str(settings.get("method", default))  # a bad one is refused with its run

    def cell_runs(self, chosen: dict[str, float]) -> Iterator[CellRuns]:
        """Every cell with its runs.

        Args:
            chosen: Group of cells -> learning rate, for the groups whose learning rate was tuned. A
                cell that sets a learning rate keeps it.

        Raises:
            UserError: The settings of a cell are bad; the cell is named.
        """
        for name, table in self.tables.items():
            for row, column, settings in table.cells():
                try:
                    runs = [self._with_rate(settings, seed, chosen) for seed in self.seeds]
                except UserError as error:
                    raise error.within(cell_place(name, row, column)) from None
                yield CellRuns(name, row, column, settings, runs, self._rate_group(settings))

    def _tuning_run(self, group: str, settings: Overrides, rate: float) -> RunConfig:
        try:
            return self.make_run({**settings, LEARNING_RATE: rate}, self.seeds[0])
        except UserError as error:
            raise error.within(f"learning_rates.{group}") from None

    def _with_rate(self, settings: Overrides, seed: int, chosen: dict[str, float]) -> RunConfig:
        group = self._rate_group(settings)
        if LEARNING_RATE in settings or group not in chosen:
            return self.make_run(settings, seed)
        return self.make_run({LEARNING_RATE: chosen[group], **settings}, seed)


def load_comparison(path: str | Path, overrides: list[str]) -> ComparisonConfig:
    """Reads the YAML file of a comparison; see :func:`smt_ray.config.load.load_named`."""
    return load_named(ComparisonConfig, path, overrides)
