"""The list of runs says what their documents say, and the difference of two runs what differs."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from smt_ray.artifacts.runs import RunFolder
from smt_ray.artifacts.storage import Storage
from smt_ray.artifacts.use import in_use, use_of_run
from smt_ray.config.run import RunConfig
from smt_ray.errors import UserError
from smt_ray.run.kept.difference import compare_runs
from smt_ray.run.kept.listing import list_runs
from tests.finished_runs import Content, finish_run

MakeConfig = Callable[..., RunConfig]


@pytest.fixture
def storage(make_config: MakeConfig) -> Storage:
    """A storage with two finished runs, of which the second is the later one."""
    finish_run(make_config("name=one"), content=Content(losses={2: 0.5}))
    wrong = Content(losses={2: 0.25}, is_correct=lambda index: index == 0)
    metrics = finish_run(make_config("name=two", "selection.budget=0.1"), content=wrong)
    storage = Storage(make_config().storage)
    folder = RunFolder(storage, metrics.name)
    folder.update(started_ms=(folder.manifest().started_ms or 0) + 1000)
    return storage


def test_runs_are_listed_with_their_figures_the_latest_first(storage: Storage) -> None:
    two, one = list_runs(storage).runs
    assert (one.name, two.name) == ("one", "two")
    assert (one.accuracy, two.accuracy) == (0.5, 0.1)
    assert (one.validation_loss, two.validation_loss) == (0.5, 0.25)
    assert (one.status, one.method, one.data) == ("FINISHED", "smt", ["train.json"])


def test_the_size_of_a_run_has_all_its_stages_and_the_total_has_shared_ones_once(
    storage: Storage,
) -> None:
    found = list_runs(storage)
    everything = sum(storage.sizes("").values())
    assert found.num_bytes == everything
    assert all(run.num_bytes < everything for run in found.runs)
    assert sum(run.num_bytes for run in found.runs) > everything  # they share the warm-up


def test_a_run_whose_process_is_gone_is_interrupted(storage: Storage) -> None:
    RunFolder(storage, "one").update(status="RUNNING")
    assert [run.status for run in list_runs(storage).runs] == ["FINISHED", "INTERRUPTED"]
    with in_use(storage, use_of_run("one")):
        assert [run.status for run in list_runs(storage).runs] == ["FINISHED", "RUNNING"]


def test_a_damaged_run_is_listed_and_does_not_hide_the_others(storage: Storage) -> None:
    storage.write_bytes("runs/one/run.json", b"{")
    two, one = list_runs(storage).runs
    assert (one.name, one.status) == ("one", "DAMAGED")
    assert "run.json: cannot be read" in one.problem
    assert two.status == "FINISHED"


def test_a_difference_has_the_settings_and_the_figures_of_both_runs(storage: Storage) -> None:
    found = compare_runs(storage, "one", "two")
    assert found.settings == {"selection.budget": (0.05, 0.1)}
    assert found.execution == {}
    assert found.rows == found.versions == {}
    assert found.figures["validation/loss"] == (0.5, 0.25)
    assert found.figures["eval/boolq/tuned"] == (0.5, 0.1)


def test_keys_that_change_no_result_and_changed_rows_are_told_apart(
    storage: Storage, make_config: MakeConfig
) -> None:
    finish_run(make_config("name=three", "batching.max_tokens=64"))
    folder = RunFolder(storage, "three")
    datasets = [each.to_json() for each in folder.manifest().datasets]
    datasets[0]["digest"] = "f" * 64
    folder.update(datasets=datasets)
    found = compare_runs(storage, "one", "three")
    assert (found.settings, found.execution) == ({}, {"batching.max_tokens": (1024, 64)})
    assert found.rows["training"][1] == "f" * 12


def test_keys_without_an_effect_in_a_run_are_no_settings_of_it(
    storage: Storage, make_config: MakeConfig
) -> None:
    finish_run(make_config("name=three", "lora.rank=7", "selection.lift_rank=9"))
    idle = compare_runs(storage, "one", "three")
    assert idle.settings == {}
    assert idle.execution == {"lora.rank": (32, 7), "selection.lift_rank": (128, 9)}
    finish_run(make_config("name=four", "method=lora", "lora.rank=7", "selection.budget=0.1"))
    found = compare_runs(storage, "one", "four").settings
    assert found == {
        "method": ("smt", "lora"), "selection.budget": (0.05, None), "lora.rank": (None, 7)
    }  # fmt: skip


def test_a_run_does_not_differ_from_itself(storage: Storage) -> None:
    found = compare_runs(storage, "one", "one")
    assert found.to_json() == {
        "a": "one", "b": "one", "settings": {}, "execution": {}, "rows": {}, "versions": {},
        "figures": {},
    }  # fmt: skip


def test_a_missing_run_is_refused(storage: Storage) -> None:
    with pytest.raises(UserError, match=r"no such run.*got 'four'.*runs there: one, two"):
        compare_runs(storage, "one", "four")
