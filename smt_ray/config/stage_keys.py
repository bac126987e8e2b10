"""Which semantic keys of a configuration change the artifacts of which stage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from smt_ray.config.data import ROW_KEYS
from smt_ray.config.run import RunConfig

Keys = dict[str, Any]

_ADAPTER = "init_adapter"

# The keys of the training section that change a trained warm-up, whose learning rate may be its own
# and does not decay.
_WARMUP_KEYS = ("weight_decay", "adam_betas", "adam_epsilon", "max_grad_norm")
# Further keys that change one which is the start of the training.
_SCHEDULE_KEYS = ("lr_schedule", "num_epochs", "max_steps")


@dataclass(frozen=True)
class StageKeys:
    """The semantic keys of each stage, as JSON values.

    Attributes:
        warmup: The keys of the warm-up; None without one.
        selection: The keys of the selection; None for methods that select nothing.
        training: The keys of the training, except the method's own.
    """

    tokens: Keys
    warmup: Keys | None
    selection: Keys | None
    training: Keys
    generate: Keys
    likelihood: Keys
    retention: Keys


def stage_keys(config: RunConfig) -> StageKeys:
    """The semantic keys of each stage of a run."""
    data, evaluation = config.data.semantic(), config.evaluation
    likelihood = {key: data[key] for key in ("prompt", "chat_template", "merge_system")}
    return StageKeys(
        # The digest of the rows stands for the keys that decide which rows there are.
        tokens={"data": {key: data[key] for key in data if key not in ROW_KEYS}},
        warmup=_warmup(config) if config.has_warmup else None,
        selection=_selection(config) if config.has_selection else None,
        training={
            "method": config.method,
            "seed": config.seed,
            # The method's own inputs have the contents of the adapter.
            "training": {k: v for k, v in config.training.semantic().items() if k != _ADAPTER},
            "deepspeed": config.deepspeed.semantic(),
        },
        generate={
            **likelihood,
            "num_beams": evaluation.num_beams,
            "repetition_penalty": evaluation.repetition_penalty,
            "lower_case": evaluation.lower_case,
        },
        likelihood=likelihood,
        retention={"max_length": config.data.max_length},
    )


def _warmup(config: RunConfig) -> Keys:
    settings, training = config.warmup.semantic(), config.training.semantic()
    settings["per_step"] = config.sums_of_steps
    # Warm-up steps have the batches and the order of training.
    keys: Keys = {"seed": config.seed, "batch_size": training["batch_size"], "warmup": settings}
    if config.warmup_keeps:
        keys["keeps"] = config.warmup_keeps
    if config.trained_warmup:
        del settings["learning_rate"], settings["lr_warmup_steps"]  # the values count, see below
        schedule = _SCHEDULE_KEYS if config.first_step else ()
        keys["training"] = {
            "learning_rate": config.warmup_learning_rate,
            "lr_warmup_steps": config.warmup_lr_warmup_steps,
            **{key: training[key] for key in (*_WARMUP_KEYS, *schedule)},
        }
        keys["deepspeed"] = config.deepspeed.semantic()
    return keys


def _selection(config: RunConfig) -> Keys:
    if config.selects_elements:
        return {"sift": config.sift.semantic()}
    keys: Keys = {"selection": config.selection.semantic()}
    if config.selection.score == "random":
        keys["seed"] = config.seed
    if not config.has_warmup:
        settings = config.warmup.semantic()
        keys["warmup"] = {key: settings[key] for key in ("target_modules", "table_block_size")}
    return keys
