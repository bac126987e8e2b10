"""The role of each field, semantic or execution, and the values that contradict each other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

import pytest

from smt_ray.config.data import Source
from smt_ray.config.fields import Section
from smt_ray.config.load import load_config
from smt_ray.config.run import RunConfig
from smt_ray.errors import UserError

# Another valid value of each field, and the overrides that it needs.
OTHER: dict[str, tuple[str, ...]] = {
    "name": ("name=another",),
    "storage": ("storage=elsewhere",),
    "seed": ("seed=1",),
    "model.path": ("model.path=there", "model.builtin=null"),
    "model.builtin": ("model.builtin=null", "model.path=there"),
    "model.revision": ("model.revision=v2",),
    "model.gguf_file": ("model.gguf_file=m.gguf", "model.path=there", "model.builtin=null"),
    "model.dtype": ("model.dtype=bfloat16",),
    "model.quantization": ("model.quantization=nf4",),
    "model.attn_implementation": ("model.attn_implementation=eager",),
    "model.config_overrides": ("model.config_overrides={attention_dropout: 0.1}",),
    "model.trust_remote_code": ("model.trust_remote_code=true",),
    "model.architecture": ("model.architecture={model_type: llama}", "model.builtin=null"),
    "data.dir": ("data.dir=there",),
    "data.train": ("data.train=[other.json]",),
    "data.max_rows": ("data.max_rows=8",),
    "data.validation_rows": ("data.validation_rows=8",),
    "data.validation": ("data.validation=[held.json]",),
    "data.ignore_columns": ("data.ignore_columns=[id]",),
    "data.bad_rows": ("data.bad_rows=skip",),
    "data.prompt": ("data.prompt=legacy",),
    "data.chat_template": ("data.chat_template=other",),
    "data.merge_system": ("data.merge_system=true",),
    "data.train_on_inputs": ("data.train_on_inputs=true",),
    "data.max_length": ("data.max_length=64",),
    "data.overlong": ("data.overlong=drop",),
    "data.num_proc": ("data.num_proc=2",),
    "warmup.mode": ("warmup.mode=trained",),
    "warmup.num_steps": ("warmup.num_steps=9",),
    "warmup.learning_rate": ("warmup.learning_rate=1e-5",),
    "warmup.target_modules": ("warmup.target_modules=[v_proj]",),
    "warmup.table_block_size": ("warmup.table_block_size=8",),
    "warmup.lr_warmup_steps": ("warmup.lr_warmup_steps=7",),
    "warmup.starts_training": ("warmup.starts_training=true",),
    "warmup.reduction": ("warmup.reduction=score",),
    "warmup.per_step": ("warmup.per_step=true",),
    "warmup.processes": ("warmup.processes=ranks",),
    "warmup.num_shards": ("warmup.num_shards=3",),
    "warmup.gpus_per_shard": ("warmup.gpus_per_shard=2",),
    "evaluation.gpus_per_worker": ("evaluation.gpus_per_worker=2",),
    "warmup.accumulate_on": ("warmup.accumulate_on=host",),
    "selection.block_size": ("selection.block_size=32",),
    "selection.budget": ("selection.budget=0.01",),
    "selection.num_blocks": ("selection.num_blocks=9", "selection.budget=null"),
    "selection.score": ("selection.score=l2",),
    "selection.lift_rank": ("selection.lift_rank=64",),
    "selection.block_shape": ("selection.block_shape=column",),
    "selection.groups": ("selection.groups={v_proj: 0.01}", "selection.budget=null"),
    "selection.scope": ("selection.scope=per_module",),
    "selection.target_modules": ("selection.target_modules=[v_proj]",),
    "selection.layers": ("selection.layers=[1, 1]",),
    "method": ("method=full",),
    "training.init_adapter": ("training.init_adapter=there",),
    "sift.budget": ("sift.budget=0.01",),
    "sift.scope": ("sift.scope=global",),
    "sift.target_modules": ("sift.target_modules=[v_proj]",),
    "sift.layers": ("sift.layers=[1, 1]",),
    "lora.rank": ("lora.rank=8",),
    "lora.budget": ("lora.budget=0.01", "lora.rank=null"),
    "lora.alpha": ("lora.alpha=16",),
    "lora.dropout": ("lora.dropout=0",),
    "lora.target_modules": ("lora.target_modules=[v_proj]",),
    "lora.layers": ("lora.layers=[1, 1]",),
    "training.batch_size": ("training.batch_size=8",),
    "training.num_epochs": ("training.num_epochs=2", "training.max_steps=null"),
    "training.max_steps": ("training.max_steps=9",),
    "training.learning_rate": ("training.learning_rate=3e-4",),
    "training.lr_schedule": ("training.lr_schedule=cosine",),
    "training.lr_warmup_steps": ("training.lr_warmup_steps=9",),
    "training.weight_decay": ("training.weight_decay=0.1",),
    "training.adam_betas": ("training.adam_betas=[0.9, 0.95]",),
    "training.adam_epsilon": ("training.adam_epsilon=1e-6",),
    "training.max_grad_norm": ("training.max_grad_norm=0",),
    "training.validate_every_steps": ("training.validate_every_steps=5",),
    "training.checkpoint_every_steps": ("training.checkpoint_every_steps=5",),
    "training.keep_checkpoints": ("training.keep_checkpoints=5",),
    "training.activation_checkpointing": ("training.activation_checkpointing=true",),
    "training.log_every_steps": ("training.log_every_steps=5",),
    "batching.mode": ("batching.mode=packed",),
    "batching.max_tokens": ("batching.max_tokens=64",),
    "deepspeed.zero_stage": ("deepspeed.zero_stage=3",),
    "deepspeed.extra": ("deepspeed.extra={a: 1}",),
    "resources.num_workers": ("resources.num_workers=5",),
    "resources.use_gpu": ("resources.use_gpu=true",),
    "resources.cpus_per_worker": ("resources.cpus_per_worker=3",),
    "resources.accelerator_type": ("resources.accelerator_type=H100",),
    "resources.max_failures": ("resources.max_failures=0",),
    "resources.stall_timeout_s": ("resources.stall_timeout_s=9",),
    "resources.wait_timeout_s": ("resources.wait_timeout_s=9",),
    "resources.autoscale_timeout_s": ("resources.autoscale_timeout_s=9", "resources.use_gpu=false"),
    "evaluation.tasks": ("evaluation.tasks=[boolq]",),
    "evaluation.max_rows": ("evaluation.max_rows=9",),
    "evaluation.num_beams": ("evaluation.num_beams=4",),
    "evaluation.repetition_penalty": ("evaluation.repetition_penalty=1.1",),
    "evaluation.max_new_tokens": ("evaluation.max_new_tokens=8",),
    "evaluation.lower_case": ("evaluation.lower_case=true",),
    "evaluation.base": ("evaluation.base=false",),
    "evaluation.base_likelihood": ("evaluation.base_likelihood=false",),
    "evaluation.tuned_likelihood": ("evaluation.tuned_likelihood=true",),
    "evaluation.batch_tokens": ("evaluation.batch_tokens=64",),
    "tracking.enabled": ("tracking.enabled=false",),
    "tracking.uri": ("tracking.uri=http://h:1",),
    "tracking.experiment": ("tracking.experiment=other",),
    "tracking.log_model": ("tracking.log_model=true",),
}
# Overrides that both configs need, so that they differ in the field only.
GIVEN: dict[str, tuple[str, ...]] = {
    **{name: ("method=lora",) for name in OTHER if name.startswith("lora.")},
    **{name: ("method=sift",) for name in OTHER if name.startswith("sift.")},
    "selection.lift_rank": ("selection.score=lift",),
    "model.gguf_file": ("model.path=there", "model.builtin=null"),
    "warmup.mode": ("warmup.num_shards=1",),
    "warmup.processes": ("warmup.num_shards=1",),
    **{
        f"warmup.{name}": ("warmup.num_shards=1", "warmup.mode=trained")
        for name in ("learning_rate", "lr_warmup_steps", "starts_training")
    },
    "training.validate_every_steps": ("data.validation_rows=8",),
}


def leaves(section: type[Section] = RunConfig, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, field in section.model_fields.items():
        annotation = field.annotation
        if isinstance(annotation, type) and issubclass(annotation, Section):
            yield from leaves(annotation, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field


def role(field: Any) -> str | None:
    return (field.json_schema_extra or {}).get("role")


LEAVES = dict(leaves())
# Fields with one possible value cannot be given another.
SINGLE = {name for name, field in LEAVES.items() if len(get_args(field.annotation)) == 1}


@pytest.mark.parametrize("name", LEAVES)
def test_every_field_has_a_role_and_a_description(name: str) -> None:
    assert role(LEAVES[name]) in ("semantic", "execution")
    assert LEAVES[name].description


def test_every_field_has_another_value_in_these_tests() -> None:
    changeable = {name for name in LEAVES if name in OTHER or name not in SINGLE}
    assert changeable == set(OTHER)


@pytest.mark.parametrize("name", OTHER)
def test_the_semantic_tree_changes_with_semantic_fields_and_with_no_other(name: str) -> None:
    given = GIVEN.get(name, ())
    before, after = load_config(None, given), load_config(None, [*given, *OTHER[name]])
    assert before != after
    differs = before.semantic_tree() != after.semantic_tree()
    assert differs == (role(LEAVES[name]) == "semantic")


@pytest.mark.parametrize(
    ("method", "has"),
    [
        ("smt", {"warmup", "selection"}),
        ("sift", {"warmup", "sift"}),
        ("lora", {"lora"}),
        ("dora", {"lora"}),
        ("full", set()),
    ],
)
def test_sections_of_other_methods_may_be_set_and_change_nothing(
    method: str, has: set[str]
) -> None:
    def tree(*overrides: str) -> dict[str, Any]:
        return load_config(None, [f"method={method}", *overrides]).semantic_tree()

    others = {
        "warmup": "num_steps=30", "selection": "budget=0.01", "sift": "budget=0.01",
        "lora": "rank=8",
    }  # fmt: skip
    assert tree().keys() & others.keys() == has
    for section, change in others.items():
        assert (tree(f"{section}.{change}") != tree()) == (section in has)


def test_scores_of_single_steps_need_their_sums_which_no_other_method_has() -> None:
    for override, sums in (("score=l2", False), ("score=step_l2", True), ("score=lift", False)):
        assert load_config(None, [f"selection.{override}"]).sums_of_steps == sums
    assert load_config(None, ["warmup.per_step=true"]).sums_of_steps
    assert not load_config(None, ["warmup.per_step=true", "method=sift"]).sums_of_steps
    trained = ["warmup.mode=trained", "warmup.num_shards=1"]
    assert not load_config(None, ["warmup.per_step=true", *trained]).sums_of_steps
    with pytest.raises(UserError, match="sums no gradients of single steps"):
        load_config(None, [*trained, "selection.score=step_mean_of_abs"])


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (["selection={block_shape: column, num_blocks: 9}"], "needs budget or groups"),
        (["selection.score=lift"], "needs a score of mean_of_abs"),
        (["selection.score=step_l2"], "needs a score of mean_of_abs"),
        (["warmup.mode=trained", "warmup.num_shards=1"], "needs warmup.mode base"),
        (["warmup.reduction=score"], "needs warmup.reduction gradient"),
        (["model.quantization=nf4"], "block_shape column updates the weights"),
        (["selection={block_shape: square, score: activation}"], "needs block_shape column"),
    ],
)
def test_columns_need_whole_gradients_of_weights_in_full_precision(
    overrides: list[str], reason: str
) -> None:
    with pytest.raises(UserError, match=reason):
        load_config(None, ["selection.block_shape=column", *overrides])


def test_what_the_warm_up_keeps_follows_from_what_is_selected() -> None:
    column = "selection.block_shape=column"
    for overrides, keeps, has_warmup in [
        ([], None, True),
        (["method=sift"], "gradients", True),
        ([column], "columns", True),
        ([column, "selection.score=activation"], "activations", True),
        ([column, "selection.score=random"], None, False),
        ([column, "method=lora"], None, False),
    ]:
        config = load_config(None, overrides)
        assert (config.warmup_keeps, config.base_warmup) == (keeps, has_warmup)


def test_num_shards_is_semantic_if_shards_send_scores() -> None:
    def tree(reduction: str, num_shards: int) -> dict[str, Any]:
        overrides = [f"warmup.reduction={reduction}", f"warmup.num_shards={num_shards}"]
        return load_config(None, overrides).semantic_tree()

    assert tree("gradient", 1) == tree("gradient", 4)
    assert tree("score", 1) != tree("score", 4)


def test_the_learning_rate_of_a_warm_up_that_does_not_train_changes_nothing() -> None:
    quiet, aloud = load_config(), load_config(None, ["warmup.learning_rate=1e-5"])
    assert quiet.warmup.semantic() == aloud.warmup.semantic()
    assert "learning_rate" not in aloud.warmup.semantic()


@pytest.mark.parametrize(
    ("overrides", "sharded", "trained"),
    [
        ((), True, False),
        (("selection.score=random",), False, False),
        (("selection.score=magnitude",), False, False),
        (("selection.score=lift",), False, False),
        (("selection.score=step_l2",), True, False),
        (("warmup.mode=trained", "warmup.num_shards=1"), False, True),
        # The blocks are drawn, and training still continues from the updated weights.
        (("warmup.mode=trained", "warmup.num_shards=1", "selection.score=random"), False, True),
        (("method=lora",), False, False),
        (("method=dora", "warmup.mode=trained", "warmup.num_shards=1"), False, False),
        (("method=sift",), True, False),
        (("method=sift", "selection.score=random"), True, False),
        (("method=full",), False, False),
    ],
)
def test_a_run_knows_whether_it_selects_blocks_and_which_warm_up_it_has(
    overrides: tuple[str, ...], sharded: bool, trained: bool
) -> None:
    config = load_config(None, overrides)
    assert config.selects_blocks == (config.method == "smt")
    assert (config.base_warmup, config.trained_warmup) == (sharded, trained)
    assert config.has_warmup == (sharded or trained)
    assert config.has_selection == (config.method in ("smt", "sift"))
    assert (
        config.idle_sections
        == {
            "smt": ("sift", "lora"),
            "sift": ("selection", "lora"),
            "lora": ("warmup", "selection", "sift"),
            "dora": ("warmup", "selection", "sift"),
            "full": ("warmup", "selection", "sift", "lora"),
        }[config.method]
    )


@pytest.mark.parametrize("method", ["smt", "lora", "dora", "full"])
def test_only_smt_has_a_trained_warm_up(method: str) -> None:
    config = load_config(None, ["warmup.mode=trained", "warmup.num_shards=1", f"method={method}"])
    assert config.trained_warmup == (method == "smt")


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("warmup.mode=trained", "method sift needs warmup.mode base"),
        ("warmup.reduction=score", "method sift needs warmup.reduction gradient"),
        ("model.quantization=nf4", "methods full and sift"),
        ("sift.target_modules=[o_proj]", r"sift.target_modules must be among"),
    ],
)
def test_sift_needs_whole_gradients_of_weights_that_it_can_change(
    override: str, reason: str
) -> None:
    overrides = ["method=sift", "warmup.num_shards=1", "warmup.target_modules=[q_proj]"]
    with pytest.raises(UserError, match=reason):
        load_config(None, [*overrides, override])


def test_a_trained_warm_up_uses_the_learning_rate_of_training_unless_it_has_its_own() -> None:
    rates = ("training.learning_rate=3e-4", "warmup.learning_rate=1e-5")
    assert load_config(None, rates[:1]).warmup_learning_rate == 3e-4
    assert load_config(None, rates).warmup_learning_rate == 1e-5


def test_a_warm_up_that_starts_the_training_has_its_schedule() -> None:
    trained = ["warmup.mode=trained", "warmup.num_shards=1", "warmup.num_steps=30"]
    assert load_config(None, trained).first_step == 0
    assert load_config(None, [*trained, "warmup.starts_training=true"]).first_step == 30
    assert load_config(None, ["warmup.starts_training=true"]).first_step == 0  # mode base
    for own in ("learning_rate=1e-4", "lr_warmup_steps=5"):
        with pytest.raises(UserError, match="one schedule"):
            load_config(None, [*trained, "warmup.starts_training=true", f"warmup.{own}"])


def test_the_fields_of_a_hub_source_are_semantic() -> None:
    assert {role(field) for _, field in leaves(Source)} == {"semantic"}

    def tree(source: str) -> dict[str, Any]:
        return load_config(None, [f"data.train=[{source}]"]).semantic_tree()

    assert tree("{hub: a/b}") != tree("{hub: a/b, revision: v2}")


@pytest.mark.parametrize(
    ("overrides", "names"),
    [
        (["model.builtin=null"], ["path, builtin, architecture"]),
        (["model.path=there"], ["path, builtin, architecture", "['path', 'builtin']"]),
        (["model.gguf_file=m.gguf"], ["gguf_file", "path"]),
        (["model.builtin=null", "model.architecture={hidden_size: 4}"], ["model_type"]),
        (["data.train=[]"], ["train", "at least one source"]),
        (["data.max_rows=8", "data.validation_rows=8"], ["validation_rows", "max_rows"]),
        (["warmup.num_shards=21"], ["num_shards", "num_steps (20)", "21"]),
        (["warmup.table_block_size=0"], ["table_block_size", "got 0"]),
        (["warmup.target_modules=[]"], ["warmup.target_modules"]),
        (["warmup.mode=train"], ["warmup.mode", "'base' or 'trained'"]),
        (
            ["warmup.mode=trained", "warmup.num_shards=2"],
            ["warmup: mode trained", "num_shards 1", "got 2 and gradient"],
        ),
        (
            ["warmup.mode=trained", "warmup.num_shards=1", "warmup.reduction=score"],
            ["warmup: mode trained", "reduction gradient", "got 1 and score"],
        ),
        (["warmup.processes=ranks"], ["warmup: processes ranks", "num_shards 1", "got 2"]),
        (
            ["warmup.processes=ranks", "warmup.num_shards=1", "warmup.reduction=score"],
            ["reduction gradient", "got score"],
        ),
        (
            [
                "warmup.processes=ranks",
                "warmup.num_shards=1",
                "selection.block_shape=column",
                "selection.score=activation",
            ],
            ["selection.score activation", "warmup.processes shards", "got ranks"],
        ),
        (["selection.num_blocks=4"], ["budget", "num_blocks"]),
        (["selection.groups={v_proj: 0.01}"], ["budget", "groups"]),
        (["selection.budget=null", "selection.groups={v_proj: 0}"], ["selection.groups.v_proj"]),
        (["selection.budget=null", "selection.groups={}"], ["selection.groups"]),
        (["selection.block_size=-1"], ["block_size", "got -1"]),
        (
            ["warmup.target_modules=[q_proj]", "selection.target_modules=[up_proj]"],
            ["selection.target_modules", "up_proj"],
        ),
        (["lora.rank=8", "lora.budget=0.01"], ["rank", "budget"]),
        (["lora.rank=0"], ["lora.rank", "greater than or equal to 1"]),
        (["lora.dropout=1"], ["lora.dropout", "less than 1"]),
        (["lora.target_modules=[]"], ["lora.target_modules"]),
        (["method=ia3"], ["method", "'smt', 'lora', 'dora', 'sift' or 'full'"]),
        (["training.num_epochs=1"], ["num_epochs", "max_steps"]),
        (["training.adam_betas=[0.9, 1.0]"], ["adam_betas", "[0.9, 1.0]"]),
        (["training.validate_every_steps=2"], ["validate_every_steps", "data.validation_rows"]),
    ],
)
def test_values_that_contradict_each_other_are_refused(
    overrides: list[str], names: list[str]
) -> None:
    with pytest.raises(UserError) as caught:
        load_config(None, overrides)
    for name in names:
        assert name in str(caught.value)


def test_one_of_two_fields_has_a_default_if_neither_is_given() -> None:
    quiet = load_config(None, ["training.max_steps=null", "selection.budget=null"])
    assert (quiet.lora.rank, quiet.lora.budget) == (32, None)
    by_budget = load_config(None, ["lora.budget=0.01"]).lora
    assert (by_budget.rank, by_budget.budget) == (None, 0.01)
    assert (quiet.training.num_epochs, quiet.training.max_steps) == (3, None)
    assert (quiet.selection.budget, quiet.selection.num_blocks) == (0.0084, None)
