"""The trials of a search under Ray Tune, as many side by side as the cluster holds.

The trials that are left follow from the stages and from the search's own record, never from Ray
Tune's snapshots. Every start makes a new Tuner and tells it the earlier results.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ray import tune

from smt_ray.artifacts.layout import TUNE_FOLDER, search_folder
from smt_ray.cluster.credentials import trials_without_secrets
from smt_ray.documents.search import RUNNING, Point, TrialResult
from smt_ray.errors import UserError
from smt_ray.grid.parent import ParentRun
from smt_ray.grid.side_by_side import concurrent_runs
from smt_ray.reporting.text.progress import say
from smt_ray.search.outcomes import close_trials, read_trials, settle
from smt_ray.search.planned import PlannedSearch
from smt_ray.search.progress import TrialProgress
from smt_ray.search.scheduling import make_scheduler, make_searcher
from smt_ray.search.trial import POINT, TrialJob, run_trial
from smt_ray.search.trial_record import TrialRecord


def run_trials(search: PlannedSearch, parent: ParentRun) -> list[TrialResult]:
    """Runs the trials that are left; returns all trials, those of earlier starts included.

    Raises:
        UserError: Ray Tune ended before all trials did.
    """
    storage, name = parent.folder.storage, search.config.name
    record = TrialRecord(storage.root, search_folder(name))
    again = settle(search, record)
    num_before = len(record.entries)
    if num_before:
        say(f"search {name}: resumed: {num_before} of {search.num_trials} trials have ended")
    if num_before < search.num_trials:
        with trials_without_secrets():
            _make_tuner(search, parent, record, again).fit()
        record = TrialRecord(storage.root, search_folder(name))
        _check_all_ended(record, search.num_trials)
    trials = read_trials(search, record.entries)
    close_trials(storage, trials)
    return trials


def _make_tuner(
    search: PlannedSearch, parent: ParentRun, record: TrialRecord, again: Sequence[Point]
) -> tune.Tuner:
    config, done = search.config, read_trials(search, record.entries)
    num_left = search.num_trials - len(record.entries)
    at_once = concurrent_runs(search.runs, config.max_concurrent_trials)
    say(f"search {config.name}: {num_left} trials, {at_once} at a time")
    draws_all = config.draws_all_points_first
    return tune.Tuner(
        _trainable(TrialJob(config, parent.run_id, str(Path.cwd()))),
        param_space={POINT: tune.grid_search(list(again))} if draws_all else {},
        tune_config=tune.TuneConfig(
            search_alg=make_searcher(config, again, done),
            scheduler=make_scheduler(config, search.runs, done),
            num_samples=1 if draws_all else num_left,
            max_concurrent_trials=at_once,
            trial_dirname_creator=lambda trial: trial.trial_id,
        ),
        run_config=tune.RunConfig(
            name=TUNE_FOLDER,
            storage_path=parent.folder.uri(),
            verbose=0,
            callbacks=[TrialProgress(record, search.num_trials)],
        ),
    )


def _trainable(job: TrialJob) -> Any:
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # the new output prints even if verbose is 0
    # Tune would take an interrupt for the end of the search, and a winner would be evaluated.
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"

    def trial(space: dict[str, Any]) -> None:
        run_trial(job, space.get(POINT, space))

    # The processes of a trial ask for CPUs themselves, so the trial must not hold any.
    return tune.with_resources(trial, {"memory": 1e8})


def _check_all_ended(record: TrialRecord, num_trials: int) -> None:
    num_ended = sum(entry.status != RUNNING for entry in record.entries)
    if num_ended < num_trials:
        raise UserError(
            "search",
            f"all {num_trials} trials must end",
            got=num_ended,
            fix="start the search again: it resumes from here",
        )
