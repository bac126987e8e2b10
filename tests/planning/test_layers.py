"""A dry run of a few layers of each kind gives the figures of all layers."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from smt_ray.config.run import RunConfig
from smt_ray.planning.activations import BatchShape, DryRun, Needs
from smt_ray.planning.layers import LayerStack
from smt_ray.planning.prepared import prepare_model
from smt_ray.training.batching_mode import BatchingMode

DEEP = ("model.architecture.num_hidden_layers=24", "model.architecture.vocab_size=64")
EXPERTS = (
    "model.architecture.model_type=qwen3_moe", "model.architecture.moe_intermediate_size=64",
    "model.architecture.num_experts=4", "model.architecture.num_experts_per_tok=2",
    "model.architecture.head_dim=32", "model.dtype=bfloat16",
)  # fmt: skip


def measure(config: RunConfig, checkpointing: bool) -> Needs:
    run = DryRun(prepare_model(config).model, BatchingMode("packed", narrows=True))
    shape = BatchShape(2, 16, 10, True)
    return run.measure(shape, training=True, checkpointing=checkpointing)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(
    "settings",
    [
        ("selection.budget=0.05",),
        ("selection.budget=0.061",),  # modules have different numbers of blocks
        ("method=full",),
        ("method=dora",),
        EXPERTS,
    ],
    ids=["smt", "uneven", "full", "dora", "experts"],
)
def test_a_few_layers_need_as_much_as_all_of_them(
    small_config: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch,
    settings: tuple[str, ...], checkpointing: bool,
) -> None:  # fmt: skip
    config = small_config(*DEEP, *settings)
    computed: list[int] = []
    only = LayerStack._only

    def counted(stack: LayerStack, kept: list[int]) -> object:
        computed.append(len(kept))
        return only(stack, kept)

    monkeypatch.setattr(LayerStack, "_only", counted)
    few = measure(config, checkpointing)
    assert computed
    assert sum(computed) < 24
    monkeypatch.setattr(LayerStack, "_runs", lambda _: [])
    assert few == measure(config, checkpointing)


def test_the_model_is_whole_after_a_dry_run(small_config: Callable[..., RunConfig]) -> None:
    model = prepare_model(small_config(*DEEP)).model
    before = [name for name, _ in model.named_parameters()]
    run = DryRun(model, BatchingMode("packed"))
    run.measure(BatchShape(1, 8, 4, True), training=True, checkpointing=False)
    assert [name for name, _ in model.named_parameters()] == before
    assert model.config.num_hidden_layers == 24
