"""The tables of a comparison as Markdown and CSV.

The document has accuracies, differences and their intervals as fractions; tables show percent and
points.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from smt_ray.documents.averages import mean
from smt_ray.documents.comparison import (
    CellResult,
    ClaimResult,
    ComparisonDocument,
    TableResult,
    TriedRates,
)
from smt_ray.documents.module_names import parse_module_name
from smt_ray.reporting.text.learning_rates import rates_text
from smt_ray.reporting.text.tables import Cells, markdown_table, write_csv
from smt_ray.reporting.text.values import MISSING, number_text

FAILED = "failed"


def to_markdown(results: ComparisonDocument) -> str:
    """The whole comparison as Markdown."""
    parts = [f"# {results.name}", legend_text(results.seeds)]
    if rates := results.learning_rates:
        parts += ["## Learning rates", markdown_table(_rate_cells(rates)), rates_text(results)]
    for name, table in results.tables.items():
        cells = table_cells(table, with_intervals=True)
        parts += [f"## {table.title}", markdown_table(cells), f"![{name}]({name}.png)"]
        parts += [f"![layers, {row}]({layers_picture(name, row)})" for row in layered_rows(table)]
        if table.claims:
            parts.append("\n".join(f"- {claim_text(claim)}" for claim in table.claims))
    failed = [f"- {name}: {run.error}" for name, run in results.runs.items() if run.error]
    if failed:
        parts += ["## Failed", "\n".join(failed)]
    return "\n\n".join(parts) + "\n"


def to_csv(table: TableResult) -> str:
    """A table as CSV."""
    return write_csv(table_cells(table, with_intervals=True))


def legend_text(seeds: Sequence[int]) -> str:
    """The meaning of the cells and their intervals, in words."""
    if len(seeds) == 1:
        runs = f"Each cell is one run, with seed {seeds[0]}."
        source = "With one seed, the intervals describe the sampling of test rows only."
    else:
        runs = f"Each cell is one run for each of the seeds {', '.join(map(str, seeds))}."
        source = (
            "They use Student's t distribution and the variances over seeds and over test rows."
        )
    return (
        f"{runs} Accuracies are percent correct. Intervals are 95% intervals, without a correction"
        f" for the number of values. {source} Differences are paired: they compare the same seeds"
        " and the same test rows. Seconds and shares are followed by their minimum and maximum over"
        " the seeds."
    )


def claim_text(claim: ClaimResult) -> str:
    """A claim and its answer, as Markdown."""
    source = f" ({claim.source})" if claim.source else ""
    detail = " ".join(difference_parts(claim)) or claim.reason
    answer = f"**{claim.verdict}**" + (f", {detail}" if detail else "")
    return f"{claim.better} {relation(claim)} {claim.worse}{source}: {answer}"


def relation(claim: ClaimResult) -> str:
    """The words between the two cells of a claim."""
    return "faster than" if claim.unit == "times" else "above"


def difference_parts(claim: ClaimResult) -> tuple[str, ...]:
    """The difference of a claim and its interval; nothing if the difference is not known."""
    if (difference := claim.difference) is None:
        return ()
    value, low, high = difference.value, difference.low, difference.high
    if claim.unit == "times":
        return f"{value:.2f} times", f"({low:.2f} to {high:.2f})"
    return f"{100 * value:+.1f} points", f"({100 * low:+.1f} to {100 * high:+.1f})"


def table_cells(table: TableResult, *, with_intervals: bool = False) -> Cells:
    """A table as text; ``with_intervals`` adds the interval of each task's accuracy."""
    if isinstance(table.columns, list):
        return _grid_cells(table, table.columns)
    if table.columns == "tasks":
        return _task_cells(row_cells(table), with_intervals)
    return _speed_cells(table) if table.columns == "speed" else _projection_cells(table)


def row_cells(table: TableResult) -> dict[str, CellResult]:
    """Row -> its only cell, of a table whose columns are what a run measures."""
    return {row: columns[""] for row, columns in table.rows.items()}


def task_interval_cells(table: TableResult) -> Cells | None:
    """The accuracies of a table of tasks with their intervals; None if no row has intervals."""
    cells = {row: cell for row, cell in row_cells(table).items() if cell.task_intervals}
    if not cells:
        return None
    tasks = list(next(iter(cells.values())).tasks or ())
    rows = []
    for row, cell in cells.items():
        texts = _task_texts(cell, with_intervals=True)
        rows.append([row, *(texts.get(task, MISSING) for task in tasks)])
    return _cells(["", *tasks], rows)


