"""A comparison's tables as Markdown and CSV, from what its runs came to.

The dict it reads, which ``comparison.json`` holds; a failed run has no measurements, and a cell
with one has none either::

    name, seeds         "tiny", [0, 1, 2]
    started_ms, ended_ms  milliseconds since the epoch, of the last time it was carried out
    learning_rates      method -> {"chosen", "validation_loss": rate -> loss or null}
                        chosen: null where none could be trained; the method's cells failed then,
                        and have no learning rate, unless they set one
    tables              name -> {"title", "columns", "rows", "claims"}
        columns         "tasks", "speed", "projections", or the names of its columns
        rows            row -> column ("" where columns are what a run measures) -> cell
        cell            {"runs": a run for each seed, "errors", "learning_rate",
                        "percent_of_base", "validation_loss": the seeds' mean,
                        "projections": name -> blocks of the first seed, "shares": [name ->
                        share] by seed, "modules": [{"module", "chosen", "blocks"}] of the first
                        seed, where columns are projections; "batching",
                        "step_seconds": the seeds' median, "step_seconds_by_seed": [seconds],
                        "tasks": task -> accuracy, "task_intervals": task -> [low, high],
                        "average": {"value", "low", "high"}, "by_seed": averages}
        claims          [{"better", "worse", "source", "verdict", "unit", "reason",
                        "difference": {"value", "low", "high"}}]
                        unit: "points", or "times" as fast; reason: why there is no difference
    runs                name -> {"method", "learning_rate", "seed", "sets": key -> value,
                        "accuracy", "seconds", "reused", "error", "folder"}
                        sets: what its first cell sets besides method and learning rate; accuracy:
                        the average over tasks; reused: it was found finished

Accuracies, differences and their 95% intervals are fractions in [0, 1]; tables show percent and
points.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Mapping
from typing import Any

from smt_ray.reporting.charts.run import parse_module_name
from smt_ray.reporting.text.learning_rates import rates_text

Table = Mapping[str, Any]
Lines = list[list[str]]

FAILED = "failed"


def to_markdown(results: Mapping[str, Any]) -> str:
    """The whole comparison, to be read as it is."""
    parts = [f"# {results['name']}"]
    parts.append(legend_text(results))
    if rates := results.get("learning_rates"):
        parts += ["## Learning rates", _markdown(_rate_lines(rates)), rates_text(results)]
    for name, table in results["tables"].items():
        lines = table_lines(table, intervals=True)
        parts += [f"## {table['title']}", _markdown(lines), f"![{name}]({name}.png)"]
        parts += [f"![layers, {row}]({layers_picture(name, row)})" for row in layered_rows(table)]
        if table["claims"]:
            parts.append("\n".join(f"- {claim_text(claim)}" for claim in table["claims"]))
    failed = {name: run["error"] for name, run in results["runs"].items() if run["error"]}
    if failed:
        parts += ["## Failed", "\n".join(f"- {name}: {why}" for name, why in failed.items())]
    return "\n\n".join(parts) + "\n"


def legend_text(results: Mapping[str, Any]) -> str:
    """What a cell is, and its interval."""
    seeds = [str(seed) for seed in results["seeds"]]
    of = f"each of the seeds {', '.join(seeds)}" if len(seeds) > 1 else f"seed {seeds[0]}"
    alone = "" if len(seeds) > 1 else " One seed: intervals tell of other test rows, not of seeds."
    return (
        f"Every cell is a run for {of}. Accuracies are percent correct. Intervals are 95%, each for"
        " itself: Student's t, as few as the seeds are, on the variances of seeds and of test rows;"
        " differences are over the same seeds and rows. Seconds and shares have the seeds' least"
        f" and greatest beside them.{alone}"
    )


def table_lines(table: Table, *, intervals: bool = False) -> Lines:
    """A table's cells as text, its head first.

    Args:
        table: The table.
        intervals: Whether each task's accuracy has its interval beside it.
    """
    columns = table["columns"]
    if columns == "tasks":
        return _task_lines(table, intervals)
    make: Callable[[Table], Lines] = _WAYS[columns] if isinstance(columns, str) else _grid_lines
    return make(table)


def claim_text(claim: Mapping[str, Any]) -> str:
    """A claim and what became of it, as Markdown."""
    source = f" ({claim['source']})" if claim["source"] else ""
    why = difference_text(claim) or claim.get("reason")
    answer = f"**{claim['verdict']}**" + (f", {why}" if why else "")
    return f"{claim['better']} {relation(claim)} {claim['worse']}{source}: {answer}"


def relation(claim: Mapping[str, Any]) -> str:
    """What a claim says of its two cells."""
    return "faster than" if claim.get("unit") == "times" else "above"


def difference_text(claim: Mapping[str, Any]) -> str:
    """By how much a claim's first row is better; "" where that is not known."""
    return " ".join(difference_parts(claim))


