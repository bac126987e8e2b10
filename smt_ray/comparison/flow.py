"""The flow of a comparison: learning rates are chosen, cells are run, results are written."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from smt_ray.artifacts.layout import comparison_folder
from smt_ray.artifacts.storage import Storage
from smt_ray.artifacts.use import in_use
from smt_ray.cluster.nodes import ray_for
from smt_ray.cluster.shared_places import check_shared
from smt_ray.comparison.record import failure_text, write_comparison
from smt_ray.comparison.results import collect_results
from smt_ray.comparison.untuned import mark_untuned_as_failed
from smt_ray.config.comparison import CellRuns, ComparisonConfig
from smt_ray.config.run import RunConfig
from smt_ray.documents.comparison import CellResult, ComparisonDocument, TableResult
from smt_ray.documents.run import Status
from smt_ray.grid.folder import GroupFolder
from smt_ray.grid.learning_rates import choose_rates
from smt_ray.grid.parent import ParentRun
from smt_ray.grid.runs import check_grid, run_grid
from smt_ray.reporting.text.comparison import to_markdown
from smt_ray.run.record import now_ms


def compare(config: ComparisonConfig) -> ComparisonDocument:
    """Carries out a comparison; returns the content of ``comparisons/<name>/comparison.json``.

    Finished runs are skipped, and failed runs are noted.

    Raises:
        UserError: A cell cannot work, and nothing was started; or the results of a finished run
            are damaged.
    """
    started_ms = now_ms()
    tried = config.tuning_runs()
    tuning_runs = [run for rates in tried.values() for run in rates.values()]
    any_rates = {method: next(iter(rates)) for method, rates in tried.items()}
    checked = check_grid([*tuning_runs, *_runs_of(config.cell_runs(any_rates))])
    base = config.make_run({}, config.seeds[0])
    folder = GroupFolder(Storage(base.storage), comparison_folder(config.name))
    with (
        in_use(folder.storage, f"comparison {config.name}"),
        ray_for([flow.config for flow in checked.values()], config.max_concurrent_runs or 1),
    ):
        check_shared(base)
        with ParentRun("comparison", config, folder, base.tracking) as parent:
            # Test rows must not influence the choice, so these runs are not evaluated.
            run_all = partial(
                run_grid, parent_run_id=parent.run_id, at_once=config.max_concurrent_runs
            )
            outcomes = run_all(tuning_runs, until="training")
            tuning = choose_rates(tried, outcomes)
            cells, failed = mark_untuned_as_failed(list(config.cell_runs(tuning.chosen)), tuning)
            wanted = [run for run in _runs_of(cells) if run.name not in failed]
            outcomes = failed | run_all(wanted)
            results = collect_results(config, tuning, cells, outcomes, started_ms)
            write_comparison(folder, config, results)
            status: Status = "FAILED" if failure_text(config, results) else "FINISHED"
            parent.end(status, final_metrics(results), to_markdown(results))
    return results


def _runs_of(cells: Iterable[CellRuns]) -> list[RunConfig]:
    return [run for cell in cells for run in cell.runs]


def final_metrics(results: ComparisonDocument) -> dict[str, float]:
    """The main numbers of the cells by name, such as ``accuracy/<table>/<row>/<column>``."""
    found: dict[str, float] = {}
    for name, table in results.tables.items():
        for row, column, cell in table.cells():
            place = [part.removesuffix("%") for part in (name, row, column) if part]
            for (kind, *rest), value in _main_numbers(table, cell).items():
                found["/".join((kind, *place, *rest))] = value
    return found


def _main_numbers(table: TableResult, cell: CellResult) -> dict[tuple[str, ...], float]:
    """The numbers that the table shows of a cell; empty if a run of the cell failed."""
    if table.columns == "projections":
        return {("blocks", name): number for name, number in (cell.projections or {}).items()}
    if table.columns == "speed":
        kind, value = "step_seconds", cell.step_seconds
    else:
        kind, value = "accuracy", cell.average.value if cell.average else None
    return {} if value is None else {(kind,): value}
