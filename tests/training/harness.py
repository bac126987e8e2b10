"""One rank of a gloo group that measures what the claims of test_ranks.py are about.

Imports take ten seconds, so a process does all its measurements in one go. It is started as
``harness.py FOLDER PART RANK NUM_RANKS PORT``; the folder holds model/, tokens.safetensors and
selection.safetensors, and gets tensors (safetensors) and facts (json), named by their contents.
Parts of one folder run side by side: where one needs another's checkpoint, it waits for it.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from safetensors.torch import save_file

from smt_ray.config.model_and_data import ModelConfig
from smt_ray.data.batches import StepPlan, step_micro_batches
from smt_ray.data.cache import load_tokens
from smt_ray.errors import UserError
from smt_ray.methods.full import FullMethod
from smt_ray.methods.lora import LoraMethod, LoraSettings
from smt_ray.methods.protocol import Method
from smt_ray.methods.registry import find_method
from smt_ray.methods.smt import SmtMethod
from smt_ray.models.load import load_model
from smt_ray.smt.model import sparse_modules
from smt_ray.smt.selection import Selection
from smt_ray.training import loop as loop_module
from smt_ray.training.assembly import RankTraining, TrainingSettings
from smt_ray.training.engine_settings import EngineSettings
from smt_ray.training.loop import Callbacks, LoopSettings
from smt_ray.training.loss import SupervisedLoss
from smt_ray.training.state import load_state, save_state

NUM_STEPS, HALF, BATCH_SIZE = 6, 3, 7
ONE_ROW, FOUR_ROWS = 1, 80  # tokens of a micro-batch; rows have at most 19
METHODS = ("smt", "lora", "dora", "full")
LORA = LoraSettings(4, 8, 0.0, ("q_proj", "v_proj", "down_proj"), use_dora=False, seed=3)
EVERYWHERE = {"zero_optimization": {"stage3_param_persistence_threshold": 0}}


class Rank:
    """One process's share of the measurements."""

    def __init__(self, folder: Path, rank: int, num_ranks: int) -> None:
        self.folder, self.rank, self.num_ranks = folder, rank, num_ranks
        self.training = load_tokens(folder / "tokens.safetensors", "training")
        self.validation = load_tokens(folder / "tokens.safetensors", "validation")
        self.facts: dict[str, Any] = {}
        self.last_loss: float | None = None

    def trained_by(
        self,
        stage: int,
        *,
        method_name: str = "smt",
        dtype: str = "float32",
        dropout: float = 0.0,
        clip: float = 0.0,
        start: Path | None = None,
        max_tokens: int = FOUR_ROWS,
        num_steps: int = NUM_STEPS,
        recompute: bool = False,
        prepare: Callable[[Any], None] = lambda _: None,
        preempted: Callable[[], bool] | None = None,
    ) -> Trained:
        """Trains, from a checkpoint if one is given; ``prepare`` changes the prepared model."""
        model = self.base(dtype)
        for layer in model.model.layers:
            layer.self_attn.attention_dropout = dropout
        run = Trained()
        settings = TrainingSettings(
            EngineSettings(
                zero_stage=stage,
                dtype=dtype,
                betas=(0.9, 0.999),
                epsilon=1e-8,
                weight_decay=0.1,
                max_grad_norm=clip,
                extra=EVERYWHERE if stage == 3 else {},
            ),
            LoopSettings(
                num_steps=num_steps,
                seed=3,
                learning_rate=1e-2,
                lr_schedule="linear",
                lr_warmup_steps=2,
                batching="prefix_packed",
                max_tokens=max_tokens,
                train_on_inputs=False,
                log_every_steps=1,
                validate_every_steps=None,
                checkpoint_every_steps=None if preempted else HALF if num_steps > 1 else 1,
            ),
            BATCH_SIZE,
            activation_checkpointing=recompute,
        )
        callbacks = Callbacks(run.record, run.checkpoint)
        if method_name == "smt":
            run.remember(model)  # the dense weights: afterwards the blocks are parameters

        def after_prepare(model: Any) -> None:
            prepare(model)
            if method_name != "smt":
                run.remember(model)

        run.training = RankTraining(
            model,
            self.method(method_name, dropout),
            self.training,
            self.validation,
            settings,
            replace(callbacks, preempted=preempted) if preempted else callbacks,
            torch.device("cpu"),
            after_prepare=after_prepare,
        )
        run.go(start)
        return run

    def method(self, name: str, dropout: float) -> Method:
        """A method that is not prepared yet."""
        if name == "smt":
            return SmtMethod(Selection.load(self.folder / "selection.safetensors"))
        if name == "full":
            return FullMethod()
        return LoraMethod(replace(LORA, dropout=dropout, use_dora=name == "dora"))

    def base(self, dtype: str) -> Any:
        """The base model."""
        return load_model(ModelConfig(path=str(self.folder / "model"), dtype=dtype))

    def keep(self, name: str, state: dict[str, torch.Tensor], num_steps: int) -> Path:
        """Writes a checkpoint of rank 0 for whoever waits for it."""
        place = self.folder / "states" / name
        if self.rank == 0:
            place.mkdir(parents=True)
            save_state(place, state, num_steps)
            (place / "ready").touch()
        return place

    def wait_for(self, name: str) -> Path:
        """Another part's checkpoint."""
        place, deadline = self.folder / "states" / name, time.monotonic() + 400
        while not (place / "ready").exists():
            assert time.monotonic() < deadline, f"nobody wrote {name}"
            time.sleep(0.1)
        return place

    def finish(self, part: str) -> None:
        """Writes this rank's facts."""
        text = json.dumps(self.facts, indent=1)
        (self.folder / f"{part}-{self.rank}.json").write_text(text)


