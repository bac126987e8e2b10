"""The section of the training."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import model_validator

from smt_ray.config.fields import Section, check_only_one, execution, semantic, with_default


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
    """The number of checkpoints that are kept during training: those with the lowest validation
    losses, or the latest ones without validation. The latest one is always kept. They are deleted
    when the training has finished."""
    activation_checkpointing: bool = execution(False)
    """Whether layers keep their inputs only and are computed again in the backward pass. It needs
    less memory and about a third more time."""
    log_every_steps: int = execution(1, ge=1)
    """The number of steps between records of the loss."""

    @model_validator(mode="before")
    @classmethod
    def _default_length(cls, values: Any) -> Any:
        return with_default(values, "num_epochs", 3, unless="max_steps")

    @model_validator(mode="after")
    def _one_length(self) -> TrainingConfig:
        check_only_one(self, "num_epochs", "max_steps")
        if not all(0 <= beta < 1 for beta in self.adam_betas):
            raise ValueError(f"adam_betas must lie in [0, 1); got {list(self.adam_betas)}")
        return self