def _cells(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Cells:
    return Cells(tuple(head), tuple(map(tuple, rows)), len(head) - 1)


def _task_cells(cells: Mapping[str, CellResult], with_intervals: bool) -> Cells:
    tasks = next((list(cell.tasks) for cell in cells.values() if cell.tasks), [])
    has_losses = any(cell.validation_loss is not None for cell in cells.values())
    losses = ["validation loss"] if has_losses else []
    texts = list(dict.fromkeys(name for cell in cells.values() for name in cell.retention))
    rows = []
    for row, cell in cells.items():
        accuracies = _task_texts(cell, with_intervals)
        rows.append(
            [
                row,
                number_text(cell.learning_rate, "{:g}"),
                number_text(cell.percent_of_base, "{:.3f}"),
                *(number_text(cell.validation_loss, "{:.4f}") for _ in losses),
                *(number_text(cell.retention.get(name), "{:+.4f}") for name in texts),
                *(accuracies.get(task, MISSING) for task in tasks),
                _average_text(cell),
                " ".join(f"{100 * value:.1f}" for value in cell.by_seed),
            ]
        )
    kept = [f"retention, {name}" for name in texts]
    head = ["", "learning rate", "% of base", *losses, *kept, *tasks, "average", "by seed"]
    return _cells(head, rows)


def _task_texts(cell: CellResult, with_intervals: bool) -> dict[str, str]:
    intervals = cell.task_intervals if with_intervals else {}
    return {
        task: _interval_text(value, *intervals[task]) if task in intervals else f"{100 * value:.1f}"
        for task, value in (cell.tasks or {}).items()
    }


def _grid_cells(table: TableResult, columns: Sequence[str]) -> Cells:
    rows = [
        [row, *(_average_text(cells[column]) for column in columns)]
        for row, cells in table.rows.items()
    ]
    return _cells(["", *columns], rows)


def _speed_cells(table: TableResult) -> Cells:
    cells = row_cells(table)
    first, *_ = cells
    baseline = cells[first].step_seconds  # if this row failed, no other row replaces it
    rows = []
    for row, cell in cells.items():
        ratio = baseline / cell.step_seconds if baseline and cell.step_seconds else None
        text = _range_text(cell.step_seconds_by_seed, cell.step_seconds, "{:.3f}")
        rows.append([row, text, number_text(ratio, "{:.2f}"), cell.batching or MISSING])
    return _cells(["", "seconds a step", f"times as fast as {first}", "batches"], rows)


def _projection_cells(table: TableResult) -> Cells:
    cells = row_cells(table)
    shares = [of_seed for cell in cells.values() for of_seed in cell.shares or ()]
    names = list(dict.fromkeys(name for of_seed in shares for name in of_seed))
    rows = []
    for row, cell in cells.items():
        found = [
            [100 * of_seed[name] for of_seed in cell.shares or () if name in of_seed]
            for name in names
        ]
        rows.append([row, *(_range_text(of_name, mean(of_name), "{:.1f}%") for of_name in found)])
    for row, cell in cells.items():
        if layers := chosen_layers(cell):
            title = "layers with a chosen block" + (f", {row}" if len(cells) > 1 else "")
            rows.append([title, *(_num_layers_text(layers, name) for name in names)])
    return _cells(["", *names], rows)


def _num_layers_text(layers: Sequence[LayerBlocks], projection: str) -> str:
    chosen = [layer.chosen > 0 for layer in layers if layer.projection == projection]
    return f"{sum(chosen)} of {len(chosen)}" if chosen else MISSING


def _range_text(by_seed: Sequence[float], value: float | None, template: str) -> str:
    """A value, followed by the minimum and the maximum of several seeds."""
    text = number_text(value, template)
    if len(by_seed) < 2:
        return text
    return f"{text} ({template.format(min(by_seed))} to {template.format(max(by_seed))})"


def _rate_cells(rates: Mapping[str, TriedRates]) -> Cells:
    rows = []
    for group, tried in rates.items():
        losses = [
            f"{rate}: {number_text(loss, '{:.4f}')}" for rate, loss in tried.validation_loss.items()
        ]
        rows.append([group, ", ".join(losses), number_text(tried.chosen, "{:g}")])
    return _cells(["method", "validation loss by learning rate", "chosen"], rows)


def _average_text(cell: CellResult) -> str:
    if cell.errors:
        return FAILED
    average = cell.average
    return MISSING if average is None else _interval_text(average.value, average.low, average.high)


def _interval_text(value: float, low: float, high: float) -> str:
    return f"{100 * value:.1f} ({100 * low:.1f} to {100 * high:.1f})"


class LayerBlocks(NamedTuple):
    """The chosen blocks of one weight, by its layer and projection."""

    layer: int | None
    projection: str
    chosen: int
    blocks: int


def chosen_layers(cell: CellResult) -> list[LayerBlocks]:
    """The weights of a cell; empty if they are not known."""
    return [
        LayerBlocks(*parse_module_name(weight.module), weight.chosen, weight.blocks)
        for weight in cell.modules or ()
    ]


def layered_rows(table: TableResult) -> dict[str, CellResult]:
    """Row -> cell, of the rows whose weights are known."""
    return {
        row: columns[""]
        for row, columns in table.rows.items()
        if "" in columns and columns[""].modules
    }


def layer_lines(table: TableResult) -> Cells | None:
    """The chosen blocks by layer and projection; None if they are not known."""
    rows = [
        [row, "" if layer is None else str(layer), projection, str(chosen), str(blocks)]
        for row, cell in layered_rows(table).items()
        for layer, projection, chosen, blocks in chosen_layers(cell)
    ]
    return _cells(["row", "layer", "projection", "chosen blocks", "blocks"], rows) if rows else None


def layers_picture(name: str, row: str) -> str:
    """The name of the file that shows the positions of the blocks of a row.

    >>> layers_picture("distribution", "smt, half")
    'distribution_smt-half_layers.png'
    """
    return f"{name}_{re.sub(r'[^A-Za-z0-9.%]+', '-', row).strip('-')}_layers.png"
