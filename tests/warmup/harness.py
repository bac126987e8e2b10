"""One rank of a gloo group, which does the work of a warm-up with ``mode: trained``.

Imports take ten seconds, so one process makes all measurements of a rank. It is started as
``harness.py FOLDER RANK NUM_RANKS PORT``. The folder holds model/ and tokens.safetensors; it gets
the tensors and facts that test_trained.py compares.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import save_file

from smt_ray.config.model import ModelConfig
from smt_ray.data.encoding.stored import load_tokens
from smt_ray.methods.full import FullMethod
from smt_ray.models.inspect import find_eligible
from smt_ray.models.load import load_model
from smt_ray.models.save import save_model
from smt_ray.probe.probe import probe_skeleton
from smt_ray.training.assembly import RankTraining, TrainingSettings
from smt_ray.training.engine_settings import EngineSettings
from smt_ray.training.loop import Callbacks, LoopSettings
from smt_ray.warmup.gradient_sums import GradientSums

NUM_STEPS, HALF, BATCH_SIZE, SEED = 4, 2, 7, 3
TARGETS = ("q_proj", "k_proj", "v_proj")
# The gradients of this model are around 1e-2. With this large epsilon Adam's first steps depend on
# them smoothly. Otherwise each would be plus or minus the rate, even for rounding errors.
ADAM = {"betas": (0.9, 0.95), "epsilon": 1e-3, "weight_decay": 0.1, "max_grad_norm": 0.5}
RATE, RAMP = 1e-2, 2
FOUR_ROWS = 80  # tokens of a micro-batch; rows have at most 19
CASES = [(0, "float32"), (1, "float32"), (2, "float32"), (3, "float32")]
CASES += [(0, "bfloat16"), (2, "bfloat16"), (3, "bfloat16")]
EVERYWHERE = {"zero_optimization": {"stage3_param_persistence_threshold": 0}}


class Warmup:
    """A training of the whole model, and the sums of its gradients."""

    def __init__(
        self, folder: Path, stage: int, dtype: str, accumulate_on: str, *, recompute: bool = False
    ) -> None:
        self.base = ModelConfig(path=str(folder / "model"), dtype=dtype)
        self.accumulate_on, self.device = accumulate_on, torch.device("cpu")
        self.norms: list[float] = []
        self.states: dict[int, Any] = {}
        encoded = load_tokens(folder / "tokens.safetensors", "training")
        assert encoded is not None
        extra = EVERYWHERE if stage == 3 else {}
        settings = TrainingSettings(
            EngineSettings(zero_stage=stage, dtype=dtype, extra=extra, **ADAM),
            LoopSettings(
                num_steps=NUM_STEPS, seed=SEED, learning_rate=RATE, lr_schedule="constant",
                lr_warmup_steps=RAMP, batching="padded" if stage == 1 else "prefix_packed",
                max_tokens=FOUR_ROWS, train_on_inputs=False, log_every_steps=1,
                validate_every_steps=None, checkpoint_every_steps=HALF, section="warmup",
            ),
            BATCH_SIZE,
            activation_checkpointing=recompute,
        )  # fmt: skip
        self.training = RankTraining(
            model := load_model(self.base),
            FullMethod(),
            encoded,
            None,
            settings,
            probe_skeleton(model),
            Callbacks(
                lambda _, metrics: self.norms.append(metrics["train/grad_norm"]), self._checkpoint
            ),
            self.device,
            after_prepare=self._watch,
        )

    def _watch(self, model: torch.nn.Module) -> None:
        self.sums = GradientSums(find_eligible(model, TARGETS), self.accumulate_on, self.device)

    def _checkpoint(self, done: int, _metrics: Any) -> None:
        # A checkpoint is written by rank 0 and read by all ranks; here every rank keeps that state.
        sums = self.sums.export(keep=True)
        for value in sums.values():
            dist.broadcast(value, src=0)
        self.states[done] = (self.training.engine.export_state(), sums)

    def results(self) -> dict[str, torch.Tensor]:
        """Parameters and sums at the end, by the model's names."""
        return {
            **self.training.export_parameters(),
            **{f"sum/{n}": value for n, value in self.sums.export(keep=True).items()},
        }


def measure(folder: Path, stage: int, dtype: str) -> dict[str, Any]:
    """Trains without interruption, and from half-way with sums elsewhere and recomputation."""
    whole = Warmup(folder, stage, dtype, "device")
    whole.training.loop.run()
    results = whole.results()
    again = whole.results()  # a second export must not add the sums twice
    resumed = Warmup(folder, stage, dtype, "host", recompute=True)
    state, sums = whole.states[HALF]
    resumed.training.engine.import_state(dict(state), HALF)
    resumed.sums.restore(sums)
    resumed.training.loop.run(HALF)
    other = resumed.results()
    if dist.get_rank() != 0:  # only rank 0 has the total
        return {}
    name = f"{dist.get_world_size()}-{stage}-{dtype}"
    save_file(results, folder / f"{name}.safetensors")
    if name == "2-3-bfloat16":
        parameters = {n: v for n, v in results.items() if not n.startswith("sum/")}
        save_model(whole.base, parameters, folder / "kept")
    return {
        "again": all(torch.equal(again[n], results[n]) for n in results),
        "resumed": max(
            float((other[n] - results[n]).norm() / results[n].norm().clamp(min=1e-12))
            for n in results
        ),
        "norms": whole.norms,
    }


def main(folder: str, rank: str, num_ranks: str, port: str) -> None:
    """Joins the group and makes the measurements."""
    os.environ.update(
        RANK=rank, WORLD_SIZE=num_ranks, LOCAL_RANK=rank, MASTER_ADDR="127.0.0.1", MASTER_PORT=port
    )
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    place = Path(folder)
    facts = {f"{stage}-{dtype}": measure(place, stage, dtype) for stage, dtype in CASES}
    if rank == "0":
        (place / f"{num_ranks}.json").write_text(json.dumps(facts, indent=1))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
