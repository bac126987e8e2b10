"""A comparison's tables as Markdown, CSV and pictures, from what its runs came to."""

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
    seeds = ", ".join(map(str, results["seeds"]))
    parts.append(
        f"Every cell is a run for each of the seeds {seeds}. Accuracies are percent correct;"
        " intervals are 95%, of a bootstrap over seeds and test rows, for differences over the"
        " same rows."
    )
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


def table_lines(table: Table) -> Lines:
    """A table's cells as text, its head first."""
    columns = table["columns"]
    make: Callable[[Table], Lines] = _WAYS[columns] if isinstance(columns, str) else _grid_lines
    return make(table)


def claim_text(claim: Mapping[str, Any]) -> str:
    """A claim and what became of it."""
    source = f" ({claim['source']})" if claim["source"] else ""
    text = f"{claim['better']} above {claim['worse']}{source}: **{claim['verdict']}**"
    if not (difference := claim.get("difference")):
        return text
    value, low, high = (100 * difference[key] for key in ("value", "low", "high"))
    return f"{text}, {value:+.1f} points ({low:+.1f} to {high:+.1f})"


def _task_lines(table: Table) -> Lines:
    cells = {row: columns[""] for row, columns in table["rows"].items()}
    tasks = next((list(cell["tasks"]) for cell in cells.values() if "tasks" in cell), [])
    lines = [["", "learning rate", "% of base", *tasks, "average", "by seed"]]
    for row, cell in cells.items():
        accuracies = cell.get("tasks") or {}
        lines.append(
            [
                row,
                f"{cell['learning_rate']:g}",
                _number(cell.get("percent_of_base"), "{:.3f}"),
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
    value, low, high = (100 * cell["average"][key] for key in ("value", "low", "high"))
    return f"{value:.1f} ({low:.1f} to {high:.1f})"


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
