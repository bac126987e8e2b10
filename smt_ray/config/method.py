"""The method: the warm-up, what is selected from it, and how it is trained."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from smt_ray.config.fields import Section, execution, semantic

AUTO = "auto"
DEFAULT_TARGET_MODULES = ("q_proj", "k_proj", "v_proj")
DEFAULT_BUDGET = 0.0084  # the paper's, Table 2
LORA_TARGET_MODULES = ("q_proj", "k_proj", "v_proj", "up_proj", "down_proj")
DEFAULT_RANK = 32


class WarmupConfig(Section):
    """Gradients summed over a number of steps, by which blocks are scored (paper section 3.2)."""

    mode: Literal["base", "trained"] = semantic("base")
    """base: the gradients of the base model, as the paper has it. trained: those of full
    fine-tuning, whose updated weights are kept and gone on from, as the published code has it."""
    num_steps: int = semantic(100, ge=1)
    """Global batches whose gradient is added to the sum."""
    learning_rate: float | None = semantic(None, gt=0)
    """Of mode trained, constant after a ramp of ``training.lr_warmup_steps``; null for
    ``training.learning_rate``. No effect with mode base."""
    target_modules: list[str] = semantic(list(DEFAULT_TARGET_MODULES), min_length=1)
    """Eligible linears, by the last parts of their names; the table covers all of them."""
    table_block_size: int | Literal["auto"] = semantic(AUTO)
    """The finest block size kept; auto is the largest common divisor up to 32."""
    reduction: Literal["gradient", "score"] = semantic("gradient")
    """What shards send: signed sums (exact), or block statistics (l^2 times less traffic)."""
    num_shards: int = execution(1, ge=1)
    """Tasks that the steps are divided over; 1 with mode trained, whose ranks are training's.
    Semantic where ``reduction`` is score."""
    gpus_per_shard: int = execution(1, ge=1)
    """GPUs of a shard; above 1 the layers of a model that one cannot hold are spread over them."""
    accumulate_on: Literal["device", "host"] = execution("device")
    """Where the fp32 sums are kept."""

    @model_validator(mode="after")
    def _a_step_each(self) -> WarmupConfig:
        if self.num_shards > self.num_steps:
            raise ValueError(
                f"num_shards must be at most num_steps ({self.num_steps}); got {self.num_shards}"
            )
        _check_block_size("table_block_size", self.table_block_size)
        return self

    @model_validator(mode="after")
    def _trained_in_one_piece(self) -> WarmupConfig:
        if self.mode == "trained" and (self.num_shards > 1 or self.reduction == "score"):
            raise ValueError(
                "mode trained needs num_shards 1 and reduction gradient, as each step goes on from"
                f" the one before (ranks are resources.num_workers); got {self.num_shards} and"
                f" {self.reduction}"
            )
        if self.mode == "trained" and self.gpus_per_shard > 1:
            raise ValueError(
                "gpus_per_shard has no effect with mode trained, whose ranks are training's: set"
                " resources.num_workers and deepspeed.zero_stage"
            )
        return self

    def semantic(self) -> dict[str, Any]:
        """The declared fields, and ``num_shards`` if absolute values are summed over shards.

        The learning rate has no effect with ``mode: base``.
        """
        values = super().semantic()
        if self.mode == "base":
            del values["learning_rate"]
        if self.reduction == "score":
            values["num_shards"] = self.num_shards
        return values


class SelectionConfig(Section):
    """Which blocks are trained (paper section 3.2, appendix B)."""

    block_size: int | Literal["auto"] = semantic(AUTO)
    """Side of a block; auto is the largest size up to 256 that divides every eligible dimension."""
    budget: float | None = semantic(None, gt=0, le=1)
    """Trainable parameters as a fraction of the base model's; default 0.0084."""
    num_blocks: int | None = semantic(None, ge=1)
    """The other way to say it."""
    groups: dict[str, Annotated[float, Field(gt=0, le=1)]] | None = semantic(None, min_length=1)
    """Budgets of groups of modules, ranked apart, instead of ``budget``; a group is a part of its
    modules' names (self_attn, v_proj) or attention or mlp. All others are not chosen from."""
    score: Literal["mean_of_abs", "abs_of_mean", "l2", "saliency", "random", "magnitude"] = (
        semantic("mean_of_abs")
    )
    """How a block is scored; mean_of_abs is the paper's. The controls random (by ``seed``) and
    magnitude (of the weights) need no gradient: there is no warm-up, but that of mode trained,
    whose weights are gone on from all the same."""
    scope: Literal["global", "per_module"] = semantic("global")
    """One ranking over the model, or the same number from each module."""
    target_modules: list[str] | None = semantic(None, min_length=1)
    """A subset of ``warmup.target_modules``; null for all of them."""

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
        return self.score not in ("random", "magnitude")


