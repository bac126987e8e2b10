"""A run marks its storage as used from its checks to its end, so that nothing is cleaned then."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from smt_ray.artifacts.runs import RunFolder
from smt_ray.artifacts.use import cleaning, living_uses
from smt_ray.config.run import RunConfig
from smt_ray.errors import UserError
from smt_ray.run import record
from smt_ray.run.flow import Flow
from smt_ray.stages.plan import make_plan
from tests.finished_runs import publish_stage


@pytest.fixture
def flow(make_config: Callable[..., RunConfig]) -> Flow:
    return Flow(make_config())


@pytest.mark.parametrize("ends", [True, False])
def test_the_storage_is_marked_until_a_run_ends_or_fails(
    flow: Flow, monkeypatch: pytest.MonkeyPatch, ends: bool
) -> None:
    found: list[str] = []

    def carry_out(flow: Flow, *_: Any) -> None:
        found.extend(use.what for use in living_uses(flow.storage).values())
        if not ends:
            raise RuntimeError("in the middle of it")

    monkeypatch.setattr(Flow, "_run", carry_out)
    try:
        flow.run("evaluation")
    except RuntimeError:
        assert not ends
    assert found == ["run small"]
    assert living_uses(flow.storage) == {}


def test_a_run_does_not_start_while_its_storage_is_cleaned(flow: Flow) -> None:
    with cleaning(flow.storage), pytest.raises(UserError, match="is being cleaned"):
        flow.run("evaluation")
    assert not flow.folder.exists()


def test_a_run_names_all_its_stages_before_it_makes_them(flow: Flow) -> None:
    record.begin(flow.folder, flow.plan, probe="probes/mine.json")
    manifest = RunFolder(flow.storage, "small").manifest()
    assert manifest.planned == {key: stage.name for key, stage in flow.plan.stages.items()}
    assert manifest.stages == {}
    assert manifest.probe == "probes/mine.json"
    record.begin(flow.folder, flow.plan)  # a resumed run may need no probe
    assert flow.folder.manifest().probe == "probes/mine.json"


@pytest.mark.parametrize("waits", [True, False])
def test_a_stage_that_another_run_makes_in_the_meantime_is_reused(
    make_config: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch, waits: bool
) -> None:
    flow = Flow(make_config(), in_turns=True)
    record.begin(flow.folder, flow.plan)
    turns: list[str] = []

    @contextmanager
    def turn(name: str) -> Iterator[None]:
        turns.append(name)
        if waits:  # the other run has the turn first
            publish_stage(make_plan(flow.config), "warmup")
        yield

    made: list[str] = []

    def make() -> Any:
        made.append("warmup")
        return publish_stage(flow.plan, "warmup")

    monkeypatch.setattr("smt_ray.run.flow.turn", turn)
    flow._make_or_reuse("warmup", make)
    assert flow.plan.warmup is not None
    assert turns == [flow.plan.warmup.name]
    assert made == ([] if waits else ["warmup"])
    assert flow.folder.manifest().stages["warmup"].reused is waits
    flow._make_or_reuse("warmup", make)
    assert len(turns) == 1, "a finished stage needs no turn"
