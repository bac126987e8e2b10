"""Claims about grids of runs: each once, finished ones skipped, failed ones noted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from smt_ray.config.run import RunConfig
from smt_ray.errors import UserError
from smt_ray.grid import runs as grid
from smt_ray.stages.plan import make_plan

Make = Callable[..., RunConfig]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the runs that were started; one named bad fails, and nothing is computed."""
    names: list[str] = []

    def run(self: Any, until: str) -> dict[str, Any]:
        names.append(self.config.name)
        if self.config.name == "bad":
            raise RuntimeError("out of\nmemory")
        for kind, stage in self.plan.stages.items():
            if until == "evaluation" or not kind.startswith("evaluation"):
                stage.publish([], {}, 0.0)
                self.folder.add_stage(kind, stage.name, seconds=0.0, reused=False)
        self.folder.update(
            status="FINISHED", semantic=self.config.semantic_tree(), parent=self.parent_run_id
        )
        metrics = {"name": self.config.name}
        self.folder.storage.write_json(self.folder.path("metrics.json"), metrics)
        return metrics

    monkeypatch.setattr("smt_ray.run.flow.Flow.run", run)
    return names


def test_a_run_of_a_name_is_carried_out_once_and_a_failed_one_is_noted(
    make_config: Make, started: list[str]
) -> None:
    configs = [make_config(f"name={name}") for name in ("one", "bad", "one", "two")]
    outcomes = grid.run_grid(configs, parent_run_id="parent")
    assert started == ["one", "bad", "two"]
    assert list(outcomes) == ["one", "bad", "two"]
    assert (outcomes["bad"].error, outcomes["bad"].metrics) == ("out of memory", {})
    assert outcomes["two"].metrics == {"name": "two"}
    assert outcomes["two"].folder.manifest()["parent"] == "parent"


def test_a_finished_run_is_skipped_unless_its_config_or_its_stages_are_others(
    make_config: Make, started: list[str]
) -> None:
    one = make_config("name=one")
    grid.run_grid([one])
    again = grid.run_grid([one])["one"]
    assert (again.reused, again.metrics) == (True, {"name": "one"})
    assert started == ["one"]
    grid.run_grid([make_config("name=one", "seed=1")])
    assert started == ["one"] * 2
    grid.run_grid([one])
    (Path(make_plan(one).trained.uri) / "manifest.json").unlink()
    grid.run_grid([one])
    assert started == ["one"] * 4


def test_a_run_that_stopped_before_its_evaluation_is_not_done_where_that_is_asked(
    make_config: Make, started: list[str]
) -> None:
    one = make_config("name=one")
    grid.run_grid([one], until="training")
    assert grid.run_grid([one], until="training")["one"].reused
    assert started == ["one"]
    assert not grid.run_grid([one])["one"].reused
    assert grid.run_grid([one], until="training")["one"].reused
    assert started == ["one"] * 2


def test_a_run_that_cannot_work_is_refused_before_any_is_started(
    make_config: Make, started: list[str]
) -> None:
    table = "warmup.table_block_size=8"
    bad = make_config("name=worse", table, "selection.block_size=12")
    with pytest.raises(UserError, match=r"worse: selection\.block_size"):
        grid.check_grid([make_config("name=one", table), bad])
    assert not started
