"""The sections of the method: warm-up, selection, SIFT and LoRA."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from smt_ray.config.fields import (
    Section,
    check_only_one,
    execution,
    semantic,
    with_default,
    without_none,
)

AUTO = "auto"
DEFAULT_TARGET_MODULES = ("q_proj", "k_proj", "v_proj")
DEFAULT_BUDGET = 0.0084  # the paper's, Table 2
LORA_TARGET_MODULES = ("q_proj", "k_proj", "v_proj", "up_proj", "down_proj")
DEFAULT_RANK = 32

Layers = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=2, max_length=2)]
TargetModules = Annotated[list[str], Field(min_length=1)] | Literal["auto"]


class WarmupConfig(Section):
    """The warm-up: gradients are summed over some steps, to score blocks (paper section 3.2)."""

    mode: Literal["base", "trained"] = semantic("base")
    """The weights whose gradients are summed. base: the base model's, as in the paper. trained:
    those of full fine-tuning, which updates the weights in each step; training then continues from
    the updated weights, as in the published code."""
    num_steps: int = semantic(100, ge=1)
    """The number of global batches whose gradients are summed."""
    learning_rate: float | None = semantic(None, gt=0)
    """The learning rate of mode trained, which stays constant after its ramp; null for
    ``training.learning_rate``. It has no effect with mode base."""
    lr_warmup_steps: int | None = semantic(None, ge=0)
    """The number of steps of that ramp; null for ``training.lr_warmup_steps``. It has no effect
    with mode base."""
    starts_training: bool = semantic(False)
    """Whether the steps of mode trained are the first ones of the training, as in the published
    code: both follow one schedule of learning rates and one order of rows, which training continues
    at step ``num_steps`` + 1. Otherwise training begins with its own first step. It has no effect
    with mode base."""
    target_modules: TargetModules = semantic(AUTO)
    """The linears whose blocks are scored, by the last parts of their names. auto is the linears
    that make queries, keys and values, whatever their names in the model's family."""
    table_block_size: int | Literal["auto"] = semantic(AUTO)
    """The finest block size that can be selected later; auto is the largest size up to 32 that
    divides every dimension of the linears."""
    reduction: Literal["gradient", "score"] = semantic("gradient")
    """What shards send. gradient: sums of gradients, which is exact. score: statistics of blocks of
    l x l weights, which is l^2 times less traffic."""
    per_step: bool = semantic(False)
    """Whether the absolute and the squared gradients of single steps are summed for each block,
    too, for the scores step_mean_of_abs and step_l2. These scores set it themselves; set it to
    compare them with others by one warm-up. It needs memory for a second sum of gradients. It has
    no effect with mode trained."""
    processes: Literal["shards", "ranks"] = execution("shards")
    """The processes that compute the gradients. shards: tasks that have the whole model each and
    take turns where there is little room. ranks: those of training, with ``deepspeed.zero_stage``
    and ``training.activation_checkpointing``, for models that do not fit a shard. Mode trained
    always uses ranks."""
    num_shards: int = execution(1, ge=1)
    """The number of tasks that share the steps; it changes results only if ``reduction`` is score.
    Mode trained needs 1, because each step starts from the weights of the step before."""
    gpus_per_shard: int = execution(1, ge=1)
    """The number of GPUs of a shard. If it is above 1, the layers of the model are spread over
    them, for models that do not fit one GPU."""
    accumulate_on: Literal["device", "host"] = execution("device")
    """The memory that holds the fp32 sums: the GPU's or the host's."""

    @model_validator(mode="after")
    def _a_step_each(self) -> WarmupConfig:
        if self.num_shards > self.num_steps:
            raise ValueError(
                f"num_shards must be at most num_steps ({self.num_steps}); got {self.num_shards}"
            )
        _check_block_size("table_block_size", self.table_block_size)
        return self

    @model_validator(mode="after")
    def _trained_without_shards(self) -> WarmupConfig:
        if self.mode == "trained" and (self.num_shards > 1 or self.reduction == "score"):
            raise ValueError(
                "mode trained needs num_shards 1 and reduction gradient, since each step continues"
                f" from the one before; got {self.num_shards} and {self.reduction} (set"
                " resources.num_workers to use more processes)"
            )
        if self.mode == "trained" and self.gpus_per_shard > 1:
            raise ValueError(
                "gpus_per_shard has no effect with mode trained, which uses the ranks of training:"
                " set resources.num_workers and deepspeed.zero_stage"
            )
        return self

    @model_validator(mode="after")
    def _ranks_without_shards(self) -> WarmupConfig:
        wanted = {"num_shards": 1, "gpus_per_shard": 1, "reduction": "gradient"}
        if self.processes == "ranks" and self.mode == "base":
            for key, value in wanted.items():
                if (got := getattr(self, key)) != value:
                    raise ValueError(
                        f"processes ranks needs {key} {value}; got {got} (set"
                        " resources.num_workers and deepspeed.zero_stage to use more processes)"
                    )
        return self

    @model_validator(mode="after")
    def _one_schedule(self) -> WarmupConfig:
        own = self.learning_rate is not None or self.lr_warmup_steps is not None
        if self.mode == "trained" and self.starts_training and own:
            raise ValueError(
                "starts_training gives warm-up and training one schedule: leave out learning_rate"
                f" and lr_warmup_steps; got {self.learning_rate} and {self.lr_warmup_steps}"
            )
        return self

    def semantic(self) -> dict[str, Any]:
        """The semantic fields that have an effect.

        Those of a trained warm-up have none with ``mode: base``. The number of shards has one if
        ``reduction`` is score, since the absolute values of each shard are then summed.
        """
        values = super().semantic()
        if self.mode == "base":
            for name in ("learning_rate", "lr_warmup_steps", "starts_training"):
                del values[name]
        if self.reduction == "score":
            values["num_shards"] = self.num_shards
        return values


