"""Which learning rates of a comparison were tuned, in words: what its table of them cannot show."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Results = Mapping[str, Any]


def rates_text(results: Results) -> str:
    """Where learning rates were tried, and what was not tuned itself: cells, methods.

    Args:
        results: ``comparison.json``; see :mod:`smt_ray.reporting.text.comparison`.
    """
    rates = results["learning_rates"]
    parts = [
        "Learning rates are tried on the run that all cells start from, with seed"
        f" {results['seeds'][0]} alone, and chosen by validation loss; a cell that sets more than"
        " its method (a score, a budget, modules) takes its method's and is not tuned itself."
    ]
    if cells := "; ".join(_untuned_cells(results)):
        parts.append(f"Not tuned themselves: {cells}.")
    if failed := [method for method, tried in rates.items() if tried["chosen"] is None]:
        parts.append(f"Of {_listed(failed)} none could be trained.")
    methods = dict.fromkeys(run["method"] for run in results["runs"].values())
    if kept := [method for method in methods if method not in rates]:
        verb = "keeps" if len(kept) == 1 else "keep"
        parts.append(f"{_listed(kept)} {verb} the run's own learning rate, untuned.")
    return " ".join(parts)


def _untuned_cells(results: Results) -> Iterator[str]:
    """Of each table that has any: its name and the cells that have a rate tuned on another run."""
    for name, table in results["tables"].items():
        cells = [
            " x ".join(filter(None, (row, column)))
            for row, columns in table["rows"].items()
            for column, cell in columns.items()
            if _has_anothers_rate(cell, results)
        ]
        if cells:
            yield f"{name} ({', '.join(cells)})"


def _has_anothers_rate(cell: Mapping[str, Any], results: Results) -> bool:
    run = results["runs"].get(cell["runs"][0], {})
    tried = results["learning_rates"].get(run.get("method"), {})
    rate = cell["learning_rate"]
    # What tried a rate sets nothing else; a rate that is not the chosen one is the cell's own.
    return bool(run.get("sets")) and rate is not None and rate == tried.get("chosen")


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
