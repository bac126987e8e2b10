"""The warm-up on the ranks of training (``processes: ranks``), with ZeRO and recomputation."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import ray.train
import torch
import torch.distributed as dist

from smt_ray.artifacts.scratch import scratch_folder
from smt_ray.artifacts.stages import Stage
from smt_ray.artifacts.storage import Storage
from smt_ray.cluster.board import announce
from smt_ray.data.batches import StepPlan
from smt_ray.data.encoding.stored import load_tokens
from smt_ray.documents.stages import RankSettings, WarmupSummary
from smt_ray.models.load import import_transformers, load_model
from smt_ray.stages.jobs import WarmupJob
from smt_ray.stages.training import fit, say_outcome
from smt_ray.stages.warmup_tasks import PROGRESS, keep_values, store_table
from smt_ray.tracking.records import make_record
from smt_ray.training.best_step import SCORE, checkpoint_score
from smt_ray.training.settings import training_settings
from smt_ray.training.state import checkpoint_name
from smt_ray.training.watchdog import Watchdog
from smt_ray.warmup.ranks import RankWarmup, RankWarmupSettings


def run_ranks(job: WarmupJob, stage: Stage[WarmupSummary], board: Any) -> RankSettings:
    """Runs the warm-up; returns once the table is in the storage.

    Raises:
        UserError: As :func:`smt_ray.stages.training.fit` does.
    """
    found: RankSettings = fit(job, stage, board, GradientRank)
    say_outcome("warmup", found, job.config)
    return found


class GradientRank:
    """One rank, from rows to its part of the table."""

    def __init__(self, job: WarmupJob, board: Any) -> None:
        self._job, self._board, config = job, board, job.config
        self._num_reported = 0
        torch.set_num_threads(job.resources.num_threads)
        device: torch.device = ray.train.torch.get_device()
        import_transformers()
        self._settings = warmup_settings(job)
        with Storage(job.storage).local(job.tokens) as path:
            encoded = load_tokens(path, "training")
        assert encoded is not None
        self._warmup = RankWarmup(
            load_model(job.model, self._settings.engine.loading_device(device)),
            encoded,
            StepPlan(len(encoded), config.training.batch_size, config.seed),
            self._settings,
            job.probe,
            device,
        )

    def run(self) -> RankSettings:
        """Computes the steps from the latest checkpoint on, and stores the table."""
        resumed_from = self._resume()
        saved, every = resumed_from, self._job.config.training.checkpoint_every_steps
        watchdog = Watchdog(self._job.config.resources.stall_timeout_s)
        watchdog.sign()
        try:
            for done in self._warmup.run():
                self._report(done)
                watchdog.stop()
                if every and done - saved >= every and done < self._settings.num_steps:
                    self._checkpoint(done)
                    saved = done
                watchdog.sign()
        finally:
            watchdog.stop()
        keep = partial(keep_values, self._job) if self._job.kept else None
        rows = self._warmup.statistics(keep)
        if dist.get_rank() == 0:
            store_table(self._job, *rows)
        return self._used(resumed_from)

    def _resume(self) -> int:
        checkpoint = ray.train.get_checkpoint()
        if checkpoint is not None:
            with checkpoint.as_directory() as directory:
                self._warmup.load(Path(directory))
        if dist.get_rank() == 0:
            announce(self._board, PROGRESS, 0)
        done = len(self._warmup.losses)
        self._report(done)
        return done

    def _checkpoint(self, done: int) -> None:
        """Every rank writes the sums that it owns; Ray Train puts the files of ranks together."""
        with scratch_folder() as scratch:
            self._warmup.save(scratch)
            ray.train.report(
                {"step": done, SCORE: checkpoint_score(None)},
                ray.train.Checkpoint.from_directory(scratch),
                checkpoint_dir_name=checkpoint_name(done),
            )

    def _report(self, done: int) -> None:
        losses = self._warmup.losses
        if dist.get_rank() or not losses:
            return
        self._board.update.remote(PROGRESS, 0, done, f"loss {losses[-1]:.3f}")
        for step in range(self._num_reported, done):
            record = make_record(step + 1, {"warmup/loss": losses[step]})
            self._board.measure.remote(PROGRESS, record)
        self._num_reported = done

    def _used(self, resumed_from: int) -> RankSettings:
        mode = self._warmup.batching
        return RankSettings(
            resumed_from=resumed_from,
            num_ranks=dist.get_world_size(),
            zero_stage=self._settings.engine.zero_stage,
            kernel=self._warmup.kernel,
            batching=f"{mode.mode}, {self._settings.max_tokens} tokens",
            batching_fallback=mode.fallback,
        )


def warmup_settings(job: WarmupJob) -> RankWarmupSettings:
    """The settings of a rank, from the configuration of its run."""
    config = job.config
    return RankWarmupSettings(
        modules=tuple(job.blocks.shapes),
        block_size=job.blocks.table_block_size,
        per_step=config.sums_of_steps,
        num_steps=config.warmup.num_steps,
        batching=config.batching.mode,
        max_tokens=config.batching.max_tokens,
        train_on_inputs=config.data.train_on_inputs,
        accumulate_on=config.warmup.accumulate_on,
        activation_checkpointing=config.training.activation_checkpointing,
        engine=training_settings(config, config.warmup.num_steps).engine,
    )
