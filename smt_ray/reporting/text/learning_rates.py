"""Which learning rates of a comparison were tuned, in words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from smt_ray.documents.comparison import CellResult, ComparisonDocument


def rates_text(results: ComparisonDocument) -> str:
    """How learning rates were tuned, and the cells and methods whose learning rate was not."""
    rates, by_cell = results.learning_rates, results.learning_rates_for == "cell"
    if by_cell:
        parts = [
            "The learning rate of each cell is tuned on its own run, with seed"
            f" {results.seeds[0]} only, by validation loss."
        ]
    else:
        parts = [
            "The learning rate of each method is tuned on the run that all cells start from, with"
            f" seed {results.seeds[0]} only, by validation loss. A cell that also sets other keys"
            " (such as a score, a budget or modules) uses the learning rate of its method."
        ]
    if cells := "; ".join(_untuned_cells(results)):
        parts.append(f"Cells whose learning rate was not tuned: {cells}.")
    if failed := [method for method, tried in rates.items() if tried.chosen is None]:
        parts.append(f"All learning rates of {_listed(failed)} failed.")
    methods = dict.fromkeys(run.method for run in results.runs.values())
    tuned = {group.partition(",")[0] for group in rates}
    if untuned := [method for method in methods if method not in tuned]:
        verb = "uses" if len(untuned) == 1 else "use"
        parts.append(
            f"{_listed(untuned)} {verb} the configured learning rate, which was not tuned."
        )
    return " ".join(parts)


def _untuned_cells(results: ComparisonDocument) -> Iterator[str]:
    """The name of each table with such cells, and the cells."""
    for name, table in results.tables.items():
        cells = [
            " x ".join(filter(None, (row, column)))
            for row, column, cell in table.cells()
            if _has_rate_of_method(cell, results)
        ]
        if cells:
            yield f"{name} ({', '.join(cells)})"


def _has_rate_of_method(cell: CellResult, results: ComparisonDocument) -> bool:
    if results.learning_rates_for == "cell":
        return False
    run = results.runs.get(cell.runs[0]) if cell.runs else None
    if run is None or not run.sets:  # a run that tried a learning rate sets nothing else
        return False
    tried = results.learning_rates.get(run.method)
    # A cell with another learning rate than the chosen one sets its own.
    return tried is not None and tried.chosen is not None and cell.learning_rate == tried.chosen


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
