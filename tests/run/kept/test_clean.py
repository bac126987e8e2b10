"""A clean deletes what no run needs and checkpoints that nobody resumes from, and nothing else."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from smt_ray.artifacts.runs import RunFolder
from smt_ray.artifacts.storage import Storage
from smt_ray.artifacts.use import in_use
from smt_ray.config.run import RunConfig
from smt_ray.errors import UserError
from smt_ray.run import record
from smt_ray.run.kept.clean import clean, look_for_removable
from smt_ray.run.kept.removable import Reason
from smt_ray.stages.plan import RunPlan, make_plan
from tests.finished_runs import finish_run
from tests.object_store import BUCKET, s3_server

CHECKPOINT = "checkpoints/step-0000005/state.safetensors"
BEST = "checkpoints/best.json"
SNAPSHOT = "checkpoints/checkpoint_manager_snapshot.json"
MakeConfig = Callable[..., RunConfig]


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A temporary directory of the test's own."""
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    return place


@pytest.fixture
def plan(make_config: MakeConfig) -> RunPlan:
    """The plan of a finished run."""
    plan = make_plan(make_config())
    finish_run(plan.config)
    return plan


def put(storage: Storage, *places: str) -> None:
    for place in places:
        storage.write_bytes(place, b"0123456789")


def clean_all(storage: Storage, *, checkpoints: bool = True) -> dict[Reason, set[str]]:
    """Cleans; returns reason -> the places that were deleted."""
    before = set(storage.list_files(""))
    found = look_for_removable(storage, checkpoints=checkpoints)
    freed = clean(storage, found, checkpoints=checkpoints)
    gone = before - set(storage.list_files(""))
    inside = [each for each in found if each.reason != Reason.SCRATCH]
    assert gone == {file for each in inside for file in each.files}
    assert freed == sum(each.num_bytes for each in found)
    assert look_for_removable(storage, checkpoints=checkpoints) == []
    return {r: {e.place for e in found if e.reason == r} for r in {e.reason for e in found}}


def test_a_finished_run_loses_nothing_but_its_checkpoints(plan: RunPlan) -> None:
    storage, training = plan.storage, plan.training
    put(storage, *(training.path(file) for file in (CHECKPOINT, SNAPSHOT, BEST)))
    files = set(storage.list_files(""))
    assert clean_all(storage, checkpoints=False) == {}
    assert clean_all(storage) == {Reason.CHECKPOINTS: {training.path("checkpoints")}}
    lost = {training.path(file) for file in (CHECKPOINT, SNAPSHOT, BEST)}
    assert files - set(storage.list_files("")) == lost
    assert not Path(storage.key(training.path("checkpoints/step-0000005"))).exists()
    again = make_plan(plan.config)
    assert all(stage.verify() for stage in again.stages.values())


def test_the_gradient_sums_of_a_finished_trained_warmup_go_and_its_model_stays(
    make_config: MakeConfig,
) -> None:
    plan = make_plan(make_config("warmup.mode=trained", "warmup.num_shards=1"))
    finish_run(plan.config)
    assert plan.warmup is not None
    kept = plan.warmup.path("model/model.safetensors")
    put(plan.storage, kept, plan.warmup.path(CHECKPOINT))
    assert clean_all(plan.storage) == {Reason.CHECKPOINTS: {plan.warmup.path("checkpoints")}}
    assert plan.storage.exists(kept)


def test_stages_of_runs_that_are_gone_go_unless_another_run_shares_them(
    plan: RunPlan, make_config: MakeConfig
) -> None:
    other = make_plan(make_config("name=other", "selection.budget=0.1"))
    finish_run(other.config)
    storage = plan.storage
    storage.delete_folder("runs/small")
    mine = {stage.folder for stage in plan.stages.values()}
    theirs = {stage.folder for stage in other.stages.values()}
    assert mine & theirs  # the tokens, the warm-up and the evaluation of the base
    assert clean_all(storage) == {Reason.NO_RUN: mine - theirs}
    assert all(stage.verify() for stage in make_plan(other.config).stages.values())


def test_an_adapter_that_another_run_started_from_stays(
    plan: RunPlan, make_config: MakeConfig
) -> None:
    other = make_config("name=other", "selection.budget=0.1")
    finish_run(other)
    config = other.model_dump(mode="json")
    config["training"]["init_adapter"] = plan.storage.uri(plan.training.path("adapter"))
    RunFolder(plan.storage, "other").update(config=config)
    plan.storage.delete_folder(f"runs/{plan.config.name}")
    gone = clean_all(plan.storage)[Reason.NO_RUN]
    assert plan.evaluations["tuned"].folder in gone
    assert plan.training.verify()


def test_an_interrupted_run_keeps_the_checkpoints_that_it_resumes_from(
    make_config: MakeConfig,
) -> None:
    plan = make_plan(make_config())
    record.begin(RunFolder(plan.storage, "small"), plan)  # its process was killed afterwards
    put(plan.storage, plan.training.path(CHECKPOINT))
    assert clean_all(plan.storage) == {}


def test_a_trial_that_its_search_stopped_loses_its_checkpoints_but_not_its_records(
    make_config: MakeConfig,
) -> None:
    plan = make_plan(make_config())
    folder = RunFolder(plan.storage, "small")
    record.begin(folder, plan)
    put(plan.storage, plan.training.path(CHECKPOINT), plan.training.path("metrics.jsonl"))
    folder.update(tags={"trial": "stopped early"})
    put(plan.storage, "searches/wide/tune/state.json", "searches/wide/search.json")
    assert clean_all(plan.storage) == {
        Reason.CHECKPOINTS: {plan.training.path("checkpoints")},
        Reason.TUNE: {"searches/wide/tune"},
    }


