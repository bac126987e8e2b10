"""The trained warm-up (``mode: trained``): full fine-tuning steps whose weights are kept.

It is a training of ``method: full`` through Ray Train, with ranks, checkpoints and recovery. It
leaves a score table and a model instead of an adapter: blocks are selected by the sum of the
gradients of its steps, and SMT continues from the updated weights.
"""

from __future__ import annotations

import time
from typing import Any

import ray
import torch

from smt_ray.artifacts.layout import KEPT_MODEL, RECORDS, SCORE_TABLE, TOKENS
from smt_ray.artifacts.scratch import scratch_folder
from smt_ray.artifacts.stages import Finished
from smt_ray.cluster.nodes import rank_resources
from smt_ray.data.encoding.stored import EncodedRows
from smt_ray.documents.probe import Probe
from smt_ray.documents.stages import RankOutcome, WarmupSummary
from smt_ray.methods.blocks import EligibleBlocks
from smt_ray.methods.full import FullSettings
from smt_ray.models.inspect import find_eligible
from smt_ray.models.save import save_model
from smt_ray.reporting.text.progress import progress
from smt_ray.smt.scores import ScoreTable
from smt_ray.smt.tensorfile import SavedTensors
from smt_ray.stages.checkpoints import forget_checkpoints
from smt_ray.stages.jobs import TrainedWarmupJob
from smt_ray.stages.plan import RunPlan
from smt_ray.stages.rank import TrainingRank
from smt_ray.stages.training import fit, num_training_steps, say_outcome
from smt_ray.stages.warmup_tasks import PROGRESS
from smt_ray.training.assembly import TrainingSettings
from smt_ray.training.settings import warmup_settings
from smt_ray.warmup.gradient_sums import GradientSums

_SUM = "/gradient_sum"  # ends the name of a gradient sum in a checkpoint


def make_trained_warmup(
    plan: RunPlan, blocks: EligibleBlocks, probe: Probe, board: Any
) -> Finished[WarmupSummary]:
    """Trains, and stores the score table, the updated model and the records.

    Raises:
        UserError: As :func:`smt_ray.stages.training.fit` does.
    """
    began, config, stage = time.monotonic(), plan.config, plan.warmup
    assert stage is not None
    job = TrainedWarmupJob(
        config=config,
        model=plan.model,
        method=FullSettings(),
        probe=probe,
        num_steps=config.warmup.num_steps,
        storage=plan.storage.root,
        folder=stage.folder,
        tokens=plan.tokens.path(TOKENS),
        resources=rank_resources(config),
        blocks=blocks,
        num_training_steps=num_training_steps(plan),
        provenance={"model": dict(plan.identity), "warmup": stage.name, "mode": "trained"},
    )
    with progress(PROGRESS, job.num_steps, lambda: ray.get(board.done.remote(PROGRESS))):
        outcome: RankOutcome = fit(job, stage, board, WarmupRank)
    say_outcome("warmup", outcome, config)
    summary = WarmupSummary(
        num_modules=len(blocks.shapes),
        block_size=blocks.table_block_size,
        num_steps=job.num_steps,
        kept_model=KEPT_MODEL,
        outcome=outcome,
    )
    kept = plan.storage.list_files(stage.path(KEPT_MODEL))
    files = [SCORE_TABLE, RECORDS, *(f"{KEPT_MODEL}/{file}" for file in kept)]
    finished = stage.publish(files, summary, time.monotonic() - began)
    forget_checkpoints(stage)
    return finished


class WarmupRank(TrainingRank):
    """One rank, from rows to the table and the model."""

    task = PROGRESS
    prefix = "warmup/"
    job: TrainedWarmupJob

    def _settings(self) -> TrainingSettings:
        return warmup_settings(self.job.config, self.job.num_training_steps)

    def _load_tokens(self) -> tuple[EncodedRows, EncodedRows | None]:
        return super()._load_tokens()[0], None  # the training validates the held-out rows

    def _after_prepare(self, model: torch.nn.Module) -> None:
        warmup = self.job.config.warmup
        self.sums = GradientSums(
            find_eligible(model, list(self.job.blocks.shapes)), warmup.accumulate_on, self.device
        )

    def _export_state(self) -> dict[str, torch.Tensor]:
        sums = self.sums.export(keep=self._is_first)
        return super()._export_state() | {name + _SUM: value for name, value in sums.items()}

    def _import_state(self, state: SavedTensors, num_steps: int) -> None:
        sums = {key: state[key] for key in state if key.endswith(_SUM)}
        super()._import_state(state.only(state.keys() - sums.keys()), num_steps)
        self.sums.restore({key.removesuffix(_SUM): value for key, value in sums.items()})

    def _save(self) -> None:
        parameters = self.training.export_parameters(None if self._is_first else [])
        sums = self.sums.export(keep=self._is_first)
        if not self._is_first:
            return
        blocks = self.job.blocks
        table = ScoreTable(
            block_size=blocks.table_block_size,
            statistics=self.sums.statistics(sums, parameters, blocks.table_block_size),
            num_base_parameters=blocks.num_parameters,
            num_steps=self.job.num_steps,
            provenance=dict(self.job.provenance),
        )
        with scratch_folder() as scratch:
            table.save(scratch / SCORE_TABLE)
            self.storage.put_file(scratch / SCORE_TABLE, self._place(SCORE_TABLE))
            save_model(self.job.model, parameters, scratch / KEPT_MODEL)
            self._put_folder(scratch / KEPT_MODEL, KEPT_MODEL)
