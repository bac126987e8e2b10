"""The warm-up that trains (``mode: trained``): full fine-tuning steps whose weights are kept.

It is a training of ``method: full`` through Ray Train, with ranks, checkpoints and lost workers,
that leaves a score table and a model rather than an adapter: blocks are chosen by the sum of the
gradients that its steps saw, and SMT goes on from the weights that they made.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from smt_ray.artifacts.scratch import scratch_folder
from smt_ray.cluster.resources import ProcessResources
from smt_ray.data.cache import FILE as TOKENS
from smt_ray.data.encoding import EncodedRows
from smt_ray.errors import UserError
from smt_ray.methods.blocks import Preflight
from smt_ray.models.inspect import find_eligible
from smt_ray.models.save import save_model
from smt_ray.smt.scores import ScoreTable
from smt_ray.stages.plan import MODEL, RunPlan
from smt_ray.stages.rank import TrainingRank
from smt_ray.stages.training import fit, training_job
from smt_ray.stages.warmup import PROGRESS, TABLE
from smt_ray.warmup.gradient_sums import GradientSums, make_statistics

_SUM = "/gradient_sum"  # ends the names of sums in a checkpoint


def run_trained_warmup(
    plan: RunPlan, preflight: Preflight, resources: ProcessResources, board: Any
) -> dict[str, Any]:
    """Trains, and leaves the table, the model and the records in the warm-up's stage.

    Args:
        plan: The run's.
        preflight: Of the model.
        resources: Of one rank.
        board: The progress actor.

    Returns:
        What the stage's manifest says of it.

    Raises:
        UserError: As :func:`smt_ray.stages.training.fit` does.
    """
    config, job = plan.config, trained_warmup_job(plan, preflight, resources)
    assert plan.warmup is not None
    outcome = fit(config, job, plan.warmup, resources, board, warmup_worker)
    return {
        "mode": "trained",
        "kept_model": MODEL,
        "num_modules": len(preflight.shapes),
        "block_size": preflight.table_block_size,
        "num_steps": config.warmup.num_steps,
        "num_ranks": config.resources.num_workers,
        "zero_stage": config.deepspeed.zero_stage,
        **outcome,
    }


def trained_warmup_job(
    plan: RunPlan, preflight: Preflight, resources: ProcessResources
) -> dict[str, Any]:
    """Everything a rank needs, as plain values.

    Args:
        plan: The run's.
        preflight: Of the model.
        resources: Of one rank.
    """
    config, stage = plan.config, plan.warmup
    assert stage is not None
    job = training_job(
        config,
        stage,
        tokens=plan.tokens.path(TOKENS),
        model=plan.model,
        method={},
        num_steps=config.warmup.num_steps,
        resources=resources,
    )
    loop = {
        "section": "warmup",
        "learning_rate": config.warmup_learning_rate,
        "lr_schedule": "constant",
        "validate_every_steps": None,
    }
    return {
        **job,
        "method": "full",
        "loop": job["loop"] | loop,
        "table": stage.path(TABLE),
        "kept_model": stage.path(MODEL),
        "target_modules": config.warmup.target_modules,
        "accumulate_on": config.warmup.accumulate_on,
        "table_block_size": preflight.table_block_size,
        "num_base_parameters": preflight.num_parameters,
        "provenance": {"model": plan.identity, "warmup": stage.name, "mode": "trained"},
    }


def warmup_worker(job: dict[str, Any]) -> dict[str, Any]:
    """Trains on this rank and, on rank 0, writes the table and the model.

    Args:
        job: Plain values, made by :func:`trained_warmup_job`, and the board's handle.
    """
    try:
        return WarmupRank(job).run()
    except UserError as error:
        return {"user_error": (error.field, error.rule, error.got, error.fix)}


class WarmupRank(TrainingRank):
    """What one rank does, from rows to the table and the model."""

    task = PROGRESS

    def _load_tokens(self) -> tuple[EncodedRows, EncodedRows | None]:
        return super()._load_tokens()[0], None  # what is held out is validated by the training

    def _prepare(self, model: torch.nn.Module, zero_stage: int) -> None:
        super()._prepare(model, zero_stage)
        self.sums = GradientSums(
            find_eligible(model, self.job["target_modules"]),
            self.job["accumulate_on"],
            self.device,
        )

    def _record(self, done: int, metrics: Mapping[str, float]) -> None:
        assert self.log is not None
        named = {name.replace("train/", "warmup/"): value for name, value in metrics.items()}
        self.board.update.remote(self.task, 0, done, f"loss {named['warmup/loss']:.3f}")
        if sent := self.log.add(done, named):
            self.board.records.remote(sent)

    def _export_state(self) -> dict[str, torch.Tensor]:
        sums = self.sums.export(keep=self.rank == 0)
        return super()._export_state() | {name + _SUM: value for name, value in sums.items()}

    def _import_state(self, state: dict[str, torch.Tensor], num_steps: int) -> None:
        sums = {key: state.pop(key) for key in list(state) if key.endswith(_SUM)}
        super()._import_state(state, num_steps)
        self.sums.restore({key.removesuffix(_SUM): value for key, value in sums.items()})

    def _save(self, parameters: Mapping[str, torch.Tensor]) -> None:
        sums = self.sums.export(keep=self.rank == 0)
        if self.rank != 0:
            return
        job = self.job
        table = ScoreTable(
            block_size=job["table_block_size"],
            statistics=make_statistics(sums, parameters, job["table_block_size"]),
            num_base_parameters=job["num_base_parameters"],
            num_steps=job["loop"]["num_steps"],
            provenance=job["provenance"],
        )
        with scratch_folder() as scratch:
            table.save(scratch / TABLE)
            self.storage.put_file(scratch / TABLE, job["table"])
            save_model(job["model"], parameters, scratch / MODEL)
            self._put_folder(scratch / MODEL, job["kept_model"])
