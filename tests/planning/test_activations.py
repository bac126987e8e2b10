"""A dry run is compared with the same step on real weights."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch

from smt_ray.config.run import RunConfig
from smt_ray.methods.full import FullMethod
from smt_ray.methods.lora import LoraMethod, LoraSettings
from smt_ray.methods.placed import PlacedMethod
from smt_ray.planning.activations import BatchShape, DryRun
from smt_ray.planning.live_bytes import LiveBytes
from smt_ray.planning.prepared import prepare_model
from smt_ray.training.batching_mode import BatchingMode
from smt_ray.training.loss.supervised import SupervisedLoss
from smt_ray.training.recompute import recompute_activations
from tests.selections import choose_columns, choose_elements

Make = Callable[..., Any]
SHAPES = {"packed": BatchShape(3, 17, 20, True), "padded": BatchShape(3, 17, 20, False)}

NARROWED = BatchingMode("packed", narrows=True)


def prepare(model: Any, method: str, small_config: Callable[..., RunConfig]) -> None:
    if method == "smt":
        overrides = ("model.architecture.hidden_size=32", "model.architecture.vocab_size=100")
        shape = (
            "model.architecture.intermediate_size=64",
            "model.architecture.num_hidden_layers=2",
        )
        heads = ("model.architecture.num_attention_heads=4", "selection.block_size=16")
        keys = ("model.architecture.num_key_value_heads=2", "selection.budget=0.08")
        config = small_config(*overrides, *shape, *heads, *keys)
        prepare_model(config).method.prepare(model)
    elif method in ("sift", "columns"):
        choose = choose_elements if method == "sift" else choose_columns
        PlacedMethod(choose(model)).prepare(model)
    elif method == "full":
        FullMethod().prepare(model)
    else:
        targets, use_dora = ["q_proj", "up_proj"], method == "dora"
        LoraMethod(LoraSettings(4, 8, 0.1, targets, use_dora, seed=0)).prepare(model)


def real_peak(model: Any, shape: BatchShape, checkpointing: bool) -> int:
    model.train()
    if checkpointing:
        recompute_activations(model)
    loss = SupervisedLoss(model, narrow=True)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(lambda p: setattr(p, "grad", None))
    loss(shape.fill()).backward()  # makes what is kept between steps, such as masks
    batch = shape.fill()
    with LiveBytes() as live:
        loss(batch).backward()
    return live.peak


@pytest.mark.parametrize(
    ("method", "shape", "checkpointing", "dtype"),
    [
        ("smt", "packed", False, torch.float32),
        ("smt", "packed", True, torch.bfloat16),
        ("smt", "padded", False, torch.bfloat16),
        ("lora", "packed", False, torch.float32),
        ("lora", "padded", True, torch.float32),
        ("dora", "packed", True, torch.float32),
        ("sift", "packed", False, torch.float32),
        ("columns", "packed", False, torch.bfloat16),
        ("sift", "padded", True, torch.bfloat16),
        ("full", "packed", False, torch.bfloat16),
        ("full", "padded", True, torch.float32),
    ],
)
def test_a_dry_run_needs_as_much_memory_as_the_real_step(
    make_llama: Make, small_config: Callable[..., RunConfig],
    method: str, shape: str, checkpointing: bool, dtype: torch.dtype,
) -> None:  # fmt: skip
    model = make_llama().to(dtype)
    prepare(model, method, small_config)
    with torch.device("meta"):
        skeleton = make_llama().to(dtype)
    skeleton.tie_weights()
    prepare(skeleton, method, small_config)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        planned = DryRun(skeleton, NARROWED).measure(
            SHAPES[shape], training=True, checkpointing=checkpointing
        )
    assert planned.peak == pytest.approx(real_peak(model, SHAPES[shape], checkpointing), rel=0.02)


def test_a_dry_run_does_not_affect_real_runs(make_llama: Make) -> None:
    with torch.device("meta"):
        skeleton = make_llama()
    shape = SHAPES["packed"]
    before = SupervisedLoss(make_llama(), narrow=True)(shape.fill())
    DryRun(skeleton, NARROWED).measure(shape, training=False, checkpointing=False)
    assert torch.equal(SupervisedLoss(make_llama(), narrow=True)(shape.fill()), before)


def test_more_rows_need_more_and_checkpointing_less(make_llama: Make) -> None:
    with torch.device("meta"):
        skeleton = make_llama(num_hidden_layers=6)
    run = DryRun(skeleton, NARROWED)

    def peak(num_rows: int, checkpointing: bool = False) -> int:
        shape = BatchShape(num_rows, 32, 8, True)
        return run.measure(shape, training=True, checkpointing=checkpointing).peak

    assert peak(8, checkpointing=True) < peak(8) / 2
    # Rows do not attend to each other, so each adds the same.
    assert peak(8) - peak(4) == pytest.approx(4 * (peak(5) - peak(4)), rel=0.05)
