"""The table that a run prints at its end, from ``metrics.json`` alone.

The dict it reads; any key may be missing (a run that stopped at ``--until selection``), and what
is missing is not shown::

    name, method        "smt-quickstart", "smt"
    model               {"name", "num_parameters"}
    tasks               task -> {"num_rows", "majority", "base", "base_likelihood", "tuned",
                        "tuned_likelihood"}
                        majority: accuracy of always giving the most frequent answer
                        base, ..., tuned_likelihood: {"accuracy", "interval": [low, high]}
    trainable           {"num_trainable", "num_base", "percent_of_base", "percent_of_total"}
                        percentages in points; total = base + adapter, which peft divides by
    selection           {"num_blocks", "block_size", "num_modules", "projections": name -> blocks,
                        "num_layers", "margin", "score", "scope"}
    lora                {"rank", "alpha", "dropout", "target_modules"}, of LoRA and DoRA
    stages              stage -> {"seconds", "reused", "directory"}
    ran                 what it really ran with: {"batching", "kernel", "optimizer", "devices", ...}
    paths               what -> where: run, adapter, MLflow, ...

Accuracies, intervals and margins are fractions in [0, 1]; the table shows percent and points.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TextIO

from smt_ray.reporting.text.console import Cells, facts_grid, plain_text, rich_table, show

if TYPE_CHECKING:
    from rich.console import Console

Metrics = Mapping[str, Any]

_MISSING = "-"
LEGEND = (
    "percent correct (95% interval); gain in points over the base; average: each task counts the"
    " same"
)
"""What the table of accuracies shows."""


def accuracy_cells(metrics: Metrics) -> Cells | None:
    """One row a task and, for several, two averages; columns without values are left out.

    A task that a corrected rule reads too has a row more for it, which no average counts.
    """
    tasks: Mapping[str, Metrics] = metrics.get("tasks") or {}
    lines = [line for name, task in tasks.items() for line in task_lines(name, task)]
    columns: dict[str, list[str]] = {
        "rows": [_show(task.get("num_rows"), "{:,}") for _, task in lines]
    }
    several = len(tasks) > 1
    num_rows = [task.get("num_rows") for task in tasks.values()]
    if several:
        columns["rows"] += ["", _show(sum(n or 0 for n in num_rows), "{:,}")]
    for name, value_of, text_of in _COLUMNS:
        columns[name] = [text_of(task) for _, task in lines]
        if several:
            values = [value_of(task) for task in tasks.values()]
            template = "{:+.1f}" if name == "gain" else "{:.1f}"
            means = (mean(values), mean(values, num_rows))
            columns[name] += [_show(value, template, 100) for value in means]
    names = [name for name, _ in lines]
    names += ["average", "of all rows"] if several else []
    shown = {name: texts for name, texts in columns.items() if set(texts) - {_MISSING, ""}}
    if not shown:
        return None
    return Cells(("task", *shown), tuple(zip(names, *shown.values(), strict=True)), len(shown))


def stage_cells(metrics: Metrics) -> Cells | None:
    """One row a stage: what it took, or that it was found finished, and where it lies if said."""
    stages: Mapping[str, Metrics] = metrics.get("stages") or {}
    placed = any(stage.get("directory") for stage in stages.values())
    rows = [
        (
            name,
            "reused" if stage.get("reused") else format_seconds(stage.get("seconds")),
            *([str(stage.get("directory") or _MISSING)] if placed else []),
        )
        for name, stage in stages.items()
    ]
    head = ("stage", "time", "directory") if placed else ("stage", "time")
    return Cells(head, tuple(rows), 1) if rows else None


def facts(metrics: Metrics) -> list[tuple[str, str]]:
    """What was trained and how, and where things are: (what, text) pairs."""
    model = metrics.get("model") or {}
    pairs = [
        ("model", _join(model.get("name"), _show(model.get("num_parameters"), "{:,} parameters"))),
        ("trainable", _trainable(metrics.get("trainable") or {})),
        ("blocks", _blocks(metrics.get("selection") or {})),
        ("factors", _factors(metrics.get("lora") or {})),
        ("ran with", _join(*(f"{k} {v}" for k, v in (metrics.get("ran") or {}).items()))),
        *((str(what), str(where)) for what, where in (metrics.get("paths") or {}).items()),
    ]
    return [(what, text) for what, text in pairs if text]


def print_table(metrics: Metrics, file: TextIO | None = None) -> None:
    """Print the table; plain text without colours or wrapping where ``file`` is no terminal."""
    show(partial(_render, metrics), file or sys.stdout)


def to_text(metrics: Metrics) -> str:
    """The table as plain text."""
    return plain_text(partial(_render, metrics))


def to_markdown(metrics: Metrics) -> str:
    """The table as Markdown, for results that are kept beside the code."""
    parts = [f"### {_title(metrics)}"]
    accuracy, stages = accuracy_cells(metrics), stage_cells(metrics)
    if accuracy:
        parts += [markdown_table(accuracy), f"*{LEGEND}*"]
    if facts(metrics):
        parts.append("\n".join(f"- {what}: {_escape(text)}" for what, text in facts(metrics)))
    if stages:
        parts.append(markdown_table(stages))
    return "\n\n".join(parts) + "\n"


def format_seconds(seconds: float | None) -> str:
    """A duration for people.

    >>> [format_seconds(s) for s in (0.25, 75, 3720)]
    ['0.2 s', '1 min 15 s', '1 h 02 min']
    """
    if seconds is None or not math.isfinite(seconds):
        return _MISSING
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return (
        f"{minutes} min {rest:02d} s"
        if minutes < 60
        else f"{minutes // 60} h {minutes % 60:02d} min"
    )


def _accuracy(key: str) -> Callable[[Metrics], float | None]:
    return lambda task: (task.get(key) or {}).get("accuracy")


def _with_interval(key: str) -> Callable[[Metrics], str]:
    def show(task: Metrics) -> str:
        result = task.get(key) or {}
        text = _show(result.get("accuracy"), "{:.1f}", 100)
        low, high = result.get("interval") or (None, None)
        if text == _MISSING or low is None or high is None:
            return text
        return f"{text} ({100 * low:.1f}-{100 * high:.1f})"

    return show


def _gain(task: Metrics) -> float | None:
    base, tuned = _accuracy("base")(task), _accuracy("tuned")(task)
    return None if base is None or tuned is None else tuned - base


# Head, value (averaged over the tasks) and text of each column of accuracies.
_COLUMNS: tuple[tuple[str, Callable[[Metrics], Any], Callable[[Metrics], str]], ...] = (
    (
        "majority",
        lambda task: task.get("majority"),
        lambda task: _show(task.get("majority"), "{:.1f}", 100),
    ),
    ("base by likelihood", _accuracy("base_likelihood"), _with_interval("base_likelihood")),
    ("tuned by likelihood", _accuracy("tuned_likelihood"), _with_interval("tuned_likelihood")),
    ("base", _accuracy("base"), _with_interval("base")),
    ("tuned", _accuracy("tuned"), _with_interval("tuned")),
    ("gain", _gain, lambda task: _show(_gain(task), "{:+.1f}", 100)),
)


def task_lines(name: str, task: Metrics) -> list[tuple[str, Metrics]]:
    """A task's rows of the table: the published rule's and, where there is one, the corrected."""
    corrected = {
        who: result["corrected"]
        for who, result in task.items()
        if isinstance(result, Mapping) and "corrected" in result
    }
    return [(name, task), *([(f"{name}, corrected", corrected)] if corrected else [])]


def mean(
    values: Sequence[float | None], weights: Sequence[float | None] | None = None
) -> float | None:
    """The tasks' plain average (the paper's AVG), or by rows; None where a task has no value.

    An average over some of the tasks would be compared with one over all of them.
    """
    weights = [1.0] * len(values) if weights is None else weights
    if not values or None in values or None in weights:
        return None
    pairs = [(v, w) for v, w in zip(values, weights, strict=True) if v is not None and w]
    return math.fsum(v * w for v, w in pairs) / math.fsum(w for _, w in pairs)


def _show(value: float | None, template: str, factor: int = 1) -> str:
    if value is None or not math.isfinite(value):
        return _MISSING
    return template.format(value * factor)


def _join(*texts: str | None) -> str:
    return ", ".join(text for text in texts if text and text != _MISSING)


def _title(metrics: Metrics) -> str:
    method = metrics.get("method")
    return str(metrics.get("name") or "run") + (f" ({method})" if method else "")


def _trainable(trainable: Metrics) -> str:
    return _join(
        _show(trainable.get("num_trainable"), "{:,} parameters"),
        _show(trainable.get("percent_of_base"), "{:.3f}% of the base model"),
        _show(trainable.get("percent_of_total"), "{:.3f}% of base + adapter"),
    )


def _blocks(selection: Metrics) -> str:
    if selection.get("num_blocks") is None:
        return ""
    size = selection.get("block_size", "?")
    where = [
        _show(selection.get("num_modules"), "{:,} modules"),
        _show(selection.get("num_layers"), "{:,} layers"),
    ]
    projections = (selection.get("projections") or {}).items()
    how = [selection.get("score"), selection.get("scope")]
    return _join(
        f"{selection['num_blocks']:,} of {size} x {size}",
        _prefix("in ", " of ".join(text for text in where if text != _MISSING)),
        _prefix("by ", " ".join(str(word) for word in how if word)),
        " + ".join(f"{name} {count:,}" for name, count in projections),
        _show(selection.get("margin"), "relative margin at the cut {:.1e}"),
    )


def _factors(lora: Metrics) -> str:
    return _join(
        _show(lora.get("rank"), "rank {}"),
        _show(lora.get("alpha"), "alpha {}"),
        _show(lora.get("dropout"), "dropout {}"),
        _prefix("of ", " + ".join(lora.get("target_modules") or [])),
    )


def _prefix(prefix: str, text: str) -> str:
    return prefix + text if text else ""


def _render(metrics: Metrics, console: Console) -> None:
    from rich.text import Text

    console.print(Text(_title(metrics), style="bold"))
    accuracy, stages = accuracy_cells(metrics), stage_cells(metrics)
    if accuracy:
        console.print(rich_table(accuracy, _style))
        console.print(Text(f"  {LEGEND}\n", style="dim"))
    if pairs := facts(metrics):
        console.print(facts_grid(pairs))
    if stages:
        console.print(rich_table(stages))


def _style(text: str) -> str:
    """Colours for gains; everything else is plain."""
    if text[:1] in "+-" and text[1:2].isdigit():
        return "green" if text.startswith("+") else "red"
    return ""


def markdown_table(cells: Cells) -> str:
    """Cells as a Markdown table."""
    num_left = len(cells.head) - 1 - cells.num_right
    rule = ("---", *["---:"] * cells.num_right, *["---"] * num_left)
    lines = [cells.head, rule, *cells.rows]
    return "\n".join("| " + " | ".join(_escape(text) for text in line) + " |" for line in lines)


def _escape(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
