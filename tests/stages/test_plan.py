"""Claims about the names of stages: which keys and contents change them, and which do not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import datasets
import pytest
from pydantic import BaseModel

from smt_ray.config.run import RunConfig
from smt_ray.errors import UserError
from smt_ray.stages.plan import RunPlan, kept_model, make_plan
from tests.data.hub.records import RECORDS

Make = Callable[..., RunConfig]
TRAINING = {"training", "tuned"}
SELECTION = {"selection"} | TRAINING
WARMUP = {"warmup"} | SELECTION
TOKENS = {"tokens"} | WARMUP
EVALUATION = {"base", "base_likelihood", "tuned"}
ALL = TOKENS | EVALUATION

# Every execution key of the config, with another value than its default.
EXECUTION = {
    "name": "another",
    "storage": "/tmp/elsewhere",
    "model.attn_implementation": "eager",
    "model.trust_remote_code": "true",
    "warmup.processes": "ranks",
    "warmup.num_shards": "2",
    "warmup.gpus_per_shard": "2",
    "evaluation.gpus_per_worker": "2",
    "warmup.accumulate_on": "host",
    "training.validate_every_steps": "5",
    "training.checkpoint_every_steps": "5",
    "training.keep_checkpoints": "9",
    "training.activation_checkpointing": "true",
    "training.log_every_steps": "7",
    "batching.mode": "padded",
    "data.num_proc": "2",
    "batching.max_tokens": "64",
    "deepspeed.zero_stage": "3",
    "resources.num_workers": "8",
    "resources.use_gpu": "false",
    "resources.cpus_per_worker": "3",
    "resources.accelerator_type": "H100",
    "resources.max_failures": "0",
    "resources.stall_timeout_s": "9",
    "resources.wait_timeout_s": "9",
    "resources.autoscale_timeout_s": "9",
    "evaluation.batch_tokens": "99",
    "tracking.enabled": "false",
    "tracking.uri": "http://127.0.0.1:1",
    "tracking.experiment": "another",
    "tracking.log_model": "true",
}


def names(plan: RunPlan) -> dict[str, str]:
    return {key.removeprefix("evaluation_"): stage.name for key, stage in plan.stages.items()}


def changed(before: RunConfig, after: RunConfig) -> set[str]:
    """The stages that differ between two configs."""
    old, new = names(make_plan(before)), names(make_plan(after))
    assert old.keys() == new.keys()
    return {kind for kind in old if old[kind] != new[kind]}


def execution_keys(section: type[BaseModel] = RunConfig, prefix: str = "") -> Iterator[str]:
    for name, field in section.model_fields.items():
        annotation = field.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            yield from execution_keys(annotation, f"{prefix}{name}.")
        elif (field.json_schema_extra or {}).get("role") != "semantic":  # type: ignore[union-attr]
            yield prefix + name


def test_the_same_config_names_the_same_stages(make_config: Make) -> None:
    assert names(make_plan(make_config())) == names(make_plan(make_config()))
    assert set(names(make_plan(make_config()))) == ALL


def test_the_list_of_execution_keys_is_complete() -> None:
    assert set(execution_keys()) == set(EXECUTION)


@pytest.mark.parametrize("key", EXECUTION)
def test_execution_keys_change_no_stage(make_config: Make, key: str) -> None:
    also = ["resources.use_gpu=false"] if key == "resources.autoscale_timeout_s" else []
    assert changed(make_config(), make_config(f"{key}={EXECUTION[key]}", *also)) == set()


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("model.dtype=bfloat16", ALL),
        ("data.prompt=legacy", ALL),
        ("data.validation_rows=3", TOKENS),
        ("data.max_rows=15", TOKENS),
        ("data.max_length=64", TOKENS),
        ("data.overlong=drop", TOKENS),
        ("data.bad_rows=skip", TOKENS),
        ("data.merge_system=true", ALL),
        ("data.chat_template='{{ messages }}'", ALL),
        ("data.train_on_inputs=true", TOKENS),
        ("seed=1", TOKENS),
        ("warmup.num_steps=50", WARMUP),
        ("warmup.target_modules=[q_proj, v_proj]", WARMUP),
        ("warmup.table_block_size=4", WARMUP),
        ("warmup.reduction=score", WARMUP),
        ("training.batch_size=8", WARMUP),  # warm-up steps are training's batches
        ("selection.budget=0.1", SELECTION),
        ("selection.block_size=4", SELECTION),
        ("selection.score=l2", SELECTION),
        ("selection.scope=per_module", SELECTION),
        ("selection.target_modules=[v_proj]", SELECTION),
        ("selection.layers=[1, 1]", SELECTION),
        ("training.learning_rate=1e-3", TRAINING),
        ("training.num_epochs=1", TRAINING),
        ("training.lr_schedule=cosine", TRAINING),
        ("training.max_grad_norm=0", TRAINING),
        ("deepspeed.extra={steps_per_print: 1}", TRAINING),
        ("evaluation.max_rows=3", EVALUATION),
        ("evaluation.num_beams=4", {"base", "tuned"}),  # likelihood generates nothing
        ("evaluation.repetition_penalty=1.1", {"base", "tuned"}),
        ("evaluation.max_new_tokens=4", {"base", "tuned"}),
        ("evaluation.lower_case=true", {"base", "tuned"}),
    ],
)
def test_a_semantic_key_changes_its_own_stages_and_those_after_them(
    make_config: Make, override: str, expected: set[str]
) -> None:
    assert changed(make_config(), make_config(override)) == expected


def test_tasks_of_lm_eval_change_the_generated_evaluations_only(
    make_config: Make, tmp_path: Path
) -> None:
    (tmp_path / "rows.jsonl").write_text('{"a": "1+1=", "b": "2"}')
    file = tmp_path / "sums.yaml"
    file.write_text(
        "task: sums\ndataset_path: json\ntest_split: test\noutput_type: generate_until\n"
        f"dataset_kwargs: {{data_files: {{test: {tmp_path}/rows.jsonl}}}}\n"
        'doc_to_text: "{{a}}"\ndoc_to_target: "{{b}}"\n'
    )
    asked = make_config(f"evaluation.lm_eval=[{file}]")
    assert changed(make_config(), asked) == {"base", "tuned"}
    alone = make_plan(make_config(f"evaluation.lm_eval=[{file}]", "evaluation.tasks=[]"))
    assert set(names(alone)) == TOKENS | {"base", "tuned"}
    assert set(names(make_plan(make_config("evaluation.tasks=[]")))) == TOKENS - {"tuned"}


LORA = (
    "lora.rank=8", "lora.alpha=3", "lora.dropout=0", "lora.target_modules=[v_proj]",
    "lora.layers=[1, 1]",
)  # fmt: skip


@pytest.mark.parametrize("override", [*LORA, "lora.budget=0.01"])
def test_lora_settings_change_only_the_training_of_lora_and_dora(
    make_config: Make, override: str
) -> None:
    for method in ("smt", "full"):
        given = make_config(f"method={method}"), make_config(f"method={method}", override)
        assert changed(*given) == set()
    for method in ("lora", "dora"):
        given = make_config(f"method={method}"), make_config(f"method={method}", override)
        assert changed(*given) == TRAINING


@pytest.mark.parametrize("score", ["random", "magnitude"])
def test_a_control_has_a_selection_without_a_warm_up(make_config: Make, score: str) -> None:
    def control(*overrides: str) -> RunConfig:
        return make_config(f"selection.score={score}", *overrides)

    plan = make_plan(control())
    assert plan.warmup is None
    assert set(names(plan)) == ALL - {"warmup"}
    assert changed(control(), control("warmup.num_steps=7", "warmup.reduction=score")) == set()
    for override in ("selection.budget=0.1", "warmup.target_modules=[v_proj]"):
        assert changed(control(), control(override)) == SELECTION
    # The selection depends neither on the rows nor on their order.
    rows = changed(control(), control("data.max_rows=15", "training.batch_size=8"))
    assert rows == {"tokens"} | TRAINING
    seeded = changed(control(), control("seed=1"))
    assert ("selection" in seeded) == (score == "random")


TRAINED = "warmup.mode=trained"


def test_a_trained_warm_up_is_another_stage_and_only_it_has_a_learning_rate(
    make_config: Make,
) -> None:
    assert changed(make_config(), make_config(TRAINED)) == WARMUP
    stage = make_plan(make_config("warmup.learning_rate=1e-6")).warmup
    assert stage is not None
    assert stage.name == names(make_plan(make_config()))["warmup"]
    assert set(stage.inputs) == {"version", "tokens", "seed", "batch_size", "warmup"}


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("warmup.learning_rate=1e-6", WARMUP),
        ("training.learning_rate=1e-3", WARMUP),
        ("training.lr_warmup_steps=3", WARMUP),
        ("training.weight_decay=0.1", WARMUP),
        ("training.adam_betas=[0.9, 0.95]", WARMUP),
        ("training.adam_epsilon=1e-6", WARMUP),
        ("training.max_grad_norm=0", WARMUP),
        ("training.batch_size=8", WARMUP),
        ("deepspeed.extra={steps_per_print: 1}", WARMUP),
        # The learning rate of a warm-up does not decay, and it has its own number of steps.
        ("training.lr_schedule=cosine", TRAINING),
        ("training={max_steps: 9}", TRAINING),
        ("selection.budget=0.1", SELECTION),
        ("resources.num_workers=2", set()),
        ("deepspeed.zero_stage=3", set()),
        ("warmup.accumulate_on=host", set()),
        ("training.checkpoint_every_steps=5", set()),
    ],
)
def test_training_settings_change_a_trained_warm_up_if_its_steps_use_them(
    make_config: Make, override: str, expected: set[str]
) -> None:
    assert changed(make_config(TRAINED), make_config(TRAINED, override)) == expected


def test_a_learning_rate_counts_in_whichever_section_it_is_set(make_config: Make) -> None:
    said = make_config(TRAINED, "warmup.learning_rate=1e-4")  # training's default
    assert changed(make_config(TRAINED), said) == set()
    apart = make_config(TRAINED, "warmup.learning_rate=1e-4", "training.learning_rate=1e-3")
    assert changed(make_config(TRAINED), apart) == TRAINING


@pytest.mark.parametrize("score", ["random", "magnitude"])
def test_a_control_after_a_trained_warm_up_starts_from_the_same_weights(
    make_config: Make, score: str
) -> None:
    control = f"selection.score={score}"
    assert changed(make_config(TRAINED), make_config(TRAINED, control)) == SELECTION
    plans = [make_plan(make_config(TRAINED, *more)) for more in ((), (control,))]
    assert plans[0].starting_model == plans[1].starting_model


def test_training_starts_from_the_base_model_or_from_the_kept_model(
    make_config: Make, model_folder: Path
) -> None:
    for overrides in ((), (TRAINED, "method=lora"), (TRAINED, "method=full")):
        plan = make_plan(make_config(*overrides))
        assert plan.starting_model == plan.model
    plan = make_plan(make_config(TRAINED, "model.dtype=bfloat16"))
    assert plan.warmup is not None
    assert plan.model.path == str(model_folder)
    assert plan.starting_model == plan.model.at(plan.warmup.uri + "/model")
    gguf = plan.model.model_copy(update={"gguf_file": "m.gguf", "revision": "v2"})
    assert kept_model(gguf, plan.warmup) == plan.starting_model


def test_groups_change_the_selection(make_config: Make) -> None:
    groups = "selection.groups={v_proj: 0.02}", "selection.budget=null"
    assert changed(make_config(), make_config(*groups)) == SELECTION


@pytest.mark.parametrize("method", ["lora", "dora", "full"])
def test_settings_of_smt_change_no_stage_of_other_methods(make_config: Make, method: str) -> None:
    for override in ("warmup.num_steps=50", "selection.budget=0.1", "selection.score=l2"):
        given = make_config(f"method={method}"), make_config(f"method={method}", override)
        assert changed(*given) == set()


@pytest.mark.parametrize("method", ["lora", "dora", "full"])
def test_another_method_has_no_warm_up_and_shares_tokens_and_base_evaluations(
    make_config: Make, method: str
) -> None:
    smt, plan = make_plan(make_config()), make_plan(make_config(f"method={method}"))
    assert (plan.warmup, plan.selection) == (None, None)
    assert set(names(plan)) == ALL - {"warmup", "selection"}
    for kind in ("tokens", "base", "base_likelihood"):
        assert names(plan)[kind] == names(smt)[kind]
    for kind in ("training", "tuned"):
        assert names(plan)[kind] != names(smt)[kind]


def test_scores_share_a_warm_up_and_those_of_steps_another(make_config: Make) -> None:
    l2, lift, steps = (f"selection.score={score}" for score in ("l2", "lift", "step_l2"))
    assert changed(make_config(), make_config(l2)) == SELECTION
    assert changed(make_config(), make_config(steps)) == WARMUP
    also = "warmup.per_step=true"
    assert changed(make_config(also), make_config(also, steps)) == SELECTION
    assert changed(make_config(lift), make_config(lift, "selection.lift_rank=8")) == SELECTION
    assert changed(make_config(l2), make_config(l2, "selection.lift_rank=8")) == set()


def test_sift_has_a_warm_up_that_keeps_gradients_and_a_selection_of_its_own(
    make_config: Make,
) -> None:
    sift = "method=sift"
    smt, plan = make_plan(make_config()), make_plan(make_config(sift))
    assert names(plan)["tokens"] == names(smt)["tokens"]
    for kind in ("warmup", "selection", "training"):
        assert names(plan)[kind] != names(smt)[kind]
    for override in ("sift.budget=0.1", "sift.scope=global"):
        assert changed(make_config(sift), make_config(sift, override)) == SELECTION
    assert changed(make_config(sift), make_config(sift, "selection.budget=0.1")) == set()


def test_every_method_has_its_own_training(make_config: Make) -> None:
    methods = ("smt", "lora", "dora", "sift", "full")
    trained = {make_plan(make_config(f"method={method}")).training.name for method in methods}
    assert len(trained) == len(methods)


def test_the_adapter_is_evaluated_last(make_config: Make) -> None:
    assert list(make_plan(make_config()).evaluations) == ["base", "base_likelihood", "tuned"]


def test_the_number_of_shards_is_semantic_with_reduction_score(make_config: Make) -> None:
    score = "warmup.reduction=score"
    assert changed(make_config(score), make_config(score, "warmup.num_shards=2")) == WARMUP


def test_rows_are_identified_by_their_content_not_by_their_path(
    make_config: Make, rows_folder: Path, tmp_path: Path
) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(rows_folder, moved)
    assert changed(make_config(), make_config(f"data.dir={moved}")) == set()

    def edit(file: Path) -> None:
        rows = json.loads(file.read_text())
        rows[0]["output"] += "!"
        file.write_text(json.dumps(rows))

    edit(moved / "dataset" / "boolq" / "test.json")
    assert changed(make_config(), make_config(f"data.dir={moved}")) == EVALUATION
    edit(moved / "train.json")
    assert changed(make_config(), make_config(f"data.dir={moved}")) == ALL


def test_rows_of_the_hub_are_identified_by_their_content_too(
    make_config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record, row = RECORDS["boolq"]
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: [record] * 9)
    for file in (tmp_path / "train.json", tmp_path / "dataset" / "boolq" / "test.json"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps([row] * 9))
    files = make_config(f"data.dir={tmp_path}", "data.validation_rows=0")
    hub = make_config("data.dir=hub", "data.train=[hub:boolq]", "data.validation_rows=0")
    assert changed(files, hub) == set()


def test_a_model_is_identified_by_its_files_not_by_its_path(
    make_config: Make, model_folder: Path, tmp_path: Path
) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(model_folder, moved)
    assert changed(make_config(), make_config(f"model.path={moved}")) == set()
    weights = moved / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    assert changed(make_config(), make_config(f"model.path={moved}")) == ALL


def test_only_the_requested_evaluations_are_planned(make_config: Make) -> None:
    def evaluations(*overrides: str) -> list[str]:
        return sorted(make_plan(make_config(*overrides)).evaluations)

    assert evaluations() == ["base", "base_likelihood", "tuned"]
    assert evaluations("evaluation.base=false", "evaluation.base_likelihood=false") == ["tuned"]
    assert evaluations("evaluation.tasks=[]", "evaluation.base_likelihood=false") == []


def test_evaluating_the_tuned_model_by_likelihood_adds_a_stage_and_changes_none(
    make_config: Make,
) -> None:
    before, after = (
        make_plan(make_config()),
        make_plan(make_config("evaluation.tuned_likelihood=true")),
    )
    assert list(after.evaluations) == [*before.evaluations, "tuned_likelihood"]
    added = after.evaluations["tuned_likelihood"]
    assert {**names(before), "tuned_likelihood": added.name} == names(after)
    assert (added.inputs["protocol"], added.inputs["tuned"]) == ("likelihood", after.training.name)


def test_a_search_shares_the_warm_up_and_the_base_evaluation(make_config: Make) -> None:
    plans = [
        names(make_plan(make_config("name=trial-1", "selection.budget=0.02"))),
        names(make_plan(make_config("name=trial-2", "training.learning_rate=1e-3"))),
    ]
    for kind in ("tokens", "warmup", "base", "base_likelihood"):
        assert plans[0][kind] == plans[1][kind]
    assert plans[0]["tuned"] != plans[1]["tuned"]


@pytest.mark.parametrize(
    ("override", "field"),
    [
        ("evaluation.tasks=[nothing]", "evaluation.tasks"),
        ("evaluation.tasks=[gsm8k]", "evaluation.base_likelihood"),
        (
            "evaluation={tasks: [gsm8k], tuned_likelihood: true}",
            "evaluation.tuned_likelihood",
        ),
        ("data.train=[missing.json]", "data.train"),
        ("data.dir=null", "data.dir"),
        ("model.path=/nowhere/at/all", "model.path"),
    ],
)
def test_a_missing_task_file_or_model_is_named(
    make_config: Make, override: str, field: str
) -> None:
    with pytest.raises(UserError) as raised:
        make_plan(make_config(override))
    assert field in raised.value.field


def test_a_plan_computes_and_writes_nothing(make_config: Make, tmp_path: Path) -> None:
    plan = make_plan(make_config())
    assert not any(stage.is_done() for stage in plan.stages.values())
    assert not (tmp_path / "storage").exists()
