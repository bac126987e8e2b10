"""The trials of a search as a table: on a terminal, as Markdown and as CSV."""

from __future__ import annotations

from collections.abc import Sequence

from smt_ray.documents.search import SearchDocument, TrialResult
from smt_ray.reporting.text.console import rich_table, show
from smt_ray.reporting.text.run import format_seconds
from smt_ray.reporting.text.tables import Cells, markdown_table, write_csv
from smt_ray.reporting.text.values import MISSING, number_text, value_text


def print_trials(trials: Sequence[TrialResult]) -> None:
    """Prints the table; without colours or wrapping if the output is not a terminal."""
    table = rich_table(trial_cells(trials))
    show(lambda console: console.print(table))


def to_markdown(results: SearchDocument) -> str:
    """The search as Markdown."""
    pictures = [f"![{key}](loss_over_{key}.png)" for key in trial_keys(results.trials)]
    return (
        f"# {results.name}\n\n{len(results.trials)} trials, the lowest validation loss first. The"
        " first trial is the winner. Only the winner was evaluated on test rows, and best.yaml is"
        f" its configuration.\n\n{markdown_table(trial_cells(results.trials))}\n\n"
        "![Validation loss by step](trials.png)\n\n" + "\n".join(pictures) + "\n"
    )


def to_csv(trials: Sequence[TrialResult]) -> str:
    """The trials as CSV, with all digits and with the whole names of keys."""
    keys = trial_keys(trials)
    fields = ("step", "loss", "seconds", "status", "error")
    rows = []
    for trial in trials:
        values = [trial.run, *map(trial.point.get, keys), *(getattr(trial, f) for f in fields)]
        rows.append(tuple("" if value is None else str(value) for value in values))
    return write_csv(Cells(("run", *keys, *fields), tuple(rows), 0))


def trial_cells(trials: Sequence[TrialResult]) -> Cells:
    """The settings, the last validation loss and the status of each trial."""
    keys = trial_keys(trials)
    names = [key.rpartition(".")[2] for key in keys]
    rows = [
        (
            trial.run or MISSING,
            *(point_text(trial, key) or MISSING for key in keys),
            number_text(trial.step, "{}"),
            number_text(trial.loss, "{:.4f}"),
            format_seconds(trial.seconds),
            f"{trial.status}: {trial.error}" if trial.error else trial.status,
        )
        for trial in trials
    ]
    head = ("trial", *names, "step", "validation loss", "time", "status")
    return Cells(head, tuple(rows), len(head) - 2)


def trial_keys(trials: Sequence[TrialResult]) -> list[str]:
    """The keys that are searched."""
    return list(dict.fromkeys(key for trial in trials for key in trial.point))


def point_text(trial: TrialResult, key: str) -> str:
    """The value of a key in a trial; "" if the trial does not set it."""
    return value_text(trial.point[key]) if key in trial.point else ""
