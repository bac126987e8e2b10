"""Training through Ray Train, which handles checkpoints, lost ranks and lost drivers."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import ray
import ray.train
from ray.train.torch import TorchTrainer

from smt_ray.artifacts.layout import (
    ADAPTER,
    BEST_ADAPTER,
    CHECKPOINTS,
    KEPT_MODEL,
    PROMPT,
    RECORDS,
    TOKENS,
)
from smt_ray.artifacts.stages import Finished, Stage
from smt_ray.cluster.memory import NoteDeaths
from smt_ray.cluster.nodes import rank_resources
from smt_ray.cluster.process_group import interfaces, process_group
from smt_ray.cluster.resources import ProcessResources
from smt_ray.cluster.train_failures import TrainFailures
from smt_ray.cluster.waiting import PLACEMENT, wait_for_place
from smt_ray.config.run import RunConfig
from smt_ray.data.batches import StepPlan
from smt_ray.documents.probe import Probe
from smt_ray.documents.prompt import TrainedPrompt
from smt_ray.documents.stages import RankOutcome, RankSettings, TrainingSummary
from smt_ray.errors import UserError
from smt_ray.methods.protocol import MethodSettings
from smt_ray.reporting.text.progress import progress, say
from smt_ray.reporting.text.ranks import rank_warning
from smt_ray.stages.checkpoints import check_checkpoints, forget_checkpoints, kept_checkpoints
from smt_ray.stages.jobs import TrainingJob, WarmupJob
from smt_ray.stages.plan import RunPlan
from smt_ray.stages.rank import PROGRESS, Rank, TrainingRank, run_rank

_ANSWER_VARIABLE = "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S"


def make_training(
    plan: RunPlan,
    method: MethodSettings,
    probe: Probe,
    board: Any,
    callbacks: Sequence[ray.train.UserCallback] = (),
) -> Finished[TrainingSummary]:
    """Trains, and stores the adapter and the records.

    Raises:
        UserError: As :func:`fit` does.
    """
    began, config, stage = time.monotonic(), plan.config, plan.training
    job = TrainingJob(
        config=config,
        model=plan.starting_model,
        method=method,
        probe=probe,
        num_steps=num_training_steps(plan),
        storage=plan.storage.root,
        folder=stage.folder,
        tokens=plan.tokens.path(TOKENS),
        resources=rank_resources(config),
    )
    if warning := rank_warning(config.training.batch_size, config.resources.num_workers):
        say(f"warning: {warning}")
    with progress("training", job.num_steps, lambda: ray.get(board.done.remote(PROGRESS))):
        outcome: RankOutcome = fit(job, stage, board, callbacks=callbacks)
    say_outcome("training", outcome, config)
    summary = TrainingSummary(
        num_steps=job.num_steps,
        starts_from=plan.warmup.path(KEPT_MODEL) if plan.warmup and config.trained_warmup else None,
        method_settings=method.describe(),
        is_whole_model=method.is_whole_model,
        outcome=outcome,
    )
    files = [RECORDS, *_adapter_files(plan)]
    finished = stage.publish(files, summary, time.monotonic() - began)
    forget_checkpoints(stage)
    return finished


def _adapter_files(plan: RunPlan) -> list[str]:
    """The files of the adapters, to each of which the form of prompts is added."""
    stage, config = plan.training, plan.config
    prompt = TrainedPrompt(
        prompt=plan.tokens.read().summary.prompt,
        chat_template=config.data.chat_template,
        merge_system=config.data.merge_system,
    )
    for folder in (ADAPTER, BEST_ADAPTER):
        if stage.storage.exists(stage.path(folder)):
            stage.storage.write_json(stage.path(f"{folder}/{PROMPT}"), prompt.to_json())
    return [
        f"{folder}/{file}"
        for folder in (ADAPTER, BEST_ADAPTER)
        for file in stage.storage.list_files(stage.path(folder))
    ]


def num_training_steps(plan: RunPlan) -> int:
    """The number of optimizer steps of a training, with those that its warm-up does for it.

    Raises:
        UserError: The warm-up would do all of them.
    """
    config = plan.config
    num_rows = plan.tokens.read().summary.training.num_rows
    steps = StepPlan(num_rows, config.training.batch_size, config.seed)
    number = steps.num_steps(config.training.num_epochs, config.training.max_steps)
    if config.first_step >= number:
        raise UserError(
            "warmup.num_steps",
            f"must be less than the {number} steps of the training that it starts",
            got=config.warmup.num_steps,
            fix="lower it, train longer, or set warmup.starts_training to false",
        )
    return number


def say_outcome(kind: str, outcome: RankSettings, config: RunConfig) -> None:
    """Prints whether ranks resumed and whether their batching fell back."""
    if outcome.resumed_from:
        say(f"{kind}: resumed from the checkpoint at step {outcome.resumed_from}")
    if outcome.batching_fallback:
        say(
            f"{kind}: batching.mode {config.batching.mode} fell back to {outcome.batching}:"
            f" {outcome.batching_fallback}"
        )


def fit(
    job: TrainingJob | WarmupJob,
    stage: Stage[Any],
    board: Any,
    rank: Callable[[Any, Any], Rank] = TrainingRank,
    callbacks: Sequence[ray.train.UserCallback] = (),
) -> Any:
    """Runs ranks to the end, from the latest checkpoint if there is one.

    Args:
        rank: A function of (``job``, ``board``) that makes a rank.
        callbacks: Callbacks of Ray Train, which receive every checkpoint and its metrics.

    Returns:
        What the ``run`` of rank 0 returned.

    Raises:
        UserError: Bad input, a loss that is not finite, workers that keep failing, or no place for
            them in time.
    """
    kind, asked = stage.kind.name, job.config.resources
    failures = TrainFailures(kind, asked.max_failures, stage.storage, board)
    while True:
        wait_for_place(kind, asked.num_workers, job.resources, asked.wait_timeout_s)
        check_checkpoints(stage)
        trainer = _make_trainer(job, stage, board, rank, callbacks)
        try:
            with _interrupts_as_before(), _answers_within(asked.stall_timeout_s):
                outcome: RankSettings | UserError = trainer.fit().return_value
            break
        except (ray.train.TrainingFailedError, ray.exceptions.RayActorError) as error:
            failures.recover(error)
    if isinstance(outcome, UserError):
        raise outcome
    return outcome


def _make_trainer(
    job: TrainingJob | WarmupJob,
    stage: Stage[Any],
    board: Any,
    rank: Callable[[Any, Any], Rank],
    callbacks: Sequence[ray.train.UserCallback],
) -> TorchTrainer:
    """The trainer, which resumes from the latest checkpoint of the stage; see :func:`fit`."""
    asked = job.config.resources
    threads = {"OMP_NUM_THREADS": str(job.resources.num_threads)}
    return TorchTrainer(
        run_rank,
        train_loop_config={"rank": rank, "job": job, "board": board, "kind": stage.kind.name},
        torch_config=process_group(),
        scaling_config=scaling(asked.num_workers, job.resources),
        run_config=ray.train.RunConfig(
            name=CHECKPOINTS,
            storage_path=stage.storage.uri(stage.folder),
            checkpoint_config=kept_checkpoints(job.config.training.keep_checkpoints),
            callbacks=[NoteDeaths(stage.kind.name, board), *callbacks],
            failure_config=ray.train.FailureConfig(
                max_failures=asked.max_failures, controller_failure_limit=asked.max_failures
            ),
            worker_runtime_env={"env_vars": {**threads, **interfaces()}},
        ),
    )


@contextmanager
def _interrupts_as_before() -> Iterator[None]:
    """Makes an interrupt raise KeyboardInterrupt, during training and afterwards.

    Ray Train installs its own handler and leaves it there: the handler exits while ranks train, and
    does nothing afterwards. A submitted job is stopped by the same signal.
    """
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit:  # its code does not show that Ray Train raised it
        raise KeyboardInterrupt from None
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, handler)


@contextmanager
def _answers_within(timeout_s: float | None) -> Iterator[None]:
    """Ray Train takes a rank for lost that does not answer within this time, which is 600 s."""
    if timeout_s is not None:
        os.environ[_ANSWER_VARIABLE] = str(timeout_s)
    try:
        yield
    finally:
        if timeout_s is not None:
            os.environ.pop(_ANSWER_VARIABLE, None)


def scaling(num_workers: int, resources: ProcessResources) -> ray.train.ScalingConfig:
    """The placement of ranks, on as few nodes as possible."""
    gpus = {"GPU": resources.num_gpus} if resources.num_gpus else {}
    return ray.train.ScalingConfig(
        num_workers=num_workers,
        use_gpu=bool(resources.num_gpus),
        resources_per_worker={"CPU": resources.num_cpus, **gpus},
        accelerator_type=resources.accelerator_type if resources.num_gpus else None,
        placement_strategy=PLACEMENT,
    )