class Trained:
    """A training and what was seen of it."""

    training: RankTraining

    def __init__(self) -> None:
        self.original: dict[str, torch.Tensor] = {}
        self.states: dict[int, dict[str, torch.Tensor]] = {}
        self.metrics: dict[int, dict[str, float]] = {}
        self.error: UserError | None = None

    def remember(self, model: Any) -> None:
        """Keeps the parameters from before the training."""
        self.original = {n: p.detach().clone() for n, p in model.named_parameters()}

    def record(self, done: int, metrics: Any) -> None:
        """Keeps what rank 0 records."""
        self.metrics[done] = dict(metrics)

    def checkpoint(self, done: int, _metrics: Any) -> None:
        """Keeps the state, as a checkpoint would."""
        assert done not in self.states
        self.states[done] = self.training.engine.export_state()

    def go(self, start: Path | None) -> None:
        """Runs from a checkpoint or the beginning to the end, or to a user's error."""
        done = 0
        if start is not None:
            state, done = load_state(start)
            self.training.engine.import_state(state, done)
        try:
            self.training.loop.run(done)
        except UserError as error:
            self.error = error

    def first_gradient(self) -> dict[str, torch.Tensor]:
        """Of the first step: Adam's first moment is (1 - beta1) x gradient."""
        return {
            name.removesuffix("/exp_avg"): value / (1 - 0.9)
            for name, value in self.states[1].items()
            if name.endswith("/exp_avg")
        }

    def losses(self) -> list[float]:
        """Training losses by step."""
        return [m["train/loss"] for _, m in sorted(self.metrics.items())]

    def trainables(self, done: int) -> dict[str, torch.Tensor]:
        """The trained parameters by the model's names, as they were after a step."""
        return {
            name.removeprefix("model.").removesuffix("/param"): value
            for name, value in self.states[done].items()
            if name.endswith("/param")
        }

    def changes(self) -> dict[str, bool]:
        """Whether all that is frozen was kept, and all that is trained changed."""
        import deepspeed

        trained, kept = self.trainables(NUM_STEPS), True
        for name, before in self.original.items():
            if name not in trained:
                parameter = self.training.model.get_parameter(name)
                with deepspeed.zero.GatheredParameters(
                    [parameter], enabled=self.training.engine.zero_stage == 3
                ):
                    kept &= torch.equal(parameter, before)
        changed = all(not torch.equal(v, self.original[n].float()) for n, v in trained.items())
        return {"kept": kept, "changed": changed}

    def unselected(self) -> dict[str, bool]:
        """Whether anything but chosen blocks changed, and whether the blocks did."""
        import deepspeed

        layers = sparse_modules(self.training.model)
        sparse = {f"{name}.weight": layer for name, layer in layers.items()}
        kept, changed = True, True
        for name, before in self.original.items():
            parameter = self.training.model.get_parameter(name)
            with deepspeed.zero.GatheredParameters(
                [parameter], enabled=self.training.engine.zero_stage == 3
            ):
                now = parameter.detach().clone()
            chosen = torch.zeros(before.shape, dtype=torch.bool)
            if layer := sparse.get(name):
                size = layer.block_size
                for row, col in layer.indices.tolist():
                    chosen[row * size : (row + 1) * size, col * size : (col + 1) * size] = True
            kept &= torch.equal(now[~chosen], before[~chosen])
        for name, layer in layers.items():
            moved = self.states[NUM_STEPS][f"model.{name}.blocks/param"]
            changed &= not torch.equal(moved, layer.original_blocks.float())
        return {"kept": kept, "changed": changed}


