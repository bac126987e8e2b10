"""The measurements of one rank, for the claims of test_ranks.py.

Imports take ten seconds, so one process makes all measurements of a rank. It is started as
``harness.py FOLDER PART RANK NUM_RANKS PORT``. The folder holds model/, tokens.safetensors,
selection.safetensors, columns.safetensors and elements.safetensors; it gets tensors
(safetensors) and facts (json), named by their contents.
The parts of one folder run at the same time, and wait for each other's checkpoints.
"""

from __future__ import annotations

import itertools
import math
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from safetensors.torch import save_file

from smt_ray.artifacts.storage import Storage
from smt_ray.data.batches import StepPlan, step_micro_batches
from smt_ray.methods.adapters import find_method
from smt_ray.methods.full import FullSettings
from smt_ray.smt.model import sparse_modules
from smt_ray.stages.rank import TrainingRank
from smt_ray.training import engine as engine_module
from smt_ray.training import loop as loop_module
from smt_ray.training.loss.supervised import SupervisedLoss
from smt_ray.training.state import load_state, save_state, share_out
from tests.ranks import set_rank
from tests.training.rank import (
    BATCH_SIZE,
    FOUR_ROWS,
    HALF,
    IN_PLACE,
    NUM_STEPS,
    Rank,
    Trained,
)

ONE_ROW = 1  # token of a micro-batch
METHODS = ("smt", "columns", "lora", "dora", "sift", "full")


def pair(rank: Rank) -> None:
    """The measurements of two ranks, at all ZeRO stages."""
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
    for stage, dtype in itertools.product((0, 1, 2), ("float32", "bfloat16")):
        _resume_quantised(rank, stage, dtype, "nf4")
    _resume_quantised(rank, 2, "float32", "int8")
    for method in ("lora", "dora"):
        _sum_at_layers(rank, method)
    for stage in (2, 3):
        _shares(rank, stage)
    _diverge(rank)
    _preempt(rank, 2)
    _preempt(rank, 3)


def single(rank: Rank) -> None:
    """The measurements of one rank, which two are compared with."""
    _gradients(rank, 0)
    _resume(rank, 2, "float32", "smt")
    for method in METHODS:
        _cross(rank, method, stage=0, mine="one", theirs="two")


def _gradients(rank: Rank, stage: int) -> None:
    """Measures the gradient of the first step with smt."""
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
    """Measures the same gradient with activation checkpointing."""
    run = rank.trained_by(stage, num_steps=1, recompute=True)
    if rank.rank == 0:
        save_file(run.first_gradient(), rank.folder / f"recomputed-{stage}.safetensors")


def _num_rows(batch: Any) -> int:
    inner = {segment.parent for segment in batch.rows.segments} - {-1}
    return len(batch.rows.segments) - len(inner)


def _gradients_of(rank: Rank, stage: int, method: str) -> None:
    """Measures the gradient of the first step with another method, whose factors are not zero."""
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
    """Trains without interruption and from a checkpoint, with dropout, clipping and a schedule."""
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
        **(whole.unselected() if method in IN_PLACE else whole.changes()),
    }
    _adapter(rank, whole, name, dtype)


def _resume_quantised(rank: Rank, stage: int, dtype: str, kind: str) -> None:
    """The same for blocks beside a quantised base."""
    options: dict[str, Any] = {"dtype": dtype, "quantization": kind, "dropout": 0.2, "clip": 0.5}
    whole = rank.trained_by(stage, **options)
    name = f"{kind}-{stage}-{dtype}"
    place = rank.keep(f"{rank.num_ranks}-{name}", whole.states[HALF], HALF)
    dist.barrier()
    resumed = rank.trained_by(stage, start=place, **options)
    a, b = whole.states[NUM_STEPS], resumed.states[NUM_STEPS]
    rank.facts[f"quantised-{name}"] = {
        "trained": sorted(a),
        "equal": a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a),
        "losses": whole.losses() if rank.rank == 0 else None,
    }