def test_probes_that_no_run_names_and_files_of_interrupted_writes_go(plan: RunPlan) -> None:
    folder = RunFolder(plan.storage, "small")
    folder.update(probe="probes/mine.json")
    left = ["runs/small/run.json.0123abcd.part", f".probe-{'0' * 32}", "in_use/dead.json",
            plan.training.path("adapter/x.0123abcd.part")]  # fmt: skip
    put(plan.storage, "probes/mine.json", "probes/other.json", *left)
    mark = '{"what": "w", "host": "h", "kernel": "KERNEL", "pid": 1, "started_ms": 0}'
    kernel = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    plan.storage.write_bytes("in_use/dead.json", mark.replace("KERNEL", kernel).encode())
    assert clean_all(plan.storage) == {
        Reason.NO_PROBE: {"probes/other.json"},
        Reason.INTERRUPTED: set(left),
    }


def test_an_interrupted_write_of_a_checkpoint_or_of_tune_is_deleted_once(plan: RunPlan) -> None:
    put(plan.storage, plan.training.path("checkpoints/step-1/x.0123abcd.part"),
        "searches/wide/tune/state.0123abcd.part")  # fmt: skip
    assert clean_all(plan.storage) == {
        Reason.CHECKPOINTS: {plan.training.path("checkpoints")},
        Reason.TUNE: {"searches/wide/tune"},
    }


def test_evaluations_by_command_are_kept_with_their_training_or_without_one(plan: RunPlan) -> None:
    stages = {"of_run": "evaluation-00000000000a", "of_model": "evaluation-00000000000b"}
    for name, training in (("of_run", plan.training.name), ("of_model", None)):
        place = f"evaluations/{stages[name]}.json"
        plan.storage.write_json(place, {"stage": stages[name], "training": training})
        put(plan.storage, f"stages/{stages[name]}/generate/boolq.jsonl")
    assert clean_all(plan.storage) == {}
    plan.storage.delete_folder("runs/small")
    gone = clean_all(plan.storage)[Reason.NO_RUN]
    assert {f"stages/{stages['of_run']}", f"evaluations/{stages['of_run']}.json"} <= gone
    assert plan.storage.exists("stages", stages["of_model"])


def test_what_is_not_a_stage_is_never_deleted(plan: RunPlan) -> None:
    theirs = ["stages/notes/read.me", "stages/training-final/x", "mlflow.db", "probes/readme.md",
              "runs/half/notes.txt", "searches/wide/tune.json"]  # fmt: skip
    put(plan.storage, *theirs)
    assert clean_all(plan.storage) == {}


def test_a_damaged_manifest_of_a_run_stops_the_clean(plan: RunPlan) -> None:
    put(plan.storage, "stages/training-00000000000a/x")
    plan.storage.write_bytes("runs/small/run.json", b"{")
    with pytest.raises(UserError, match=r"run\.json: cannot be read"):
        look_for_removable(plan.storage, checkpoints=True)


def test_nothing_is_deleted_while_a_process_uses_the_storage(plan: RunPlan) -> None:
    put(plan.storage, "stages/training-00000000000a/x")
    found = look_for_removable(plan.storage, checkpoints=True)
    with in_use(plan.storage, "run small"):
        with pytest.raises(UserError, match="run small"):
            clean(plan.storage, found, checkpoints=True)
        with pytest.raises(UserError, match="run small"):
            look_for_removable(plan.storage, checkpoints=True)
    assert plan.storage.exists("stages/training-00000000000a/x")


def test_what_became_needed_after_it_was_announced_is_kept(
    plan: RunPlan, make_config: MakeConfig
) -> None:
    config = make_config("name=other", "seed=1")
    finish_run(config)
    manifest = plan.storage.read_bytes("runs/other/run.json")
    plan.storage.delete_folder("runs/other")
    found = look_for_removable(plan.storage, checkpoints=True)
    assert found
    plan.storage.write_bytes("runs/other/run.json", manifest)
    assert clean(plan.storage, found, checkpoints=True) == 0
    assert all(stage.verify() for stage in make_plan(config).stages.values())


def test_temporary_folders_of_killed_processes_go(plan: RunPlan, temporary: Path) -> None:
    folder = temporary / f"smt_ray_scratch_{'0' * 32}"
    folder.mkdir()
    (folder / "file").write_bytes(b"0123456789")
    folder.with_suffix(".lock").touch()
    assert clean_all(plan.storage) == {Reason.SCRATCH: {str(folder)}}
    assert list(temporary.iterdir()) == []


def test_a_storage_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^--storage: must exist"):
        look_for_removable(Storage(str(tmp_path / "nowhere")), checkpoints=True)


def test_an_object_store_is_cleaned_alike(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    with s3_server() as variables:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        config = make_config(f"storage=s3://{BUCKET}/kept", "tracking.enabled=false")
        finish_run(config)
        plan = make_plan(config)
        put(plan.storage, plan.training.path(CHECKPOINT), "stages/training-00000000000a/x")
        assert clean_all(plan.storage) == {
            Reason.NO_RUN: {"stages/training-00000000000a"},
            Reason.CHECKPOINTS: {plan.training.path("checkpoints")},
        }
        assert all(stage.verify() for stage in make_plan(config).stages.values())