def difference_parts(claim: Mapping[str, Any]) -> tuple[str, ...]:
    """The same, the difference and its interval apart."""
    if not (difference := claim.get("difference")):
        return ()
    value, low, high = (difference[key] for key in ("value", "low", "high"))
    if claim.get("unit") == "times":
        return f"{value:.2f} times", f"({low:.2f} to {high:.2f})"
    value, low, high = 100 * value, 100 * low, 100 * high
    return f"{value:+.1f} points", f"({low:+.1f} to {high:+.1f})"


def task_interval_lines(table: Table) -> Lines:
    """Accuracies by task with their intervals as text, the head first; empty where none has any.

    Args:
        table: One whose columns are tasks.
    """
    cells = {row: columns[""] for row, columns in table["rows"].items()}
    done = {row: cell for row, cell in cells.items() if cell.get("task_intervals")}
    if not done:
        return []
    tasks = list(next(iter(done.values()))["tasks"])
    lines = [["", *tasks]]
    for row, cell in done.items():
        texts = _task_texts(cell, intervals=True)
        lines.append([row, *(texts[task] for task in tasks)])
    return lines


def _task_lines(table: Table, intervals: bool) -> Lines:
    cells = {row: columns[""] for row, columns in table["rows"].items()}
    tasks = next((list(cell["tasks"]) for cell in cells.values() if "tasks" in cell), [])
    losses = any("validation_loss" in cell for cell in cells.values())
    loss = ["validation loss"] if losses else []
    lines = [["", "learning rate", "% of base", *loss, *tasks, "average", "by seed"]]
    for row, cell in cells.items():
        accuracies = _task_texts(cell, intervals)
        lines.append(
            [
                row,
                _number(cell["learning_rate"], "{:g}"),
                _number(cell.get("percent_of_base"), "{:.3f}"),
                *([_number(cell.get("validation_loss"), "{:.4f}")] if losses else []),
                *(accuracies.get(task, "-") for task in tasks),
                _average(cell),
                " ".join(f"{100 * value:.1f}" for value in cell.get("by_seed", ())),
            ]
        )
    return lines


def _task_texts(cell: Mapping[str, Any], intervals: bool) -> dict[str, str]:
    around = cell.get("task_intervals") or {}
    return {
        task: _with_interval(value, *around[task])
        if intervals and task in around
        else f"{100 * value:.1f}"
        for task, value in (cell.get("tasks") or {}).items()
    }


def _grid_lines(table: Table) -> Lines:
    lines = [["", *table["columns"]]]
    for row, cells in table["rows"].items():
        lines.append([row, *(_average(cells[column]) for column in table["columns"])])
    return lines


def _speed_lines(table: Table) -> Lines:
    cells = {row: columns[""] for row, columns in table["rows"].items()}
    first, *_ = cells
    baseline = cells[first].get("step_seconds")  # of no other row, should that one have failed
    lines = [["", "seconds a step", f"times as fast as {first}", "batches"]]
    for row, cell in cells.items():
        seconds = cell.get("step_seconds")
        ratio = baseline / seconds if baseline and seconds else None
        text = _with_range(cell.get("step_seconds_by_seed") or [], seconds, "{:.3f}")
        lines.append([row, text, _number(ratio, "{:.2f}"), cell.get("batching") or "-"])
    return lines