class LoraConfig(Section):
    """LoRA's and DoRA's settings; no effect with other methods.

    The defaults are those of the published baselines (LLM-Adapters, DoRA), not peft's.
    """

    rank: int | None = semantic(None, ge=1)
    """Rank of the two factors; default 32."""
    budget: float | None = semantic(None, gt=0, le=1)
    """The other way to say it: trainable parameters as a fraction of the base model's, DoRA's
    magnitudes included; the rank is the nearest."""
    alpha: int | None = semantic(None, ge=1)
    """The update is scaled by alpha / rank; null for twice the rank."""
    dropout: float = semantic(0.05, ge=0, lt=1)
    """Dropout before the first factor, in training."""
    target_modules: list[str] = semantic(list(LORA_TARGET_MODULES), min_length=1)
    """Adapted linears, by the last parts of their names."""

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
    """The optimisation: what the paper and its baselines report."""

    batch_size: int = semantic(16, ge=1)
    """Rows per optimizer step over all ranks."""
    num_epochs: int | None = semantic(None, ge=1)
    """Passes over the training rows; default 3 where ``max_steps`` is not set."""
    max_steps: int | None = semantic(None, ge=1)
    """Optimizer steps, instead of ``num_epochs``."""
    learning_rate: float = semantic(1e-4, gt=0)
    """Peak learning rate."""
    lr_schedule: Literal["linear", "cosine", "constant"] = semantic("linear")
    """From the peak to 0 over the steps after the ramp; constant stays."""
    lr_warmup_steps: int = semantic(0, ge=0)
    """Steps of the linear ramp from 0 to the peak."""
    weight_decay: float = semantic(0.0, ge=0)
    """AdamW's decoupled weight decay."""
    adam_betas: tuple[float, float] = semantic((0.9, 0.999), strict=False)
    """AdamW's betas."""
    adam_epsilon: float = semantic(1e-8, gt=0)
    """AdamW's epsilon."""
    max_grad_norm: float = semantic(1.0, ge=0)
    """Global gradient norm that larger gradients are scaled to; 0 for none."""
    validate_every_steps: int | None = execution(None, ge=1)
    """Steps between validation losses; null for one at the end. Needs ``data.validation_rows``."""
    checkpoint_every_steps: int | None = execution(None, ge=1)
    """Steps between checkpoints; null for one at the end. One more before a node is preempted."""
    keep_checkpoints: int = execution(2, ge=1)
    """Latest checkpoints kept, besides the best: the lowest validation loss at a checkpoint."""
    activation_checkpointing: bool = execution(False)
    """Whether layers keep their input alone and run once more in backward: less memory, about a
    third more time."""
    log_every_steps: int = execution(1, ge=1)
    """Steps between records of the loss."""

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
    """A default for one of two fields of which exactly one is set."""
    if isinstance(values, dict) and values.get(name) is None and values.get(unless) is None:
        return {**values, name: default}
    return values


def _check_block_size(name: str, value: int | str) -> None:
    if isinstance(value, int) and value < 1:
        raise ValueError(f"{name} must be auto or at least 1; got {value}")
