"""The flow of a search: points are checked, trials run under Ray Tune, the winner is evaluated."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from smt_ray.artifacts.layout import SEARCH, search_folder
from smt_ray.artifacts.storage import Storage
from smt_ray.artifacts.use import in_use
from smt_ray.cluster.nodes import ray_for
from smt_ray.cluster.shared_places import check_shared
from smt_ray.config.search import SearchConfig
from smt_ray.documents.run import VALIDATION_LOSS, RunMetrics
from smt_ray.documents.search import FAILED, FINISHED, STOPPED, SearchDocument, TrialResult
from smt_ray.errors import UserError
from smt_ray.grid.folder import GroupFolder
from smt_ray.grid.parent import ParentRun
from smt_ray.reporting.text.progress import say
from smt_ray.reporting.text.search import to_markdown
from smt_ray.run.export.merge import check_out, merge_run
from smt_ray.run.flow import Flow
from smt_ray.run.record import now_ms
from smt_ray.run.snapshot import final_metrics as metrics_of_run
from smt_ray.search.planned import plan_search
from smt_ray.search.record import best_yaml, check_same_search, write_search
from smt_ray.search.scheduling import check_algorithm
from smt_ray.search.shared import make_shared
from smt_ray.search.tuner import run_trials


def search(config: SearchConfig, merge_into: Path | None = None) -> SearchDocument:
    """Carries out a search; returns the content of ``searches/<name>/search.json``.

    An interrupted search resumes, and finished trials are kept.

    Args:
        merge_into: A new folder for the winner's model, or None.

    Raises:
        UserError: A point cannot work, and nothing was started; no trial finished; or the results
            of a finished run are damaged.
    """
    started_ms = now_ms()
    if merge_into is not None:
        check_out(merge_into)
    check_algorithm(config)
    planned = plan_search(config)
    first = planned.runs[0]
    folder = GroupFolder(Storage(first.storage), search_folder(config.name))
    check_same_search(folder, config, first)
    need_ray = [] if folder.exists(SEARCH) else planned.runs
    at_once = min(config.max_concurrent_trials or 1, planned.num_trials)
    with (
        in_use(folder.storage, f"search {config.name}"),
        ray_for(need_ray, at_once, dashboard=True),
    ):
        check_shared(first, searches=True)
        with ParentRun("search", config, folder, first.tracking) as parent:
            make_shared(planned, parent.run_id)
            trials = run_trials(planned, parent)
            best = _best(trials)
            winner = Flow(config.make_run(best.point), parent.run_id).run("evaluation")
            results = _collect_results(config, started_ms, trials, winner)
            write_search(folder, config, results)
            parent.end("FINISHED", final_metrics(results), to_markdown(results))
    if merge_into is not None:
        say(f"merged: {merge_run(folder.storage, winner.name, merge_into)}")
    return results


def final_metrics(results: SearchDocument) -> dict[str, float]:
    """The loss, point and accuracies of the winner, and the number of trials by status."""
    best, winner = results.trials[0], metrics_of_run(results.winner)
    point = {key: value for key, value in best.point.items() if isinstance(value, int | float)}
    statuses = [trial.status for trial in results.trials]
    loss = {} if best.loss is None else {f"best/{VALIDATION_LOSS}": best.loss}
    return {
        **loss,
        **{f"best/{key}": float(value) for key, value in point.items()},
        **{f"best/{key}": value for key, value in winner.items() if key.startswith("eval/")},
        **{f"trials/{s}": float(statuses.count(s)) for s in (FINISHED, STOPPED, FAILED)},
    }


def _collect_results(
    config: SearchConfig, started_ms: int, trials: list[TrialResult], winner: RunMetrics
) -> SearchDocument:
    return SearchDocument(
        name=config.name,
        started_ms=started_ms,
        ended_ms=now_ms(),
        trials=trials,
        log_keys=[key for key, domain in config.domains.items() if domain.is_log],
        winner=winner,
        best_yaml=best_yaml(config, trials[0], len(trials)),
    )


def _best(trials: Sequence[TrialResult]) -> TrialResult:
    """The finished trial with the lowest last validation loss, which is the first one."""
    best = trials[0]
    if best.status != FINISHED:
        errors = "; ".join(dict.fromkeys(trial.error for trial in trials if trial.error))
        raise UserError(
            "space",
            f"at least one of {len(trials)} trials must finish ({errors})",
            got=0,
            fix="see the errors of the trials above",
        )
    return best
