"""Claims about grids: each run once, finished runs skipped, failed runs noted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from smt_ray.artifacts.layout import MANIFEST
from smt_ray.artifacts.storage import Storage
from smt_ray.config.run import RunConfig
from smt_ray.data import splits
from smt_ray.documents.run import RunMetrics
from smt_ray.documents.stages import Until
from smt_ray.errors import UserError
from smt_ray.grid.runs import check_grid, run_grid
from smt_ray.run.flow import Flow
from smt_ray.stages.plan import make_plan
from smt_ray.tracking.connect import TRACKER
from tests.finished_runs import finish_run

Make = Callable[..., RunConfig]


@pytest.fixture(autouse=True)
def without_tokenizer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model of these runs has no tokenizer to ask its test rows with."""
    monkeypatch.setattr("smt_ray.run.flow.check_asked", lambda _: None)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the runs that were started. A run named bad fails; nothing is trained."""
    names: list[str] = []

    def run(flow: Flow, until: Until) -> RunMetrics:
        names.append(flow.config.name)
        if flow.config.name == "bad":
            raise RuntimeError("out of\nmemory")
        metrics = finish_run(flow.config, until)
        flow.folder.update(parents={TRACKER: flow.parent_run_id})
        return metrics

    monkeypatch.setattr(Flow, "run", run)
    return names


def test_a_run_is_carried_out_once_and_a_failed_run_is_noted(
    make_config: Make, started: list[str]
) -> None:
    configs = [make_config(f"name={name}") for name in ("one", "bad", "one", "two")]
    outcomes = run_grid(configs, parent_run_id="parent")
    assert started == ["one", "bad", "two"]
    assert list(outcomes) == ["one", "bad", "two"]
    assert (outcomes["bad"].error, outcomes["bad"].metrics) == ("out of memory", None)
    assert outcomes["two"].metrics == outcomes["two"].folder.metrics()
    assert outcomes["two"].folder.manifest().parents == {TRACKER: "parent"}


def test_a_finished_run_is_skipped_unless_its_config_or_its_stages_changed(
    make_config: Make, started: list[str]
) -> None:
    one = make_config("name=one")
    first = run_grid([one], parent_run_id="parent")["one"]
    again = run_grid([one])["one"]
    assert (again.reused, again.metrics) == (True, first.metrics)
    assert started == ["one"]
    (Path(make_plan(one).training.uri) / MANIFEST).unlink()
    run_grid([one], parent_run_id="parent")
    assert started == ["one"] * 2
    other = make_config("name=one", "seed=1")
    assert not run_grid([other])["one"].reused, "its name was taken by another configuration"
    assert started == ["one"] * 3


def test_a_run_that_stopped_before_its_evaluation_is_not_finished_if_one_is_asked_for(
    make_config: Make, started: list[str]
) -> None:
    one = make_config("name=one")
    run_grid([one], until="training", parent_run_id="parent")
    assert run_grid([one], until="training")["one"].reused
    assert started == ["one"]
    assert not run_grid([one], parent_run_id="parent")["one"].reused
    assert run_grid([one], until="training")["one"].reused
    assert started == ["one"] * 2


def test_a_run_that_cannot_work_is_refused_before_any_run_is_started(
    make_config: Make, started: list[str]
) -> None:
    table = "warmup.table_block_size=8"
    bad = make_config("name=worse", table, "selection.block_size=12")
    with pytest.raises(UserError, match=r"worse: selection\.block_size"):
        check_grid([make_config("name=one", table), bad])
    assert not started


def test_rows_are_read_once_for_each_seed_whatever_the_order_of_the_runs(
    make_config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There are more seeds than the cache of rows has places."""
    read: list[int] = []
    hold_out = splits.hold_out

    def count(*rows: Any, seed: int, **given: Any) -> Any:
        read.append(seed)
        return hold_out(*rows, seed=seed, **given)

    monkeypatch.setattr(splits, "hold_out", count)
    configs = [
        make_config(f"name={method}-{seed}", f"seed={seed}", f"method={method}", "data.max_rows=9")
        for method in ("full", "lora")
        for seed in range(20)
    ]
    assert list(check_grid(configs)) == [config.name for config in configs]
    assert sorted(read) == list(range(20))


def test_the_files_of_a_stage_that_runs_share_are_hashed_once(
    make_config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [make_config(f"name=r{rate}", f"training.learning_rate={rate}") for rate in (1e-3, 2e-3)]
    for run in runs:
        finish_run(run)
    hashed: list[str] = []
    digest = Storage.digest

    def count(storage: Storage, path: str) -> Any:
        hashed.append(path)
        return digest(storage, path)

    monkeypatch.setattr(Storage, "digest", count)
    flows = check_grid(runs)
    assert len(hashed) == len(set(hashed))
    kinds = [path.split("/")[1].partition("-")[0] for path in hashed]
    assert (kinds.count("selection"), kinds.count("training")) == (1, 2)
    one, other = (flow.plan for flow in flows.values())
    assert one.selection is other.selection
    assert one.training is not other.training
