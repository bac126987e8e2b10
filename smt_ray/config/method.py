"""The sections of the method: warm-up, selection, SIFT, LoRA and training."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from smt_ray.config.fields import Section, execution, semantic

AUTO = "auto"
DEFAULT_TARGET_MODULES = ("q_proj", "k_proj", "v_proj")
DEFAULT_BUDGET = 0.0084  # the paper's, Table 2
LORA_TARGET_MODULES = ("q_proj", "k_proj", "v_proj", "up_proj", "down_proj")
DEFAULT_RANK = 32

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


class SelectionConfig(Section):
    """The selection of the blocks that are trained (paper section 3.2, appendix B)."""

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
        "random", "magnitude", "lift",
    ] = semantic("mean_of_abs")  # fmt: skip
    """The score by which blocks are ranked; mean_of_abs is the paper's. The others use the sum of
    the steps' gradients, too (abs_of_mean, l2, saliency), or the gradients of single steps
    (step_mean_of_abs, step_l2). Those without gradients are random (drawn by ``seed``), magnitude
    (of the weights) and lift (of their part of rank ``lift_rank``). With them the warm-up is
    skipped, unless its mode is trained, since training continues from its weights."""
    lift_rank: int = semantic(128, ge=1)
    """The rank of the part of a weight whose magnitude is the score lift."""
    scope: Literal["global", "per_module"] = semantic("global")
    """Whether blocks of the whole model are ranked together, or the same number of blocks is
    selected in each module."""
    target_modules: list[str] | None = semantic(None, min_length=1)
    """The linears whose blocks may be selected, a subset of ``warmup.target_modules``; null for all
    of them."""

    @model_validator(mode="before")
    @classmethod
    def _default_budget(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("groups") is not None:
            return values
        return _with_default(values, "budget", DEFAULT_BUDGET, unless="num_blocks")

    @model_validator(mode="after")
    def _one_size(self) -> SelectionConfig:
        if sum(given is not None for given in (self.budget, self.num_blocks, self.groups)) > 1:
            raise ValueError("only one of budget, num_blocks and groups may be set")
        _check_block_size("block_size", self.block_size)
        return self

    @property
    def needs_gradients(self) -> bool:
        """Whether blocks are scored by gradients."""
        return self.score not in ("random", "magnitude", "lift")

    def semantic(self) -> dict[str, Any]:
        """The semantic fields that have an effect: ``lift_rank`` has one with score lift only."""
        values = super().semantic()
        if self.score != "lift":
            del values["lift_rank"]
        return values


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

    @model_validator(mode="before")
    @classmethod
    def _default_rank(cls, values: Any) -> Any:
        return _with_default(values, "rank", DEFAULT_RANK, unless="budget")

    @model_validator(mode="after")
    def _one_way(self) -> LoraConfig:
        if self.rank is not None and self.budget is not None:
            raise ValueError("only one of rank and budget may be set")
        return self


class TrainingConfig(Section):
    """The optimisation, with the settings that the paper and its baselines report."""

    init_adapter: str | None = semantic(None, min_length=1)
    """The folder or URI of an adapter of the config's method, such as that of an earlier run. Its
    parameters are trained further, so nothing is scored or selected, and the sections warmup,
    selection, sift and lora have no effect. Its base model must be the run's model."""
    batch_size: int = semantic(16, ge=1)
    """The number of rows of an optimizer step, over all ranks."""
    num_epochs: int | None = semantic(None, ge=1)
    """The number of passes over the training rows; the default is 3 if ``max_steps`` is not set."""
    max_steps: int | None = semantic(None, ge=1)
    """The number of optimizer steps, instead of ``num_epochs``."""
    learning_rate: float = semantic(1e-4, gt=0)
    """The peak learning rate."""
    lr_schedule: Literal["linear", "cosine", "constant"] = semantic("linear")
    """How the learning rate falls from the peak to 0 after the ramp; with constant it stays at the
    peak."""
    lr_warmup_steps: int = semantic(0, ge=0)
    """The number of steps in which the learning rate rises linearly from 0 to the peak."""
    weight_decay: float = semantic(0.0, ge=0)
    """AdamW's decoupled weight decay."""
    adam_betas: tuple[float, float] = semantic((0.9, 0.999), strict=False)
    """AdamW's betas."""
    adam_epsilon: float = semantic(1e-8, gt=0)
    """AdamW's epsilon."""
    max_grad_norm: float = semantic(1.0, ge=0)
    """The largest global gradient norm, to which larger gradients are scaled; 0 for no limit."""
    validate_every_steps: int | None = execution(None, ge=1)
    """The number of steps between validation losses; null for only one at the end. It needs
    ``data.validation_rows``."""
    checkpoint_every_steps: int | None = execution(None, ge=1)
    """The number of steps between checkpoints; null for only one at the end. A further checkpoint
    is written before a node is preempted."""
    keep_checkpoints: int = execution(2, ge=1)
    """The number of latest checkpoints that are kept. The checkpoint with the lowest validation
    loss is kept, too."""
    activation_checkpointing: bool = execution(False)
    """Whether layers keep their inputs only and are computed again in the backward pass. It needs
    less memory and about a third more time."""
    log_every_steps: int = execution(1, ge=1)
    """The number of steps between records of the loss."""

    @model_validator(mode="before")
    @classmethod
    def _default_length(cls, values: Any) -> Any:
        return _with_default(values, "num_epochs", 3, unless="max_steps")

    @model_validator(mode="after")
    def _one_length(self) -> TrainingConfig:
        if self.num_epochs is not None and self.max_steps is not None:
            raise ValueError("only one of num_epochs and max_steps may be set")
        if not all(0 <= beta < 1 for beta in self.adam_betas):
            raise ValueError(f"adam_betas must lie in [0, 1); got {list(self.adam_betas)}")
        return self


def _with_default(values: Any, name: str, default: Any, *, unless: str) -> Any:
    """Sets the default of one of two fields if neither is given."""
    if isinstance(values, dict) and values.get(name) is None and values.get(unless) is None:
        return {**values, name: default}
    return values


def _check_block_size(name: str, value: int | str) -> None:
    if isinstance(value, int) and value < 1:
        raise ValueError(f"{name} must be auto or at least 1; got {value}")
