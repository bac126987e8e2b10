"""What the artifacts of each stage depend on.

The inputs of a stage are the semantic keys that change its artifacts, the identities of model and
data, and the names of the stages before it. All names therefore follow from the configuration and
the rows alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from smt_ray.config.run import RunConfig
from smt_ray.config.running import EvaluationConfig
from smt_ray.data.splits import Split
from smt_ray.documents.stages import Protocol
from smt_ray.evaluation.tasks import find_task

Inputs = dict[str, Any]
Identity = Mapping[str, str | None]

# The keys of the data section that decide which rows there are; the rows' digest stands for them.
_ROW_KEYS = ("dir", "train", "max_rows", "validation_rows")
# The keys of the training section that change a trained warm-up, whose learning rate may be its own
# and does not decay.
_WARMUP_KEYS = ("lr_warmup_steps", "weight_decay", "adam_betas", "adam_epsilon", "max_grad_norm")


def tokens_inputs(config: RunConfig, split: Split, identity: Identity) -> Inputs:
    """The inputs of the tokens stage."""
    data = {k: v for k, v in config.data.semantic().items() if k not in _ROW_KEYS}
    rows = {"training": split.training_digest, "validation": split.validation_digest}
    return {"rows": rows, "data": data, "model": dict(identity)}


def warmup_inputs(config: RunConfig, tokens: str) -> Inputs:
    """The inputs of the warm-up stage.

    Args:
        config: The configuration of the run.
        tokens: The name of the tokens stage.
    """
    settings, training = config.warmup.semantic(), config.training.semantic()
    # Warm-up steps have the batches and the order of training.
    inputs = {"tokens": tokens, "seed": config.seed, "batch_size": training["batch_size"]}
    if config.trained_warmup:
        del settings["learning_rate"]  # its value counts, whichever key sets it
        inputs["training"] = {
            "learning_rate": config.warmup_learning_rate,
            **{key: training[key] for key in _WARMUP_KEYS},
        }
        inputs["deepspeed"] = config.deepspeed.semantic()
    return {**inputs, "warmup": settings}


def selection_inputs(config: RunConfig, warmup: str | None, identity: Identity) -> Inputs:
    """The inputs of the selection stage.

    Args:
        config: The configuration of the run.
        warmup: The name of the warm-up stage, if there is one.
        identity: The identity of the base model.
    """
    chosen = {"selection": config.selection.semantic()}
    seed = {"seed": config.seed} if config.selection.score == "random" else {}
    if warmup is not None:
        return {"warmup": warmup, **seed, **chosen}
    keys = ("target_modules", "table_block_size")
    settings = {key: config.warmup.semantic()[key] for key in keys}
    return {"model": dict(identity), "warmup": settings, **seed, **chosen}


def training_inputs(
    config: RunConfig, tokens: str, selection: str | None, of_method: Mapping[str, Any]
) -> Inputs:
    """The inputs of the training stage.

    Args:
        config: The configuration of the run.
        tokens: The name of the tokens stage.
        selection: The name of the selection stage, if there is one.
        of_method: What the method depends on besides.
    """
    return {
        "tokens": tokens,
        **({"selection": selection} if selection else {}),
        "method": config.method,
        **of_method,
        "seed": config.seed,
        "training": config.training.semantic(),
        "deepspeed": config.deepspeed.semantic(),
    }


def evaluation_inputs(
    identity: Identity,
    tuned: str | None,
    tasks: Mapping[str, str],
    protocol: Protocol,
    prompt: str,
    evaluation: EvaluationConfig,
) -> Inputs:
    """The inputs of an evaluation stage: one model's predictions by one protocol.

    Args:
        identity: The identity of the base model.
        tuned: The name of the training stage, or the digest of an adapter; None for the base.
        tasks: Task -> the digest of its test rows.
        protocol: ``generate`` or ``likelihood``.
        prompt: The form of the prompt.
        evaluation: The ``evaluation`` section.
    """
    inputs: Inputs = {
        "model": dict(identity),
        "tuned": tuned,
        "tasks": dict(tasks),
        "protocol": protocol,
        "prompt": prompt,
    }
    if protocol == "generate":
        limit = evaluation.max_new_tokens
        inputs |= {
            "num_beams": evaluation.num_beams,
            "repetition_penalty": evaluation.repetition_penalty,
            "lower_case": evaluation.lower_case,
            "max_new_tokens": {task: limit or find_task(task).max_new_tokens for task in tasks},
        }
    return inputs