def pair(rank: Rank) -> None:
    """Two ranks: all ZeRO stages."""
    for stage in (0, 2, 3):
        _gradients(rank, stage)
        _recomputed(rank, stage)
    rank.facts["loss-without-dropout"] = rank.last_loss
    for method in METHODS[1:]:
        for stage in (2, 3):
            _gradients_of(rank, stage, method)
    for method in METHODS:
        _cross(rank, method, stage=2, mine="two", theirs="one")
    _resume(rank, 1, "float32", "smt")
    for method, stage, dtype in itertools.product(METHODS, (0, 2, 3), ("float32", "bfloat16")):
        _resume(rank, stage, dtype, method)
    for method in ("lora", "dora"):
        _sum_at_layers(rank, method)
    _diverge(rank)
    _preempt(rank, 2)
    _preempt(rank, 3)


def single(rank: Rank) -> None:
    """One rank: what two are compared with."""
    _gradients(rank, 0)
    _resume(rank, 2, "float32", "smt")
    for method in METHODS:
        _cross(rank, method, stage=0, mine="one", theirs="two")


def _gradients(rank: Rank, stage: int) -> None:
    """The first step's gradient of smt."""
    for max_tokens in (ONE_ROW, FOUR_ROWS):
        run = rank.trained_by(stage, max_tokens=max_tokens, num_steps=1)
        rank.last_loss = run.losses()[0] if rank.rank == 0 else None
        name = f"gradient-{rank.num_ranks}-{stage}-{max_tokens}"
        if rank.rank == 0:
            save_file(run.first_gradient(), rank.folder / f"{name}.safetensors")
        batches = step_micro_batches(
            rank.training, StepPlan(len(rank.training), BATCH_SIZE, 3).rows(0),
            mode="prefix_packed", max_tokens=max_tokens, train_on_inputs=False,
            rank=rank.rank, num_ranks=rank.num_ranks,
        )  # fmt: skip
        rank.facts[name] = {
            "rows": [_num_rows(b) if b.weights.any() else 0 for b in batches],
            "norm": run.metrics[1]["train/grad_norm"] if rank.rank == 0 else None,
        }


def _recomputed(rank: Rank, stage: int) -> None:
    """The first step's gradient of smt, with activations computed anew in backward."""
    run = rank.trained_by(stage, num_steps=1, recompute=True)
    if rank.rank == 0:
        save_file(run.first_gradient(), rank.folder / f"recomputed-{stage}.safetensors")


