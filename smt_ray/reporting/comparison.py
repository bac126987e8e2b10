"""A comparison's tables as Markdown and CSV, from what its runs came to.

The dict it reads, which ``comparison.json`` holds; a failed run has no measurements, and a cell
with one has none either::

    name, seeds         "tiny", [0, 1, 2]
    started_ms, ended_ms  milliseconds since the epoch, of the last time it was carried out
    learning_rates      method -> {"chosen", "validation_loss": rate -> loss or null}
    tables              name -> {"title", "columns", "rows", "claims"}
        columns         "tasks", "speed", "projections", or the names of its columns
        rows            row -> column ("" where columns are what a run measures) -> cell
        cell            {"runs": a run for each seed, "errors", "learning_rate",
                        "percent_of_base", "validation_loss": the seeds' mean,
                        "projections": name -> blocks, "step_seconds",
                        "tasks": task -> accuracy, "task_intervals": task -> [low, high],
                        "average": {"value", "low", "high"}, "by_seed": averages}
        claims          [{"better", "worse", "source", "verdict",
                        "difference": {"value", "low", "high"}}]
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
from collections.abc import Callable, Mapping
from typing import Any

Table = Mapping[str, Any]
Lines = list[list[str]]

FAILED = "failed"


def to_markdown(results: Mapping[str, Any]) -> str:
    """The whole comparison, to be read as it is."""
    parts = [f"# {results['name']}"]
    parts.append(legend_text(results))
    if rates := results.get("learning_rates"):
        parts += ["## Learning rates", _markdown(_rate_lines(rates))]
    for name, table in results["tables"].items():
        parts += [f"## {table['title']}", _markdown(table_lines(table)), f"![{name}]({name}.png)"]
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
    return (
        f"Every cell is a run for {of}. Accuracies are percent correct; intervals are 95%, of a"
        " bootstrap over seeds and test rows, for differences over the same rows."
    )


def table_lines(table: Table) -> Lines:
    """A table's cells as text, its head first."""
    columns = table["columns"]
    make: Callable[[Table], Lines] = _WAYS[columns] if isinstance(columns, str) else _grid_lines
    return make(table)


def claim_text(claim: Mapping[str, Any]) -> str:
    """A claim and what became of it, as Markdown."""
    source = f" ({claim['source']})" if claim["source"] else ""
    difference = difference_text(claim)
    answer = f"**{claim['verdict']}**" + (f", {difference}" if difference else "")
    return f"{claim['better']} above {claim['worse']}{source}: {answer}"


def difference_text(claim: Mapping[str, Any]) -> str:
    """By how much a claim's first row is better; "" where that is not known."""
    return " ".join(difference_parts(claim))


def difference_parts(claim: Mapping[str, Any]) -> tuple[str, ...]:
    """The same, the difference and its interval apart."""
    if not (difference := claim.get("difference")):
        return ()
    value, low, high = (100 * difference[key] for key in ("value", "low", "high"))
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
        estimates = [(cell["tasks"][task], *cell["task_intervals"][task]) for task in tasks]
        lines.append([row, *(_with_interval(*estimate) for estimate in estimates)])
    return lines


def _task_lines(table: Table) -> Lines:
    cells = {row: columns[""] for row, columns in table["rows"].items()}
    tasks = next((list(cell["tasks"]) for cell in cells.values() if "tasks" in cell), [])
    losses = any("validation_loss" in cell for cell in cells.values())
    loss = ["validation loss"] if losses else []
    lines = [["", "learning rate", "% of base", *loss, *tasks, "average", "by seed"]]
    for row, cell in cells.items():
        accuracies = cell.get("tasks") or {}
        lines.append(
            [
                row,
                f"{cell['learning_rate']:g}",
                _number(cell.get("percent_of_base"), "{:.3f}"),
                *([_number(cell.get("validation_loss"), "{:.4f}")] if losses else []),
                *(_number(accuracies.get(task), "{:.1f}", 100) for task in tasks),
                _average(cell),
                " ".join(f"{100 * value:.1f}" for value in cell.get("by_seed", ())),
            ]
        )
    return lines


def _grid_lines(table: Table) -> Lines:
    lines = [["", *table["columns"]]]
    for row, cells in table["rows"].items():
        lines.append([row, *(_average(cells[column]) for column in table["columns"])])
    return lines


def _speed_lines(table: Table) -> Lines:
    lines = [["", "seconds a step", "times as fast as the first"]]
    first: float | None = None
    for row, columns in table["rows"].items():
        seconds = columns[""].get("step_seconds")
        first = first or seconds
        ratio = first / seconds if first and seconds else None
        lines.append([row, _number(seconds, "{:.3f}"), _number(ratio, "{:.2f}")])
    return lines


def _projection_lines(table: Table) -> Lines:
    found = {row: columns[""].get("projections") or {} for row, columns in table["rows"].items()}
    names = list(dict.fromkeys(name for counts in found.values() for name in counts))
    lines = [["", *names]]
    for row, counts in found.items():
        total = sum(counts.values())
        shares = (counts.get(name, 0) / total if total else None for name in names)
        lines.append([row, *(_number(share, "{:.1f}%", 100) for share in shares)])
    return lines


_WAYS: dict[str, Callable[[Table], Lines]] = {
    "tasks": _task_lines,
    "speed": _speed_lines,
    "projections": _projection_lines,
}


def _rate_lines(rates: Mapping[str, Any]) -> Lines:
    lines = [["method", "validation loss by learning rate", "chosen"]]
    for method, tried in rates.items():
        losses = [
            f"{rate}: {_number(loss, '{:.4f}')}" for rate, loss in tried["validation_loss"].items()
        ]
        lines.append([method, ", ".join(losses), f"{tried['chosen']:g}"])
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
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(table_lines(table))
    return text.getvalue()
