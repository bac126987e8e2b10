"""One rank of a warm-up on ranks, for the claims of test_ranks.py.

It is started as ``rank_harness.py FOLDER PART RANK NUM_RANKS PORT``. The folder holds model/ and
tokens.safetensors; it gets the table of each case (safetensors) and facts (json).
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import save_file

from smt_ray.config.model import ModelConfig
from smt_ray.data.batches import StepPlan
from smt_ray.data.encoding.stored import load_tokens
from smt_ray.errors import UserError
from smt_ray.models.load import load_model
from smt_ray.probe.probe import probe_skeleton
from smt_ray.training.engine_settings import EngineSettings
from smt_ray.warmup.ranks import RankWarmup, RankWarmupSettings
from tests.ranks import set_rank

NUM_STEPS, BATCH_SIZE, SEED, BLOCK_SIZE = 5, 7, 3, 8
MODULES = tuple(f"model.layers.{n}.self_attn.{p}_proj" for n in (0, 1) for p in "qkv")
CASES: dict[str, dict[str, Any]] = {
    "whole": {"stage": 0},
    "partitioned": {"stage": 3},
    "partitioned bf16": {"stage": 3, "dtype": "bfloat16"},
    "recomputed": {"stage": 3, "activation_checkpointing": True},
    "steps": {"stage": 3, "per_step": True, "accumulate_on": "host"},
    "padded": {"stage": 3, "batching": "padded"},
}


class Warmups:
    """The warm-ups of one rank."""

    def __init__(self, folder: Path, rank: int, num_ranks: int) -> None:
        self.folder, self.rank, self.num_ranks = folder, rank, num_ranks
        self.facts: dict[str, Any] = {}

    def make(
        self, stage: int, dtype: str = "float32", poison: bool = False, **changes: Any
    ) -> RankWarmup:
        """A warm-up that has not begun."""
        model: Any = load_model(ModelConfig(path=str(self.folder / "model"), dtype=dtype))
        if poison:  # a token that only one row has; the head keeps its weight
            weight = model.model.embed_tokens.weight.detach().clone()
            weight[-1] = torch.nan
            model.model.embed_tokens.weight = torch.nn.Parameter(weight)
        encoded = load_tokens(self.folder / "tokens.safetensors", "training")
        assert encoded is not None
        everywhere = {"zero_optimization": {"stage3_param_persistence_threshold": 0}}
        settings = RankWarmupSettings(
            modules=MODULES, block_size=BLOCK_SIZE, per_step=False, num_steps=NUM_STEPS,
            batching="prefix_packed", max_tokens=80, train_on_inputs=False,
            accumulate_on="device", activation_checkpointing=False,
            engine=EngineSettings(
                zero_stage=stage, dtype=dtype, betas=(0.9, 0.999), epsilon=1e-8, weight_decay=0.0,
                max_grad_norm=0.0, extra=everywhere if stage == 3 else {},
            ),
        )  # fmt: skip
        plan = StepPlan(len(encoded), BATCH_SIZE, SEED)
        settings = replace(settings, **changes)
        probe = probe_skeleton(model)
        return RankWarmup(model, encoded, plan, settings, probe, torch.device("cpu"))

    def finish(self, name: str, warmup: RankWarmup) -> None:
        """Writes the table of a finished warm-up, and the weights and sums that owners kept."""
        kept: list[str] = []
        rows = warmup.statistics(lambda module, _gradient, _weight: kept.append(module))
        table = {row.module: torch.tensor(row.statistics) for row in rows}
        save_file(table, self.folder / f"{name}-{self.num_ranks}-{self.rank}.safetensors")
        self.facts[name] = {
            "losses": warmup.losses,
            "kept": kept,
            "order": [r.module for r in rows],
        }


def measure(this: Warmups) -> None:
    """All cases, an interrupted one, and one whose loss is not finite."""
    for name, options in CASES.items():
        warmup = this.make(**options)
        rounds = list(warmup.run())
        this.finish(name, warmup)
        this.facts[name]["rounds"] = rounds
    place = this.folder / f"checkpoint-{this.num_ranks}"
    if this.rank == 0:
        place.mkdir()
    dist.barrier()
    steps = this.make(**CASES["steps"])
    rounds = steps.run()
    while next(rounds) < 2:
        pass
    steps.save(place)
    list(rounds)
    this.finish("saved", steps)
    resumed = this.make(**CASES["steps"])
    dist.barrier()
    resumed.load(place)
    this.facts["resumed from"] = len(resumed.losses)
    list(resumed.run())
    this.finish("resumed", resumed)
    try:
        list(this.make(3, poison=True).run())
    except UserError as error:
        this.facts["error"] = str(error)


def resume_others(this: Warmups) -> None:
    """Resumes from the checkpoint that two ranks wrote."""
    warmup = this.make(**CASES["steps"])
    warmup.load(this.folder / "checkpoint-2")
    list(warmup.run())
    this.finish("crossed", warmup)


def main(folder: str, part: str, rank: str, num_ranks: str, port: str) -> None:
    """Joins the group and makes the measurements."""
    set_rank(rank, num_ranks, port)
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    this = Warmups(Path(folder), int(rank), int(num_ranks))
    {"pair": measure, "single": resume_others}[part](this)
    (this.folder / f"{part}-{rank}.json").write_text(json.dumps(this.facts))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