_COLUMN_SCORES = ("mean_of_abs", "abs_of_mean", "l2", "saliency", "activation", "random")


class SelectionConfig(Section):
    """The selection of the blocks that are trained (paper section 3.2, appendix B)."""

    block_shape: Literal["square", "column"] = semantic("square")
    """The shape of a block: square, as in the paper, or a whole input column of a weight, for which
    ``block_size`` has no meaning. Columns have the scores mean_of_abs, abs_of_mean, l2, saliency,
    activation and random, and weights in full precision."""
    block_size: int | Literal["auto"] = semantic(AUTO)
    """The number of rows and columns of a block; auto is the largest size up to 256 that divides
    every dimension of the eligible linears."""
    budget: float | None = semantic(None, gt=0, le=1)
    """The trained parameters as a fraction of the base model's; the default is 0.0084."""
    num_blocks: int | None = semantic(None, ge=1)
    """The number of selected blocks, instead of ``budget``."""
    groups: dict[str, Annotated[float, Field(gt=0, le=1)]] | None = semantic(None, min_length=1)
    """The budgets of groups of modules, instead of ``budget``. Each group has a ranking of its own.
    Its name is attention, mlp, or a part of its modules' names such as self_attn or v_proj. No
    blocks of modules outside the groups are selected."""
    score: Literal[
        "mean_of_abs", "abs_of_mean", "l2", "saliency", "step_mean_of_abs", "step_l2",
        "activation", "random", "magnitude", "lift",
    ] = semantic("mean_of_abs")  # fmt: skip
    """The score by which blocks are ranked; mean_of_abs is the paper's. The others use the sum of
    the steps' gradients, too (abs_of_mean, l2, saliency), or the gradients of single steps
    (step_mean_of_abs, step_l2). activation, which is for columns, sums the absolute inputs over the
    tokens of the warm-up's rows. Those without a warm-up are random (drawn by ``seed``), magnitude
    (of the weights) and lift (of their part of rank ``lift_rank``), unless the warm-up's
    mode is trained, since training continues from its weights."""
    lift_rank: int = semantic(128, ge=1)
    """The rank of the part of a weight whose magnitude is the score lift."""
    scope: Literal["global", "per_module"] = semantic("global")
    """Whether blocks of the whole model are ranked together, or the same number of blocks is
    selected in each module."""
    target_modules: list[str] | None = semantic(None, min_length=1)
    """The linears whose blocks may be selected, a subset of ``warmup.target_modules``; null for all
    of them."""
    layers: Layers | None = semantic(None)
    """The first and the last layer of the model in which blocks may lie, counted from 0; null for
    all. The backward pass ends at the lowest layer with blocks, so steps on upper layers alone are
    faster."""

    @model_validator(mode="before")
    @classmethod
    def _default_budget(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("groups") is not None:
            return values
        return with_default(values, "budget", DEFAULT_BUDGET, unless="num_blocks")

    @model_validator(mode="after")
    def _one_size(self) -> SelectionConfig:
        check_only_one(self, "budget", "num_blocks", "groups")
        _check_block_size("block_size", self.block_size)
        return self

    @model_validator(mode="after")
    def _columns_have_different_sizes(self) -> SelectionConfig:
        is_column = self.block_shape == "column"
        if is_column and self.num_blocks is not None:
            raise ValueError(
                "block_shape column needs budget or groups, since columns of different modules"
                f" differ in size; got num_blocks {self.num_blocks}"
            )
        if is_column and self.score not in _COLUMN_SCORES:
            known = ", ".join(_COLUMN_SCORES)
            raise ValueError(f"block_shape column needs a score of {known}; got {self.score}")
        if not is_column and self.score == "activation":
            raise ValueError("score activation needs block_shape column; got square")
        return self

    @property
    def needs_gradients(self) -> bool:
        """Whether blocks are scored by gradients."""
        return self.score not in ("activation", "random", "magnitude", "lift")

    @property
    def needs_warmup(self) -> bool:
        """Whether blocks are scored by what the warm-up computes."""
        return self.needs_gradients or self.score == "activation"

    def semantic(self) -> dict[str, Any]:
        """The semantic fields that have an effect, given the shape of blocks and the score."""
        values = super().semantic()
        is_column = self.block_shape == "column"
        idle = ("block_size", "num_blocks") if is_column else ("block_shape",)
        for name in (*idle, *(() if self.score == "lift" else ("lift_rank",))):
            del values[name]
        return without_none(values, "layers")


class SiftConfig(Section):
    """The settings of SIFT, which have no effect with other methods.

    The elements are those with the largest absolute gradients, summed over the warm-up.
    """

    budget: float = semantic(DEFAULT_BUDGET, gt=0, le=1)
    """The trained elements as a fraction of the base model's parameters."""
    scope: Literal["per_module", "global"] = semantic("per_module")
    """Whether the same share of each module is trained, as SIFT was published, or all elements are
    ranked together."""
    target_modules: list[str] | None = semantic(None, min_length=1)
    """The linears whose elements may be trained, a subset of ``warmup.target_modules``; null for
    all of them."""
    layers: Layers | None = semantic(None)
    """The first and the last layer in which elements may lie; see ``selection.layers``."""

    def semantic(self) -> dict[str, Any]:
        """The semantic fields that have an effect."""
        return without_none(super().semantic(), "layers")


class LoraConfig(Section):
    """The settings of LoRA and DoRA, which have no effect with other methods.

    The defaults are those of the published baselines (LLM-Adapters, DoRA) instead of peft's.
    """

    rank: int | None = semantic(None, ge=1)
    """The rank of the two factors; the default is 32."""
    budget: float | None = semantic(None, gt=0, le=1)
    """The trained parameters as a fraction of the base model's, instead of ``rank``. The rank that
    comes nearest is used; DoRA's magnitudes count, too."""
    alpha: int | None = semantic(None, ge=1)
    """The numerator of the update's scale alpha / rank; null for twice the rank."""
    dropout: float = semantic(0.05, ge=0, lt=1)
    """The dropout rate before the first factor, in training."""
    target_modules: TargetModules = semantic(AUTO)
    """The adapted linears, by the last parts of their names. auto is the linears that make queries,
    keys and values, and those of the MLPs without the gates, as in the published baselines."""
    layers: Layers | None = semantic(None)
    """The first and the last layer whose linears are adapted, counted from 0 (a range of peft's
    ``layers_to_transform``); null for all."""

    @model_validator(mode="before")
    @classmethod
    def _default_rank(cls, values: Any) -> Any:
        return with_default(values, "rank", DEFAULT_RANK, unless="budget")

    @model_validator(mode="after")
    def _one_way(self) -> LoraConfig:
        check_only_one(self, "rank", "budget")
        return self

    def semantic(self) -> dict[str, Any]:
        """The semantic fields that have an effect."""
        return without_none(super().semantic(), "layers")


def _check_block_size(name: str, value: int | str) -> None:
    if isinstance(value, int) and value < 1:
        raise ValueError(f"{name} must be auto or at least 1; got {value}")
