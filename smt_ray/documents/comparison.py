"""``comparison.json``: the results of a comparison.

Accuracies, differences and their 95% intervals are fractions in [0, 1].
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import JsonValue

from smt_ray.documents.base import Document
from smt_ray.documents.run import BlockShape

Verdict = Literal["held", "reversed", "not resolved"]


class Interval(Document):
    """A value with the ends of its 95% interval."""

    value: float
    low: float
    high: float


class WeightBlocks(Document):
    """How many blocks, columns or elements of one eligible weight were selected."""

    module: str
    chosen: int
    blocks: int
    block_shape: BlockShape = "square"


class CellResult(Document):
    """One cell of a table. A cell with a failed run has errors and no measurements."""

    runs: list[str] = []
    """The names of the runs, one for each seed."""
    errors: list[str] = []
    learning_rate: float | None = None
    """None if no learning rate could be chosen."""
    percent_of_base: float | None = None
    validation_loss: float | None = None
    """The mean over seeds."""
    projections: dict[str, int] | None = None
    """Projection -> selected blocks of the first seed."""
    shares: list[dict[str, float]] | None = None
    """By seed: projection -> share of the selected blocks."""
    modules: list[WeightBlocks] | None = None
    """The weights of the first seed, if the columns are projections."""
    batching: str | None = None
    step_seconds: float | None = None
    """The median over seeds."""
    step_seconds_by_seed: list[float] = []
    tasks: dict[str, float] | None = None
    """Task -> accuracy."""
    task_intervals: dict[str, tuple[float, float]] = {}
    average: Interval | None = None
    retention: dict[str, float] = {}
    """Text that was not trained on -> the change of the loss on it, as a mean over seeds."""
    by_seed: list[float] = []
    """The average accuracy of each seed."""


class ClaimResult(Document):
    """A claim and its answer."""

    better: str
    worse: str
    source: str = ""
    verdict: Verdict
    unit: Literal["points", "times"] = "points"
    """``points`` for a difference, ``times`` for a ratio of speeds."""
    reason: str = ""
    """Why there is no difference."""
    difference: Interval | None = None


class TableResult(Document):
    """One table."""

    title: str
    columns: Literal["tasks", "speed", "projections"] | list[str]
    """The kind of the columns, or their names."""
    rows: dict[str, dict[str, CellResult]]
    """Row -> column -> cell; the only column is "" if the columns are of a kind."""
    claims: list[ClaimResult] = []

    def cells(self) -> Iterator[tuple[str, str, CellResult]]:
        """Every row, column and cell."""
        for row, columns in self.rows.items():
            for column, cell in columns.items():
                yield row, column, cell


class TriedRates(Document):
    """The learning rates of the cells that share one."""

    chosen: float | None
    """None if training failed with each of them. The cells then fail too, unless they set a
    learning rate themselves."""
    validation_loss: dict[str, float | None]
    """Learning rate -> validation loss; None if the run failed."""


class RunLine(Document):
    """One run of the comparison."""

    method: str
    learning_rate: float | None = None
    seed: int = 0
    sets: dict[str, JsonValue] = {}
    """The settings of its first cell other than the method and the learning rate."""
    accuracy: float | None = None
    """The average over tasks."""
    seconds: float | None = None
    reused: bool = False
    """Whether it was already finished."""
    error: str = ""
    folder: str = ""


class ComparisonDocument(Document):
    """The whole comparison."""

    name: str
    seeds: list[int]
    started_ms: int | None = None
    """The latest start, in milliseconds since the epoch."""
    ended_ms: int | None = None
    tables: dict[str, TableResult]
    learning_rates: dict[str, TriedRates] = {}
    """By method, or by cell: its method and its other settings."""
    learning_rates_for: Literal["method", "cell"] = "method"
    runs: dict[str, RunLine]