def _num_rows(batch: Any) -> int:
    inner = {segment.parent for segment in batch.rows.segments} - {-1}
    return len(batch.rows.segments) - len(inner)


def _gradients_of(rank: Rank, stage: int, method: str) -> None:
    """The first step's gradient of another method, with factors that are not zero."""
    initial: dict[str, torch.Tensor] = {}

    def fill(model: Any) -> None:
        generator = torch.Generator().manual_seed(7)
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                if "lora_" in name and "magnitude" not in name:
                    parameter.data.normal_(std=0.1, generator=generator)
                initial[name] = parameter.detach().clone()

    run = rank.trained_by(stage, method_name=method, num_steps=1, prepare=fill)
    if rank.rank == 0:
        save_file(run.first_gradient(), rank.folder / f"gradient-{method}-{stage}.safetensors")
        save_file(initial, rank.folder / f"initial-{method}-{stage}.safetensors")


def _resume(rank: Rank, stage: int, dtype: str, method: str) -> None:
    """Uninterrupted, and from a checkpoint half-way; with dropout, decay, clipping, schedule."""
    options: dict[str, Any] = {
        "method_name": method, "dtype": dtype, "dropout": 0.2, "clip": 0.5
    }  # fmt: skip
    whole = rank.trained_by(stage, **options)
    name = f"{method}-{stage}-{dtype}"
    place = rank.keep(f"{rank.num_ranks}-{name}", whole.states[HALF], HALF)
    dist.barrier()
    resumed = rank.trained_by(stage, start=place, **options)
    a, b = whole.states[NUM_STEPS], resumed.states[NUM_STEPS]
    rank.facts[f"resume-{name}"] = {
        "equal": a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a),
        "difference": max(float((a[name] - b[name]).abs().max()) for name in a),
        "losses": whole.losses(),
        "resumed_losses": resumed.losses(),
        "norms": [m["train/grad_norm"] for m in whole.metrics.values()],
        **(whole.unselected() if method == "smt" else whole.changes()),
    }
    _adapter(rank, whole, name, dtype)


def _sum_at_layers(rank: Rank, method: str) -> None:
    """Bfloat16 at stage 2, the input's gradients added up per layer first, as stage 3 does it."""

    def stand_between(model: Any) -> None:
        for layer in model.modules():
            if hasattr(layer, "lora_A"):
                layer.register_forward_pre_hook(lambda _, inputs: (inputs[0].view_as(inputs[0]),))

    run = rank.trained_by(
        2, method_name=method, dtype="bfloat16", dropout=0.2, clip=0.5, prepare=stand_between
    )
    rank.facts[f"summed-at-layers-{method}"] = run.losses()


def _adapter(rank: Rank, run: Trained, name: str, dtype: str) -> None:
    """What the engine says of held-out rows; what the adapter on its base says, and merged."""
    losses = {"engine": run.training.loop.validate()["validation/loss"]}
    parameters = run.training.export_parameters(keep=rank.rank == 0)
    if rank.rank != 0:
        rank.facts[f"adapter-{name}"] = {"num_exported": len(parameters)}
        return
    place = rank.folder / f"adapter-{rank.num_ranks}-{name}"
    place.mkdir()
    run.training.method.save(run.training.model, parameters, place)
    plain, method = rank.base(dtype), find_method(place)
    losses["base"], _ = _held_out(rank, plain)
    method.load(plain, place)
    losses["adapter"], tokens = _held_out(rank, plain)
    method.merge(plain)
    losses["merged"], same = _held_out(rank, plain)
    agreement = float((tokens == same).float().mean())
    rank.facts[f"adapter-{name}"] = {**losses, "agreement": agreement}


def _held_out(rank: Rank, model: Any) -> tuple[float, torch.Tensor]:
    """The loss over held-out rows, and the most likely token at every position."""
    batches = step_micro_batches(
        rank.validation,
        range(len(rank.validation)),
        mode="padded",
        max_tokens=10_000,
        train_on_inputs=False,
    )
    ids = rank.validation.input_ids.long()[None]
    with torch.no_grad():
        tokens = model(input_ids=ids[:, : model.config.max_position_embeddings]).logits.argmax(-1)
        hooks = SupervisedLoss(model)
        return float(sum(hooks(batch) for batch in batches)), tokens


