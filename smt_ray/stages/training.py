"""Training through Ray Train: checkpoints, lost ranks and lost drivers are its business."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import ray.train
from ray.train.torch import TorchTrainer

from smt_ray.artifacts.stages import Stage
from smt_ray.cluster.resources import ProcessResources
from smt_ray.cluster.session import is_alone
from smt_ray.cluster.waiting import PLACEMENT, found_no_place, wait_for_place
from smt_ray.config.run import RunConfig
from smt_ray.errors import UserError
from smt_ray.stages.rank import train_worker

CHECKPOINTS, METRICS, ADAPTER = "checkpoints", "metrics.jsonl", "adapter"
BEST = "best"  # among the checkpoints
_ROUNDS = 5  # of waiting for a place, which others may then be faster to take


def training_job(
    config: RunConfig, stage: Stage, *, tokens: str, model: dict[str, Any],
    method: dict[str, Any], num_steps: int, resources: ProcessResources,
) -> dict[str, Any]:  # fmt: skip
    """Everything a rank needs, as plain values.

    Args:
        config: The run's configuration.
        stage: Where the adapter goes.
        tokens: The tokenised rows, as the storage names them.
        model: The model section of what it starts from.
        method: Its settings; see :func:`smt_ray.methods.registry.make_method`. The selection file
            as the storage names it.
        num_steps: Optimizer steps of the whole training.
        resources: Of one rank.
    """
    training = config.training
    return {
        "storage": stage.storage.root,
        "tokens": tokens,
        "metrics": stage.path(METRICS),
        "adapter": stage.path(ADAPTER),
        "best_checkpoint": stage.path(f"{CHECKPOINTS}/{BEST}"),
        "model": model,
        "method": config.method,
        "method_settings": method,
        "seed": config.seed,
        "batch_size": training.batch_size,
        "num_threads": resources.num_threads,
        "activation_checkpointing": training.activation_checkpointing,
        "engine": {
            "zero_stage": config.deepspeed.zero_stage,
            "dtype": config.model.dtype,
            "betas": tuple(training.adam_betas),
            "epsilon": training.adam_epsilon,
            "weight_decay": training.weight_decay,
            "max_grad_norm": training.max_grad_norm,
            "extra": config.deepspeed.extra,
        },
        "loop": {
            "num_steps": num_steps,
            "seed": config.seed,
            "learning_rate": training.learning_rate,
            "lr_schedule": training.lr_schedule,
            "lr_warmup_steps": training.lr_warmup_steps,
            "batching": config.batching.mode,
            "max_tokens": config.batching.max_tokens,
            "train_on_inputs": config.data.train_on_inputs,
            "log_every_steps": training.log_every_steps,
            "validate_every_steps": training.validate_every_steps,
            "checkpoint_every_steps": training.checkpoint_every_steps,
        },
    }


def fit(
    config: RunConfig, job: dict[str, Any], stage: Stage, resources: ProcessResources, board: Any,
    worker: Callable[[dict[str, Any]], dict[str, Any]] = train_worker,
    callbacks: Sequence[ray.train.UserCallback] = (),
) -> dict[str, Any]:  # fmt: skip
    """Trains to the end, going on from the stage's latest checkpoint where there is one.

    Args:
        config: The run's configuration.
        job: What :func:`training_job` makes.
        stage: What is made; its kind is what an error calls it.
        resources: Of one rank.
        board: The progress actor.
        worker: What a rank does.
        callbacks: Ray Train's, told of every checkpoint and its metrics.

    Returns:
        Rank 0's metrics, where it resumed from, and what it ran on.

    Raises:
        UserError: Bad input, a loss that is not finite, workers that keep failing, or no place for
            them in time.
    """
    asked = config.resources
    for rounds_left in reversed(range(_ROUNDS)):
        wait_for_place(stage.kind, asked.num_workers, resources, asked.wait_timeout_s)
        trainer = _make_trainer(config, job, stage, resources, board, worker, callbacks)
        try:
            with _interrupts_as_before():
                outcome: dict[str, Any] = trainer.fit().return_value
            break
        except ray.train.TrainingFailedError as error:
            if rounds_left and found_no_place(error):
                continue
            if _raised_by_our_code(error):
                raise
            raise _workers_lost(stage.kind, asked.max_failures, error) from error
    if "user_error" in outcome:
        field, rule, got, fix = outcome["user_error"]
        raise UserError(field, rule, got=got, fix=fix)
    return outcome


def _make_trainer(
    config: RunConfig, job: dict[str, Any], stage: Stage, resources: ProcessResources, board: Any,
    worker: Callable[[dict[str, Any]], dict[str, Any]],
    callbacks: Sequence[ray.train.UserCallback],
) -> TorchTrainer:  # fmt: skip
    """Goes on from the stage's latest checkpoint; see :func:`fit`."""
    return TorchTrainer(
        worker,
        train_loop_config={**job, "board": board},
        scaling_config=scaling(config.resources.num_workers, resources),
        run_config=ray.train.RunConfig(
            name=CHECKPOINTS,
            storage_path=stage.storage.uri(stage.folder),
            checkpoint_config=_retention(config),
            callbacks=list(callbacks),
            failure_config=ray.train.FailureConfig(
                max_failures=config.resources.max_failures,
                controller_failure_limit=config.resources.max_failures,
            ),
            worker_runtime_env={
                "env_vars": {"OMP_NUM_THREADS": str(resources.num_threads), **_loopback()}
            },
        ),
    )


@contextmanager
def _interrupts_as_before() -> Iterator[None]:
    """Has an interrupt raise KeyboardInterrupt, in training and after it.

    Ray Train handles it for good from its start on: it exits while ranks train, and does nothing
    afterwards. What stops a submitted job exits likewise.
    """
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit:  # its code does not say whose it is
        raise KeyboardInterrupt from None
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, handler)


def _workers_lost(kind: str, max_failures: int, error: BaseException) -> UserError:
    return UserError(
        kind,
        f"workers failed more than resources.max_failures ({max_failures}) times:"
        f" {_last_line(error)}",
        fix="see Ray's logs (/tmp/ray/session_latest/logs on the head node); start the same run"
        " again to go on from the latest checkpoint",
    )


def _retention(config: RunConfig) -> ray.train.CheckpointConfig:
    """The latest checkpoints; rank 0 has the best one copied, whatever becomes of it here."""
    return ray.train.CheckpointConfig(num_to_keep=config.training.keep_checkpoints)


def scaling(num_workers: int, resources: ProcessResources) -> ray.train.ScalingConfig:
    """Where ranks are placed: packed onto as few nodes as hold them.

    Args:
        num_workers: Ranks.
        resources: Of each.
    """
    gpus = {"GPU": resources.num_gpus} if resources.num_gpus else {}
    return ray.train.ScalingConfig(
        num_workers=num_workers,
        use_gpu=bool(resources.num_gpus),
        resources_per_worker={"CPU": resources.num_cpus, **gpus},
        accelerator_type=resources.accelerator_type if resources.num_gpus else None,
        placement_strategy=PLACEMENT,
    )


def _loopback() -> dict[str, str]:
    """On this machine alone, ranks meet on the loopback interface, whatever its host name."""
    return {"GLOO_SOCKET_IFNAME": "lo"} if is_alone() else {}


def _raised_by_our_code(error: BaseException) -> bool:
    """Whether a rank raised, rather than died: a defect, which keeps its traceback."""
    failures = getattr(error, "worker_failures", {}).values()
    return any(not type(failure).__module__.startswith("ray.") for failure in failures)


def _last_line(error: BaseException) -> str:
    return str(error).strip().rsplit("\n", 1)[-1]