def _projection_lines(table: Table) -> Lines:
    cells = {row: columns[""] for row, columns in table["rows"].items()}
    shares = (of_seed for cell in cells.values() for of_seed in cell.get("shares") or ())
    names = list(dict.fromkeys(name for of_seed in shares for name in of_seed))
    lines = [["", *names]]
    for row, cell in cells.items():
        found = [[100 * of[name] for of in cell.get("shares") or ()] for name in names]
        lines.append([row, *(_with_range(of, _mean(of), "{:.1f}%") for of in found)])
    for row, cell in cells.items():
        if layers := chosen_layers(cell):
            title = "layers with a chosen block" + (f", {row}" if len(cells) > 1 else "")
            lines.append([title, *(_trained_layers(layers, name) for name in names)])
    return lines


def _trained_layers(layers: list[tuple[int | None, str, int, int]], projection: str) -> str:
    own = [chosen for _, name, chosen, _ in layers if name == projection]
    return f"{sum(map(bool, own))} of {len(own)}" if own else "-"


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _with_range(by_seed: list[float], value: float | None, template: str) -> str:
    """A value, and the least and the greatest of several seeds."""
    text = _number(value, template)
    if len(by_seed) < 2:
        return text
    return f"{text} ({template.format(min(by_seed))} to {template.format(max(by_seed))})"


_WAYS: dict[str, Callable[[Table], Lines]] = {
    "speed": _speed_lines,
    "projections": _projection_lines,
}


def _rate_lines(rates: Mapping[str, Any]) -> Lines:
    lines = [["method", "validation loss by learning rate", "chosen"]]
    for method, tried in rates.items():
        losses = [
            f"{rate}: {_number(loss, '{:.4f}')}" for rate, loss in tried["validation_loss"].items()
        ]
        lines.append([method, ", ".join(losses), _number(tried["chosen"], "{:g}")])
    return lines


def _average(cell: Mapping[str, Any]) -> str:
    if cell["errors"]:
        return FAILED
    if "average" not in cell:
        return "-"
    return _with_interval(*(cell["average"][key] for key in ("value", "low", "high")))


def _with_interval(value: float, low: float, high: float) -> str:
    return f"{100 * value:.1f} ({100 * low:.1f} to {100 * high:.1f})"


def _number(value: float | None, template: str, factor: int = 1) -> str:
    return "-" if value is None else template.format(value * factor)


def _markdown(lines: Lines) -> str:
    head, *rows = ([text.replace("|", "\\|") for text in line] for line in lines)
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, rule, *rows))


def to_csv(table: Table) -> str:
    """A table's cells as CSV."""
    return write_csv(table_lines(table, intervals=True))


def layer_lines(table: Table) -> Lines:
    """Chosen blocks by layer and projection, the head first; empty where they are not known."""
    lines = [
        [row, "" if layer is None else str(layer), projection, str(chosen), str(blocks)]
        for row, cell in layered_rows(table).items()
        for layer, projection, chosen, blocks in chosen_layers(cell)
    ]
    return [["row", "layer", "projection", "chosen blocks", "blocks"], *lines] if lines else []


def layered_rows(table: Table) -> dict[str, Mapping[str, Any]]:
    """Row -> cell, of those that know where their blocks are."""
    cells = ((row, columns.get("") or {}) for row, columns in table["rows"].items())
    return {row: cell for row, cell in cells if cell.get("modules")}


def chosen_layers(cell: Mapping[str, Any]) -> list[tuple[int | None, str, int, int]]:
    """Layer, projection, chosen blocks and blocks of every weight that a cell might have chosen."""
    return [
        (*parse_module_name(of["module"]), of["chosen"], of["blocks"])
        for of in cell.get("modules") or ()
    ]


def layers_picture(name: str, row: str) -> str:
    """The file that shows where a row's blocks are.

    >>> layers_picture("distribution", "smt, half")
    'distribution_smt-half_layers.png'
    """
    return f"{name}_{re.sub(r'[^A-Za-z0-9.%]+', '-', row).strip('-')}_layers.png"


def write_csv(lines: Lines) -> str:
    """Lines as CSV."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()