def _diverge(rank: Rank) -> None:
    """A loss, and a gradient, that is not finite on one rank alone."""

    def poison(model: Any) -> None:  # the token that one row has; the head keeps its own weight
        weight = model.model.embed_tokens.weight.detach().clone()
        weight[-1] = math.nan
        model.model.embed_tokens.weight = torch.nn.Parameter(weight, requires_grad=False)

    def explode(model: Any) -> None:
        if rank.rank == 1:
            for layer in sparse_modules(model).values():
                layer.blocks.register_hook(lambda gradient: gradient * math.inf)

    cases = [("loss", 2, "float32", poison)]
    cases += [("gradient", stage, "float32", explode) for stage in (0, 2, 3)]
    cases += [("gradient", 2, "bfloat16", explode)]
    for what, stage, dtype, prepare in cases:
        run = rank.trained_by(stage, dtype=dtype, prepare=prepare)
        rank.facts[f"diverge-{what}-{stage}-{dtype}"] = {
            "error": str(run.error), "field": run.error and run.error.field,
            "recorded": sorted(run.metrics), "checkpoints": sorted(run.states),
        }  # fmt: skip


def _preempt(rank: Rank, stage: int) -> None:
    """Both ranks are to go, and by rank 1's own clock it would be time to ask at every step."""
    whole, asked = rank.trained_by(stage), []

    def preempted() -> bool:
        asked.append(dist.get_rank())
        return True

    # Looked at twice a step, rank 0's clock is beyond five seconds as step 3 begins.
    clock = itertools.count(0.0, 1.5 if rank.rank == 0 else 60.0)
    with mock.patch.object(loop_module, "time", SimpleNamespace(monotonic=lambda: next(clock))):
        run = rank.trained_by(stage, preempted=preempted)
    found, expected = run.states[HALF], whole.states[HALF]
    rank.facts[f"preempt-{stage}"] = {
        "asked": len(asked),
        "checkpoints": sorted(run.states),
        "equal": found.keys() == expected.keys()
        and all(torch.equal(found[name], expected[name]) for name in expected),
        "undisturbed": all(
            torch.equal(run.states[NUM_STEPS][name], value)
            for name, value in whole.states[NUM_STEPS].items()
        ),
    }


def _cross(rank: Rank, method: str, *, stage: int, mine: str, theirs: str) -> None:
    """Goes on from the other part's checkpoint, to where that part went."""
    whole = rank.trained_by(stage, method_name=method)
    rank.keep(f"{method}-{mine}-half", whole.states[HALF], HALF)
    rank.keep(f"{method}-{mine}-end", whole.states[NUM_STEPS], NUM_STEPS)
    theirs = f"{method}-{theirs}"
    resumed = rank.trained_by(stage, method_name=method, start=rank.wait_for(f"{theirs}-half"))
    expected, _ = load_state(rank.wait_for(f"{theirs}-end"))
    found = resumed.states[NUM_STEPS]
    rank.facts[f"cross-{method}"] = {
        key: max(float((found[n] - expected[n]).abs().max()) for n in found if n.endswith(key))
        for key in ("param", "exp_avg", "exp_avg_sq")
    }


def main(folder: str, part: str, rank: str, num_ranks: str, port: str) -> None:
    """Joins the group and measures."""
    os.environ.update(
        RANK=rank, WORLD_SIZE=num_ranks, LOCAL_RANK=rank, MASTER_ADDR="127.0.0.1", MASTER_PORT=port
    )
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    this = Rank(Path(folder), int(rank), int(num_ranks))
    {"pair": pair, "single": single}[part](this)
    dist.barrier()
    this.finish(part)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
