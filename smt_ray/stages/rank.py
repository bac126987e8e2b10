"""One training rank under Ray Train: it connects Ray Train to ``smt_ray.training``."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import ray.train
import torch
from ray.util.placement_group import get_current_placement_group

from smt_ray.artifacts.layout import ADAPTER, BEST_ADAPTER, BEST_STEP, CHECKPOINTS, RECORDS
from smt_ray.artifacts.scratch import scratch_folder
from smt_ray.artifacts.storage import Storage
from smt_ray.cluster.board import announce
from smt_ray.cluster.memory import check_memory
from smt_ray.data.encoding.stored import EncodedRows, load_tokens
from smt_ray.documents.run import VALIDATION_LOSS
from smt_ray.documents.stages import RankOutcome, RankSettings
from smt_ray.errors import UserError
from smt_ray.models.load import import_transformers, load_model
from smt_ray.smt.tensorfile import SavedTensors, share_file
from smt_ray.stages.jobs import TrainingJob
from smt_ray.training.assembly import RankTraining, TrainingSettings, own_names
from smt_ray.training.best_step import SCORE, BestSteps, checkpoint_score
from smt_ray.training.engine import import_deepspeed
from smt_ray.training.loop import Callbacks
from smt_ray.training.metrics_log import MetricsLog
from smt_ray.training.settings import training_settings
from smt_ray.training.state import checkpoint_name, load_parameters, load_state, save_state
from smt_ray.training.watchdog import Watchdog

PROGRESS = "training"
"""The name of the training on the progress board."""


class Rank(Protocol):
    """The work of one rank under Ray Train."""

    def run(self) -> RankSettings:
        """Does the work; every rank does the same."""
        ...


def run_rank(given: dict[str, Any]) -> RankSettings | UserError:
    """Does a rank's work. A user's error is returned: if it were raised, Ray Train would retry.

    Args:
        given: ``rank``, which makes the rank of its arguments ``job`` and ``board``, and the
            ``kind`` of the stage.
    """
    rank: Callable[[Any, Any], Rank] = given["rank"]
    board, kind = given["board"], given["kind"]
    board.hold.remote(kind, get_current_placement_group())
    try:
        check_memory(kind, board)
        return rank(given["job"], board).run()
    except UserError as error:
        return error


class TrainingRank:
    """One rank, from rows to the adapter."""

    task = PROGRESS
    prefix = "train/"  # begins the names of the metrics

    def __init__(self, job: TrainingJob, board: Any) -> None:
        self.job, self.board = job, board
        self.rank: int = ray.train.get_context().get_world_rank()
        self.storage = Storage(job.storage)
        torch.set_num_threads(job.resources.num_threads)
        self.device: torch.device = ray.train.torch.get_device()
        import_transformers()
        import_deepspeed(self.device)
        self.watchdog = Watchdog(job.config.resources.stall_timeout_s)
        settings = self._settings()
        training, validation = self._load_tokens()
        self.training = RankTraining(
            load_model(job.model, settings.engine.loading_device(self.device)),
            job.method.make(self.storage.local),
            training,
            validation,
            settings,
            job.probe,
            Callbacks(self._record, self._checkpoint, self._preempted, self.watchdog.sign),
            self.device,
            after_prepare=self._after_prepare,
        )

    def run(self) -> RankOutcome:
        """Trains from the latest checkpoint to the end."""
        resumed_from = self._resume()
        start = resumed_from or self.training.settings.loop.first_step
        self.log = (
            MetricsLog(self.storage, self._place(RECORDS), resumed_from) if self._is_first else None
        )
        if self._is_first:
            self.best = BestSteps(self.storage, self._place(f"{CHECKPOINTS}/{BEST_STEP}"))
            announce(self.board, self.task, 0)
        self.watchdog.sign()
        try:
            metrics = self.training.loop.run(start)
        finally:
            self.watchdog.stop()
            if self.log:
                self.log.flush()  # also after an error: the last steps show why a loss diverged
        self._save()
        return self.training.outcome(self.log.latest if self.log else metrics, resumed_from)

    @property
    def _is_first(self) -> bool:
        return self.rank == 0

    def _settings(self) -> TrainingSettings:
        return training_settings(self.job.config, self.job.num_steps)

    def _load_tokens(self) -> tuple[EncodedRows, EncodedRows | None]:
        with self.storage.local(self.job.tokens) as path:
            training = load_tokens(path, "training")
            assert training is not None
            return training, load_tokens(path, "validation")

    def _after_prepare(self, model: torch.nn.Module) -> None:
        """Receives the prepared model before the engine is made."""

    def _resume(self) -> int:
        checkpoint = ray.train.get_checkpoint()
        if checkpoint is None:
            return 0
        with checkpoint.as_directory() as directory:
            state, num_steps = load_state(Path(directory))
            self._import_state(state, num_steps)  # reads from the folder, which may be temporary
        return num_steps

    def _import_state(self, state: SavedTensors, num_steps: int) -> None:
        self.training.engine.import_state(state, num_steps)

    def _export_state(self) -> dict[str, torch.Tensor]:
        """The share of the state that this rank saves; every rank calls it."""
        engine = self.training.engine
        return engine.export_state(engine.own_share())

    def _record(self, done: int, metrics: Mapping[str, float]) -> None:
        assert self.log is not None
        if "train/loss" in metrics:  # not before the first step
            self.board.update.remote(self.task, 0, done, f"loss {metrics['train/loss']:.3f}")
        named = {name.replace("train/", self.prefix): value for name, value in metrics.items()}
        if sent := self.log.add(done, named):
            self.board.records.remote(sent)

    def _checkpoint(self, done: int, metrics: Mapping[str, float]) -> None:
        self.watchdog.stop()  # writing a large state takes as long as the storage does
        self._save_checkpoint(done, metrics)
        self.watchdog.sign()

    def _save_checkpoint(self, done: int, metrics: Mapping[str, float]) -> None:
        state = self._export_state()
        with scratch_folder() as scratch:
            checkpoint = None
            if self._is_first:
                assert self.log is not None
                if sent := self.log.flush():
                    self.board.records.remote(sent)
                self.best.offer(done, metrics.get(VALIDATION_LOSS))
            if state:  # Ray Train puts the files of all ranks together
                save_state(scratch, state, done, self.rank, len(self.training.engine.shares))
                checkpoint = ray.train.Checkpoint.from_directory(scratch)
            score = checkpoint_score(metrics.get(VALIDATION_LOSS))
            ray.train.report(
                {"step": done, "num_steps": self.job.num_steps, SCORE: score, **metrics},
                checkpoint,
                checkpoint_dir_name=checkpoint_name(done),
            )

    def _preempted(self) -> bool:
        """Whether a node of any rank is being drained; Ray gives rank 0's answer to all ranks."""
        return ray.train.get_preemption_info() is not None

    def _save(self) -> None:
        """Writes the adapter: a whole model in shares by several ranks, and others by rank 0."""
        shares = self.training.engine.shares
        if not self.job.method.is_whole_model:
            shares = [[name for share in shares for name in share]]
        if self._is_first:
            for folder in (ADAPTER, BEST_ADAPTER):  # perhaps of an attempt with other ranks
                self.storage.delete_folder(self._place(folder))
        torch.distributed.barrier()
        keep = shares[self.rank] if self.rank < len(shares) else []
        parameters = self.training.export_parameters(keep)
        if keep:
            self._save_adapter(parameters, ADAPTER, len(shares))
        if self._is_first:
            self._save_best()

    def _save_best(self) -> None:
        """Writes the adapter of the best step, unless it is that of the last one."""
        best = self.best.best
        if best is None or best.num_steps == self.job.num_steps:
            return
        checkpoint = self._place(f"{CHECKPOINTS}/{checkpoint_name(best.num_steps)}")
        with self.storage.local(checkpoint) as local:
            self._save_adapter(own_names(load_parameters(local)), BEST_ADAPTER)

    def _save_adapter(
        self, parameters: Mapping[str, torch.Tensor], name: str, num_shares: int = 1
    ) -> None:
        with scratch_folder() as scratch:
            self.training.method.save(self.training.model, parameters, scratch)
            for path in list(scratch.iterdir()) if num_shares > 1 else []:
                if path.suffix == ".safetensors":
                    path.rename(scratch / share_file(path.stem, self.rank, num_shares))
                elif not self._is_first:  # the same on every rank
                    path.unlink()
            self._put_folder(scratch, name)

    def _put_folder(self, folder: Path, name: str) -> None:
        """Copies a local folder into the stage."""
        for file in sorted(os.listdir(folder)):
            self.storage.put_file(folder / file, self._place(f"{name}/{file}"))

    def _place(self, file: str) -> str:
        return f"{self.job.folder}/{file}"
