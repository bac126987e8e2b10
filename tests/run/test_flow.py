"""A run marks its storage as used from its checks to its end, so that nothing is cleaned then."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from smt_ray.artifacts.runs import RunFolder
from smt_ray.artifacts.use import cleaning, living_uses
from smt_ray.config.run import RunConfig
from smt_ray.errors import UserError
from smt_ray.run import record
from smt_ray.run.flow import Flow


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
