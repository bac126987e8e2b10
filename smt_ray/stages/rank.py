"""One training rank under Ray Train: what joins ray's world to the training room's."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray.train
import torch

from smt_ray.artifacts.scratch import scratch_folder
from smt_ray.artifacts.storage import Storage
from smt_ray.cluster.board import announce
from smt_ray.data.batches import StepPlan
from smt_ray.data.cache import load_tokens
from smt_ray.data.encoding import EncodedRows
from smt_ray.errors import UserError
from smt_ray.imports import large_imports
from smt_ray.methods.protocol import Method
from smt_ray.methods.registry import make_method
from smt_ray.models.load import import_transformers, load_model
from smt_ray.training.batching_mode import attention_kernel, choose_mode
from smt_ray.training.best_checkpoint import BestCheckpoint
from smt_ray.training.engine import Engine, import_deepspeed
from smt_ray.training.engine_settings import EngineSettings
from smt_ray.training.loop import VALIDATION_LOSS, Callbacks, LoopSettings, TrainingLoop
from smt_ray.training.loss import SupervisedLoss
from smt_ray.training.metrics_log import MetricsLog
from smt_ray.training.recompute import recompute_activations
from smt_ray.training.state import load_state, save_state

PROGRESS = "training"
_PREFIX = "model."  # of the base model's names inside SupervisedLoss


def train_worker(job: dict[str, Any]) -> dict[str, Any]:
    """Trains on this rank and, on rank 0, writes the adapter.

    Bad input and diverged losses come back as a value: raised, Ray Train would try again.

    Args:
        job: Plain values, made by :func:`smt_ray.stages.training.training_job`, and the
            board's handle.
    """
    try:
        return TrainingRank(job).run()
    except UserError as error:
        return {"user_error": (error.field, error.rule, error.got, error.fix)}


class TrainingRank:
    """What one rank does, from rows to the adapter.

    Args:
        job: See :func:`train_worker`.
    """

    task = PROGRESS  # what the board calls it

    def __init__(self, job: dict[str, Any]) -> None:
        self.job, self.board = job, job["board"]
        self.rank = ray.train.get_context().get_world_rank()
        self.storage = Storage(job["storage"])
        torch.set_num_threads(job["num_threads"])
        self.device = ray.train.torch.get_device()
        with large_imports():
            import_transformers()
            import_deepspeed(self.device)
        self.training, self.validation = self._load_tokens()
        self.method = self._make_method()
        self.model, self.engine = self._build()
        asked = job["loop"]["batching"]
        chosen = choose_mode(self.model, asked, training=True)
        self.batching, self.reason = chosen.mode, chosen.fallback

    def run(self) -> dict[str, Any]:
        """Trains from where it was left to the end; what it ended with and ran on."""
        start = self._resume()
        self.log = MetricsLog(self.storage, self.job["metrics"], start) if self.rank == 0 else None
        if self.rank == 0:
            self.best = BestCheckpoint(self.storage, self.job["best_checkpoint"])
            announce(self.board, self.task, 0)
        try:
            metrics = self._loop().run(start)
        finally:
            if self.log:
                self.log.flush()  # a diverged training's last steps are worth reading too
        exported = self.engine.export_parameters(keep=self.rank == 0)
        parameters = {name.removeprefix(_PREFIX): value for name, value in exported.items()}
        self._save(parameters)
        return {
            "metrics": self.log.latest if self.log else metrics,
            "resumed_from": start,
            "trainable": self.counts.summary(),
            "optimizer": self.engine.optimizer_name,
            "device": self._device_name(),
            "kernel": attention_kernel(self.batching, self.job["model"]["attn_implementation"]),
            "batching": f"{self.batching}, {self.job['loop']['max_tokens']} tokens",
            "batching_fallback": self.reason,
        }

    def _load_tokens(self) -> tuple[EncodedRows, EncodedRows | None]:
        with self.storage.local(self.job["tokens"]) as path:
            training = load_tokens(path, "training")
            assert training is not None
            return training, load_tokens(path, "validation")

    def _make_method(self) -> Method:
        name, settings = self.job["method"], self.job["method_settings"]
        if "selection" not in settings:
            return make_method(name, settings)
        with self.storage.local(settings["selection"]) as file:
            return make_method(name, {**settings, "selection": file})

    def _build(self) -> tuple[torch.nn.Module, Engine]:
        zero_stage = self.job["engine"]["zero_stage"]
        # Under ZeRO-3 the engine spreads the weights itself, from the CPU.
        model = load_model(self.job["model"], "cpu" if zero_stage == 3 else self.device)
        self._prepare(model, zero_stage)
        self.counts = self.method.count(model)
        if self.job["activation_checkpointing"]:
            recompute_activations(model)
        engine = Engine(
            SupervisedLoss(model),
            EngineSettings(**self.job["engine"]),
            device=self.device,
            refresh=lambda: self.method.refresh(model),
        )
        engine.train()
        return model, engine

    def _prepare(self, model: torch.nn.Module, zero_stage: int) -> None:
        self.method.prepare(model, zero_stage=zero_stage)

    def _resume(self) -> int:
        checkpoint = ray.train.get_checkpoint()
        if checkpoint is None:
            return 0
        with checkpoint.as_directory() as directory:
            state, num_steps = load_state(Path(directory))
        self._import_state(state, num_steps)
        return num_steps

    def _import_state(self, state: dict[str, torch.Tensor], num_steps: int) -> None:
        self.engine.import_state(state, num_steps)

    def _export_state(self) -> dict[str, torch.Tensor]:
        """What a checkpoint keeps, on rank 0; every rank calls it."""
        return self.engine.export_state(keep=self.rank == 0)

    def _loop(self) -> TrainingLoop:
        plan = StepPlan(len(self.training), self.job["batch_size"], self.job["seed"])
        return TrainingLoop(
            self.engine,
            self.training,
            self.validation,
            plan,
            LoopSettings(**{**self.job["loop"], "batching": self.batching}),
            Callbacks(self._record, self._checkpoint, self._preempted),
        )

    def _record(self, done: int, metrics: Mapping[str, float]) -> None:
        assert self.log is not None
        self.board.update.remote(self.task, 0, done, f"loss {metrics['train/loss']:.3f}")
        if sent := self.log.add(done, metrics):
            self.board.records.remote(sent)

    def _checkpoint(self, done: int, metrics: Mapping[str, float]) -> None:
        state = self._export_state()
        with scratch_folder() as scratch:
            checkpoint = None
            if self.rank == 0:
                assert self.log is not None
                if sent := self.log.flush():
                    self.board.records.remote(sent)
                save_state(scratch, state, done)
                self.best.offer(scratch, done, metrics.get(VALIDATION_LOSS))
                checkpoint = ray.train.Checkpoint.from_directory(scratch)
            ray.train.report(
                {"step": done, "num_steps": self.job["loop"]["num_steps"], **metrics},
                checkpoint,
                checkpoint_dir_name=f"step-{done:07d}",
            )

    def _preempted(self) -> bool:
        """Whether a node of any rank is being drained: rank 0's word, which Ray hands to all."""
        return ray.train.get_preemption_info() is not None

    def _save(self, parameters: Mapping[str, torch.Tensor]) -> None:
        """Writes the adapter.

        Args:
            parameters: By the model's own names, whole on rank 0; the others have none.
        """
        if self.rank != 0:
            return
        with scratch_folder() as scratch:
            self.method.save(self.model, parameters, scratch)
            self._put_folder(scratch, self.job["adapter"])

    def _put_folder(self, folder: Path, place: str) -> None:
        for file in sorted(os.listdir(folder)):
            self.storage.put_file(folder / file, f"{place}/{file}")

    def _device_name(self) -> str:
        if self.device.type == "cuda":
            return torch.cuda.get_device_name(self.device)
        number = torch.get_num_threads()
        return f"cpu ({number} thread{'s' if number > 1 else ''})"
