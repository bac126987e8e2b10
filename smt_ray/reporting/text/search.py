"""A search's trials as a table: on a terminal, as Markdown and as CSV.

``search.json``, which everything here and the page read::

    name                of the search
    started_ms, ended_ms  milliseconds since the epoch
    trials              the winner first: {"run", "point": key -> value, "status": "finished",
                        "stopped early" or "failed", "error", "step" and "loss" of the last
                        validation, "history": [(step, validation loss)], "ended_ms" of the
                        last thing measured, "seconds"}
    log_keys            keys that are drawn on a logarithmic scale
    winner              the winner's metrics.json
    best_yaml           the winner as a run's own file
"""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from smt_ray.reporting.text.console import Cells, rich_table, show
from smt_ray.reporting.text.run import format_seconds, markdown_table

Trial = Mapping[str, Any]
_MISSING = "-"


def trial_cells(trials: Sequence[Trial]) -> Cells:
    """One row a trial, in their order: what it set, its last validation loss, how it ended."""
    keys = trial_keys(trials)
    head = ("trial", *(key.rpartition(".")[2] for key in keys), "step", "validation loss", "time",
            "status")  # fmt: skip
    rows = tuple(
        (
            trial["run"] or _MISSING,
            *(value_text(trial["point"].get(key)) or _MISSING for key in keys),
            value_text(trial["step"]) or _MISSING,
            _MISSING if trial["loss"] is None else f"{trial['loss']:.4f}",
            format_seconds(trial["seconds"]),
            f"{trial['status']}: {trial['error']}" if trial["error"] else trial["status"],
        )
        for trial in trials
    )
    return Cells(head, rows, len(head) - 2)


def trial_keys(trials: Sequence[Trial]) -> list[str]:
    """The keys that are searched."""
    return list(dict.fromkeys(key for trial in trials for key in trial["point"]))


def to_markdown(results: Mapping[str, Any]) -> str:
    """The search, to be read as it is."""
    trials = results["trials"]
    return (
        f"# {results['name']}\n\n{len(trials)} trials, the lowest validation loss first; the first"
        " is the winner, and it alone was evaluated on test rows: its file is best.yaml.\n\n"
        f"{markdown_table(trial_cells(trials))}\n\n![Validation loss by step](trials.png)\n\n"
        + "\n".join(f"![{key}](loss_over_{key}.png)" for key in trial_keys(trials))
        + "\n"
    )


def to_csv(trials: Sequence[Trial]) -> str:
    """The same with every digit, and the keys whole."""
    keys = trial_keys(trials)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    known = ("step", "loss", "seconds", "status", "error")
    writer.writerow(["run", *keys, *known])
    for trial in trials:
        point = [trial["point"].get(key) for key in keys]
        writer.writerow([trial["run"], *point, *(trial[name] for name in known)])
    return text.getvalue()


def print_trials(trials: Sequence[Trial], file: TextIO | None = None) -> None:
    """Print the table; plain text where ``file`` is no terminal."""
    table = rich_table(trial_cells(trials))
    show(lambda console: console.print(table), file or sys.stdout)


def value_text(value: Any) -> str:
    """A setting in four digits; "" of none."""
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
