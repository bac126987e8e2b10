"""Claims about the FLOPs of a step, compared with torch's own count on a tiny model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.flops import Work, allowed_pairs, read_decoder, step_flops
from smt_ray.data.packing import pack_rows
from smt_ray.methods.lora import LoraMethod, LoraSettings
from smt_ray.places.layouts import Kind
from smt_ray.places.model import apply_places
from smt_ray.places.selection import ModulePlaces
from smt_ray.smt.model import make_sparse

NUM_TOKENS, NUM_TARGETS = 48, 7
UPPER_V = "model.layers.1.self_attn.v_proj"


def make_full(model: Any) -> None:
    model.requires_grad_(True)


def make_lora(model: Any) -> None:
    settings = LoraSettings(4, 8, 0.0, ["q_proj", "down_proj"], use_dora=False, seed=0)
    LoraMethod(settings).prepare(model)


def make_smt(model: Any) -> None:
    """Puts blocks only into the upper layer, so that the lower one has no backward."""
    make_blocks(model, UPPER_V, (16, 32))


def make_smt_below(model: Any) -> None:
    make_blocks(model, "model.layers.0.mlp.down_proj", (32, 64))


def make_blocks(model: Any, name: str, shape: tuple[int, int]) -> None:
    indices = torch.tensor([[0, 1], [1, 0], [1, 3]])
    make_sparse(model, 8, {name: shape}, {name: indices}, {})


def make_columns(model: Any) -> None:
    make_places(model, "column", torch.tensor([0, 7]))


def make_sift(model: Any) -> None:
    make_places(model, "element", torch.tensor([0, 70]))


def make_places(model: Any, kind: Kind, places: Tensor) -> None:
    apply_places(model, kind, {UPPER_V: ModulePlaces((16, 32), places)})


def make_floor(model: Any) -> None:
    model.requires_grad_(False)
    model.get_input_embeddings().register_forward_hook(lambda _m, _a, out: out.requires_grad_())


@pytest.mark.parametrize(
    "prepare",
    [make_full, make_lora, make_smt, make_smt_below, make_columns, make_sift, make_floor],
)
def test_needed_flops_equal_the_count_of_torch_if_no_work_is_wasted(
    make_llama: Callable[..., Any], prepare: Callable[[Any], None]
) -> None:
    model = make_llama(attn_implementation="eager")
    prepare(model)
    ids = torch.arange(NUM_TOKENS)[None]
    with FlopCounterMode(display=False) as counter:
        hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state
        model.lm_head(hidden[:, -NUM_TARGETS:]).square().sum().backward()
    # Eager attention computes all pairs, also the masked ones.
    work = Work(NUM_TOKENS, NUM_TOKENS**2, NUM_TARGETS)
    decoder = read_decoder(model, through_embeddings=prepare is make_floor)
    assert step_flops(decoder, [work]) == counter.get_total_flops()


def test_dora_needs_the_flops_of_lora_and_those_of_its_norms(
    make_llama: Callable[..., Any],
) -> None:
    models = [make_llama(), make_llama()]
    for model, use_dora in zip(models, (False, True), strict=True):
        settings = LoraSettings(4, 8, 0.0, ["k_proj"], use_dora=use_dora, seed=0)
        LoraMethod(settings).prepare(model)
    lora, dora = (step_flops(read_decoder(model), [Work(5, 15, 2)]) for model in models)
    assert dora - lora == 2 * (2 * 32 * 4 * 16)  # two layers' B (16, 4) times A (4, 32)


def test_a_shared_prefix_saves_the_pairs_of_its_repetitions() -> None:
    rows = [[0] * 5 + [own] * length for own, length in ((1, 3), (2, 4))]
    whole = sum(len(row) * (len(row) + 1) // 2 for row in rows)
    packed, _ = pack_rows(rows, share_prefix=True)
    assert allowed_pairs(packed) == whole - 5 * 6 // 2