def _shares(rank: Rank, stage: int) -> None:
    """Saves the state of a large training, of which each rank writes a share."""
    divide = partial(share_out, smallest=1)
    with mock.patch.object(engine_module, "share_out", divide):
        run = rank.trained_by(stage, method_name="full", num_steps=1)
    engine, place = run.training.engine, rank.folder / f"shares-{stage}"
    place.mkdir(exist_ok=True)
    own = engine.export_state(engine.own_share())
    save_state(place, own, 1, rank.rank, len(engine.shares))
    dist.barrier()
    found, _ = load_state(place)
    whole = run.states[1]
    rank.facts[f"shares-{stage}"] = {
        "own": sum(value.numel() for value in own.values()),
        "whole": sum(value.numel() for value in whole.values()),
        "equal": found.keys() == whole.keys()
        and all(torch.equal(found[name], value) for name, value in whole.items()),
    } | _shared_model(rank, run, stage)


def _shared_model(rank: Rank, run: Trained, stage: int) -> dict[str, Any]:
    """Saves the tuned model as a rank of the product does, and loads it."""
    place = rank.folder / f"tuned-{stage}"
    saver = TrainingRank.__new__(TrainingRank)  # without Ray Train
    saver.rank, saver.training, saver.storage = rank.rank, run.training, Storage(str(rank.folder))
    saver.job = SimpleNamespace(method=FullSettings(), folder=place.name, num_steps=1)
    saver.best = SimpleNamespace(best=None)
    saver._save()
    dist.barrier()
    plain: Any = rank.base("float32")
    find_method(place / "adapter").load(plain, place / "adapter")
    state = run.states[1]
    return {
        "files": sorted(file.name for file in (place / "adapter").iterdir()),
        "same model": all(
            torch.equal(parameter, state[f"model.{name}/param"])
            for name, parameter in plain.named_parameters()
        ),
    }


def _sum_at_layers(rank: Rank, method: str) -> None:
    """Trains in bfloat16 at stage 2, but sums the gradients of an input layer by layer."""

    def stand_between(model: Any) -> None:
        for layer in model.modules():
            if hasattr(layer, "lora_A"):
                layer.register_forward_pre_hook(lambda _, inputs: (inputs[0].view_as(inputs[0]),))

    run = rank.trained_by(
        2, method_name=method, dtype="bfloat16", dropout=0.2, clip=0.5, prepare=stand_between
    )
    rank.facts[f"summed-at-layers-{method}"] = run.losses()


def _adapter(rank: Rank, run: Trained, name: str, dtype: str) -> None:
    """Compares the losses of the engine, of the adapter on its base, and of the merged model."""
    losses = {"engine": run.training.loop.validate()["validation/loss"]}
    parameters = run.training.export_parameters(None if rank.rank == 0 else [])
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
    """The loss of the held-out rows, and the most likely token at every position."""
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
        hooks = SupervisedLoss(model, narrow=False)
        return float(sum(hooks(batch) for batch in batches)), tokens


def _diverge(rank: Rank) -> None:
    """Trains with a loss or a gradient that is not finite on one rank only."""

    def poison(model: Any) -> None:  # a token that only one row has; the head keeps its weight
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
    """Trains with a preemption; by the clock of rank 1 alone, a check is due at every step."""
    whole, asked = rank.trained_by(stage), []

    def preempted() -> bool:
        asked.append(dist.get_rank())
        return True

    # The loop reads the clock twice a step, so rank 0's is beyond five seconds as step 3 begins.
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
    """Resumes from the checkpoint of the other part, and compares the end with that part's end."""
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
    """Joins the group and makes the measurements."""
    set_rank(rank, num_ranks, port)
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    this = Rank(Path(folder), int(rank), int(num_ranks))
    {"pair": pair, "single": single}[part](this)
    dist.barrier()
    this.finish(part)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
