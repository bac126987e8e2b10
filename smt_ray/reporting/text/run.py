"""The table that a run prints at its end, from its :class:`RunMetrics` alone.

A run that stopped early, such as at ``--until selection``, has fewer metrics. What is missing is
not shown.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from smt_ray.documents.averages import mean
from smt_ray.documents.run import (
    WHO,
    Paths,
    RunMetrics,
    SelectedBlocks,
    TaskResults,
    Trainable,
    Who,
)
from smt_ray.reporting.text.console import facts_grid, rich_table, show
from smt_ray.reporting.text.lm_eval import LM_EVAL_LEGEND, lm_eval_cells
from smt_ray.reporting.text.losses import loss_text, retention_text
from smt_ray.reporting.text.rows import row_warnings, rows_text
from smt_ray.reporting.text.tables import Cells, escape, markdown_table
from smt_ray.reporting.text.values import (
    MISSING,
    blocks_label,
    blocks_text,
    method_facts,
    number_text,
    stage_text,
)

if TYPE_CHECKING:
    from rich.console import Console

LEGEND = (
    "percent correct (95% interval); gain in points over the base; average: each task counts the"
    " same"
)
"""The note below the table of accuracies."""

_PATH_LABELS = {
    "run": "run",
    "report": "report",
    "adapter": "adapter",
    "adapter_base": "adapter's base",
    "tracking": "mlflow",
    "tracked_run": "mlflow run",
}


def print_table(metrics: RunMetrics) -> None:
    """Prints the table; without colours or wrapping if the output is not a terminal."""
    show(partial(_render, metrics))


def to_markdown(metrics: RunMetrics) -> str:
    """The table as Markdown."""
    parts = [f"### {_title(metrics)}"]
    if accuracy := accuracy_cells(metrics):
        parts += [markdown_table(accuracy), f"*{LEGEND}*"]
    if harness := lm_eval_cells(metrics):
        parts += [markdown_table(harness), f"*{LM_EVAL_LEGEND}*"]
    if pairs := facts(metrics):
        parts.append("\n".join(f"- {name}: {escape(text)}" for name, text in pairs))
    if stages := stage_cells(metrics):
        parts.append(markdown_table(stages))
    return "\n\n".join(parts) + "\n"


def format_seconds(seconds: float | None) -> str:
    """A duration for people.

    >>> [format_seconds(s) for s in (0.25, 75, 3720)]
    ['0.2 s', '1 min 15 s', '1 h 02 min']
    """
    if seconds is None or not math.isfinite(seconds):
        return MISSING
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return (
        f"{minutes} min {rest:02d} s"
        if minutes < 60
        else f"{minutes // 60} h {minutes % 60:02d} min"
    )


@dataclass(frozen=True)
class _Column:
    """A column of the table of accuracies.

    Attributes:
        value: A function from the results of a task to its value, a fraction.
        template: The format of the value in percent.
        who: The model whose interval is shown beside the value; None for no interval.
    """

    head: str
    value: Callable[[TaskResults], float | None]
    template: str = "{:.1f}"
    who: Who | None = None

    def text(self, task: TaskResults) -> str:
        text = number_text(self.value(task), self.template, 100)
        result = task.result(self.who) if self.who else None
        if text == MISSING or result is None or result.interval is None:
            return text
        low, high = result.interval
        return f"{text} ({100 * low:.1f}-{100 * high:.1f})"

    def averages(self, tasks: list[TaskResults]) -> list[str]:
        """The plain average of the tasks, and the average weighted by rows."""
        values = [self.value(task) for task in tasks]
        means = (mean(values), mean(values, [task.num_rows for task in tasks]))
        return [number_text(value, self.template, 100) for value in means]


def _gain(task: TaskResults) -> float | None:
    base, tuned = task.accuracy("base"), task.accuracy("tuned")
    return None if base is None or tuned is None else tuned - base


def _accuracy_column(head: str, who: Who) -> _Column:
    return _Column(head, lambda task: task.accuracy(who), who=who)


_COLUMNS = (
    _Column("majority", lambda task: task.majority),
    _accuracy_column("base by likelihood", "base_likelihood"),
    _accuracy_column("tuned by likelihood", "tuned_likelihood"),
    _accuracy_column("base", "base"),
    _accuracy_column("tuned", "tuned"),
    _Column("gain", _gain, "{:+.1f}"),
)


def accuracy_cells(metrics: RunMetrics) -> Cells | None:
    """The rows of :func:`task_rows` and, for several tasks, two averages; None without values.

    Columns without values are left out.
    """
    tasks = list(metrics.tasks.values())
    rows = task_rows(metrics)
    names = list(rows)
    num_rows = [number_text(task.num_rows, "{:,}") for task in rows.values()]
    columns = {column.head: [column.text(task) for task in rows.values()] for column in _COLUMNS}
    if len(tasks) > 1:
        names += ["average", "of all rows"]
        num_rows += ["", f"{sum(task.num_rows or 0 for task in tasks):,}"]
        for column in _COLUMNS:
            columns[column.head] += column.averages(tasks)
    columns = {"rows": num_rows, **columns}
    shown = {head: texts for head, texts in columns.items() if set(texts) - {MISSING, ""}}
    if not shown:
        return None
    return Cells(("task", *shown), tuple(zip(names, *shown.values(), strict=True)), len(shown))


def task_rows(metrics: RunMetrics) -> dict[str, TaskResults]:
    """The results of every task.

    A task that a corrected rule read too has a second row, which does not count in averages.
    """
    rows = {}
    for name, task in metrics.tasks.items():
        rows[name] = task
        results = {who: task.result(who) for who in WHO}
        corrected = {
            who: {"accuracy": result.corrected.accuracy, "interval": result.corrected.interval}
            for who, result in results.items()
            if result and result.corrected
        }
        if corrected:
            rows[f"{name}, corrected"] = TaskResults.model_validate(corrected)
    return rows


def stage_cells(metrics: RunMetrics) -> Cells | None:
    """The time of every stage, or "reused", and the folder if it is known."""
    stages = metrics.stages
    has_folders = any(stage.directory for stage in stages.values())
    rows = [
        (
            stage_text(key),
            "reused" if stage.reused else format_seconds(stage.seconds),
            *([stage.directory or MISSING] if has_folders else []),
        )
        for key, stage in stages.items()
    ]
    head = ("stage", "time", "directory") if has_folders else ("stage", "time")
    return Cells(head, tuple(rows), 1) if rows else None


def facts(metrics: RunMetrics) -> list[tuple[str, str]]:
    """(name, text) pairs: the model, what was trained and how, and where the results are."""
    model, bits = metrics.model, metrics.model.identity.get("quantization")
    parameters = number_text(model.num_parameters, "{:,} parameters")
    selected = metrics.selection
    pairs = [
        ("model", _join(model.name, parameters, *([f"linears in {bits}"] if bits else []))),
        ("rows", rows_text(metrics.rows) if metrics.rows else ""),
        *(("warning", line) for line in (row_warnings(metrics.rows) if metrics.rows else ())),
        ("validation loss", loss_text(metrics)),
        *((f"retention, {name}", retention_text(kept)) for name, kept in metrics.retention.items()),
        ("trainable", trainable_text(metrics.trainable)),
        (blocks_label(selected.block_shape if selected else "square"), _blocks(selected)),
        *method_facts(metrics.method_settings),
        ("ran with", _join(*(f"{k} {v}" for k, v in metrics.ran or () if v is not None))),
        *_paths(metrics.paths),
    ]
    return [(name, text) for name, text in pairs if text]


def trainable_text(trainable: Trainable | None) -> str:
    """The number of trainable parameters and its two percentages; "" if it is not known."""
    if trainable is None:
        return ""
    return _join(
        number_text(trainable.num_trainable, "{:,} parameters"),
        number_text(trainable.percent_of_base, "{:.3f}% of the base model"),
        number_text(trainable.percent_of_total, "{:.3f}% of base + adapter"),
    )


def _paths(paths: Paths) -> list[tuple[str, str]]:
    return [(_PATH_LABELS[field], place) for field, place in paths if place]


def _join(*texts: str | None) -> str:
    return ", ".join(text for text in texts if text and text != MISSING)


def _title(metrics: RunMetrics) -> str:
    return (metrics.name or "run") + (f" ({metrics.method})" if metrics.method else "")


def _blocks(selection: SelectedBlocks | None) -> str:
    if selection is None or selection.num_blocks is None:
        return ""
    where = [
        number_text(selection.num_modules, "{:,} modules"),
        number_text(selection.num_layers, "{:,} layers"),
    ]
    rule = [word for word in (selection.score, selection.scope) if word]
    return _join(
        blocks_text(f"{selection.num_blocks:,}", selection.block_shape, selection.block_size),
        _prefix("in ", " of ".join(text for text in where if text != MISSING)),
        _prefix("by ", " ".join(rule)),
        " + ".join(f"{name} {count:,}" for name, count in selection.projections.items()),
        number_text(selection.margin, "relative margin at the cut {:.1e}"),
    )


def _prefix(prefix: str, text: str) -> str:
    return prefix + text if text else ""


def _render(metrics: RunMetrics, console: Console) -> None:
    from rich.text import Text

    console.print(Text(_title(metrics), style="bold"))
    if accuracy := accuracy_cells(metrics):
        console.print(rich_table(accuracy, _style))
        console.print(Text(f"  {LEGEND}\n", style="dim"))
    if harness := lm_eval_cells(metrics):
        console.print(rich_table(harness))
        console.print(Text(f"  {LM_EVAL_LEGEND}\n", style="dim"))
    if pairs := facts(metrics):
        console.print(facts_grid(pairs))
    if stages := stage_cells(metrics):
        console.print(rich_table(stages))


def _style(text: str) -> str:
    """Positive gains are green, negative ones are red, and all other texts are plain."""
    if text[:1] in "+-" and text[1:2].isdigit():
        return "green" if text.startswith("+") else "red"
    return ""
