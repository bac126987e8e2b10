"""The settings of a rank, from the configuration of a run."""

from __future__ import annotations

from dataclasses import replace

from smt_ray.config.run import RunConfig
from smt_ray.training.assembly import TrainingSettings
from smt_ray.training.engine_settings import EngineSettings
from smt_ray.training.loop import LoopSettings


def training_settings(config: RunConfig, num_steps: int) -> TrainingSettings:
    """The settings of a run's training.

    Args:
        config: The configuration of the run.
        num_steps: The optimizer steps of the whole training.
    """
    training, batching = config.training, config.batching
    return TrainingSettings(
        engine=EngineSettings(
            zero_stage=config.deepspeed.zero_stage,
            dtype=config.model.dtype,
            betas=training.adam_betas,
            epsilon=training.adam_epsilon,
            weight_decay=training.weight_decay,
            max_grad_norm=training.max_grad_norm,
            extra=config.deepspeed.extra,
        ),
        loop=LoopSettings(
            num_steps=num_steps,
            first_step=config.first_step,
            seed=config.seed,
            learning_rate=training.learning_rate,
            lr_schedule=training.lr_schedule,
            lr_warmup_steps=training.lr_warmup_steps,
            batching=batching.mode,
            max_tokens=batching.max_tokens,
            train_on_inputs=config.data.train_on_inputs,
            log_every_steps=training.log_every_steps,
            validate_every_steps=training.validate_every_steps,
            checkpoint_every_steps=training.checkpoint_every_steps,
        ),
        batch_size=training.batch_size,
        activation_checkpointing=training.activation_checkpointing,
    )


def warmup_settings(config: RunConfig, num_training_steps: int) -> TrainingSettings:
    """The settings of a trained warm-up, which has no validation.

    Its learning rate stays constant after a ramp, unless it is the start of the training.

    Args:
        config: The configuration of the run.
        num_training_steps: The optimizer steps of the whole training.
    """
    settings = training_settings(config, config.warmup.num_steps)
    is_start = bool(config.first_step)
    loop = replace(
        settings.loop,
        section="warmup",
        first_step=0,
        num_scheduled_steps=num_training_steps if is_start else None,
        learning_rate=config.warmup_learning_rate,
        lr_schedule=config.training.lr_schedule if is_start else "constant",
        lr_warmup_steps=config.warmup_lr_warmup_steps,
        validate_every_steps=None,
    )
    return replace(settings, loop=loop)
