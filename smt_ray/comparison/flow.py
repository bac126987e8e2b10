"""The flow of a comparison: learning rates, cells, tables; every run of it one of its own."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from smt_ray.cluster.nodes import ray_for
from smt_ray.cluster.shared_places import check_shared
from smt_ray.comparison.record import failure_text, write_comparison
from smt_ray.comparison.report import folder_of
from smt_ray.comparison.results import collect_results
from smt_ray.config.comparison import ComparisonConfig
from smt_ray.config.run import RunConfig
from smt_ray.grid.learning_rates import choose_rates, set_untuned_apart
from smt_ray.grid.parent import ParentRun
from smt_ray.grid.runs import check_grid, run_grid
from smt_ray.reporting.text.comparison import to_markdown


def compare(config: ComparisonConfig) -> dict[str, Any]:
    """Carries out a comparison; what is finished is skipped, what fails is noted.

    Args:
        config: The comparison.

    Returns:
        What ``comparisons/<name>/comparison.json`` holds; see
        :mod:`smt_ray.reporting.text.comparison`.

    Raises:
        UserError: A cell cannot work; nothing has been started then.
    """
    started_ms = time.time_ns() // 1_000_000
    tried = config.tuning_runs()
    guessed = {method: next(iter(rates)) for method, rates in tried.items()}
    runs = [run for rates in tried.values() for run in rates.values()]
    check_grid(all_runs := [*runs, *_all_runs(config.cell_runs(guessed))])
    first = runs[0] if runs else config.make_run({}, config.seeds[0])
    with ray_for(all_runs):
        check_shared(first)
        parent = ParentRun(config, folder_of(config.name), first)
        try:
            # Test rows have no say in what is chosen: those runs are not evaluated.
            rates = run_grid(runs, parent_run_id=parent.run_id, until="training")
            tuning = choose_rates(tried, rates)
            cells, failed = set_untuned_apart(config, list(config.cell_runs(tuning.chosen)), tuning)
            wanted = [run for run in _all_runs(cells) if run.name not in failed]
            outcomes = failed | run_grid(wanted, parent_run_id=parent.run_id)
            results = collect_results(config, tuning, cells, outcomes, started_ms)
            files = write_comparison(parent.storage, config, results)
            numbers, summary = final_metrics(results), to_markdown(results)
        except BaseException as error:
            parent.end("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
            raise
        status = "FAILED" if failure_text(config, results) else "FINISHED"
        parent.end(status, numbers, files, summary)
    return results


def _all_runs(cells: Iterable[tuple[str, str, str, list[RunConfig]]]) -> list[RunConfig]:
    return [run for *_, runs in cells for run in runs]


def final_metrics(results: dict[str, Any]) -> dict[str, float]:
    """What each cell shows: ``accuracy/<table>/<row>/<column>``, for instance."""
    found: dict[str, float] = {}
    for name, table in results.get("tables", {}).items():
        for row, columns in table["rows"].items():
            for column, cell in columns.items():
                place = [part.removesuffix("%") for part in (name, row, column) if part]
                for (kind, *rest), value in _shown(table["columns"], cell).items():
                    found["/".join((kind, *place, *rest))] = value
    return found


def _shown(columns: str | list[str], cell: dict[str, Any]) -> dict[tuple[str, ...], float]:
    """A cell's numbers by what they are of; none where its runs failed."""
    if columns == "speed":
        found = {("step_seconds",): cell.get("step_seconds")}
    elif columns == "projections":
        found = {("blocks", name): n for name, n in (cell.get("projections") or {}).items()}
    else:
        found = {("accuracy",): (cell.get("average") or {}).get("value")}
    return {key: value for key, value in found.items() if value is not None}
