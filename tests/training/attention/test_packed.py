"""Claims about packed rows: each is computed as if it were alone, or rows are padded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from smt_ray.data.batches import step_micro_batches
from smt_ray.data.encoding.stored import EncodedRows
from smt_ray.documents.probe import Probe
from smt_ray.errors import UserError
from smt_ray.probe.probe import probe_skeleton
from smt_ray.training.batching_mode import choose_mode, has_dropout
from smt_ray.training.loss.supervised import SupervisedLoss
from tests.training.models import tiny

Make = Callable[..., Any]
ROWS = [3, 1, 20, 36, 9, 11, 2]


def gradient(
    model: nn.Module, encoded: EncodedRows, mode: str, max_tokens: int
) -> tuple[float, torch.Tensor]:
    """The loss and the gradient of one step, with all parameters in one vector."""
    loss, total = SupervisedLoss(model, narrow=False), 0.0
    for batch in step_micro_batches(
        encoded, ROWS, mode=mode, max_tokens=max_tokens, train_on_inputs=False
    ):
        value = loss(batch)
        value.backward()
        total += value.item()
    found = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    model.zero_grad()
    return total, found


FAMILIES = {
    "llama": {},
    "qwen2": {},
    "qwen3": {},
    "gemma": {},
    "phi3": {},
    "mistral-window-of-6": {"sliding_window": 6},
    "gpt2": {"n_positions": 32, "n_embd": 32, "n_layer": 2, "n_head": 4},
}


@pytest.mark.parametrize("mode", ["packed", "prefix_packed"])
@pytest.mark.parametrize("name", FAMILIES)
def test_packed_rows_have_the_loss_and_gradient_of_single_rows(
    make_encoded: Make, name: str, mode: str
) -> None:
    model, encoded = tiny(name.partition("-")[0], **FAMILIES[name]), make_encoded()
    assert choose_mode(model, mode, probe_skeleton(model), training=False).mode == mode
    expected_loss, expected = gradient(model, encoded, "padded", max_tokens=1)
    loss, found = gradient(model, encoded, mode, max_tokens=40)
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    assert float((found - expected).norm() / expected.norm()) < 1e-5


def test_a_sliding_window_is_used(make_encoded: Make) -> None:
    """The window changes the loss, so the comparison with single rows is a test of it."""
    encoded, windows = make_encoded(), {}
    for window in (3, None):
        model = tiny("mistral", sliding_window=window)
        windows[window], _ = gradient(model, encoded, "prefix_packed", max_tokens=1000)
    assert abs(windows[3] - windows[None]) > 1e-3


def test_a_row_does_not_attend_to_other_rows(make_llama: Make, make_encoded: Make) -> None:
    model, encoded = make_llama(), make_encoded()
    (batch,) = step_micro_batches(
        encoded, ROWS, mode="prefix_packed", max_tokens=1000, train_on_inputs=False
    )
    states = []
    before = model.model.layers[-1]  # the last layer has fewer positions
    before.register_forward_pre_hook(lambda _, args: states.append(args[0].clone()))
    loss = SupervisedLoss(model, narrow=False)
    starts = batch.rows.offsets()
    start, end = starts[-2:]
    assert batch.rows.segments[-1].parent > 0, "two segments before it"
    loss(batch)
    batch.input_ids[0, start:end] += 1  # another row in the last's place
    loss(batch)
    changed = (states[0] != states[1]).any(-1)[0].nonzero().flatten().tolist()
    assert changed
    assert changed == [p for p in changed if start <= p < end]


@pytest.mark.parametrize("mode", ["packed", "prefix_packed"])
def test_checkpointed_layers_give_the_same_gradient(
    make_llama: Make, make_encoded: Make, mode: str
) -> None:
    encoded = make_encoded()
    _, expected = gradient(make_llama().train(), encoded, mode, max_tokens=40)
    model = make_llama().train()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    _, found = gradient(model, encoded, mode, max_tokens=40)
    assert torch.equal(found, expected)


@pytest.mark.parametrize(
    ("name", "changes", "mode", "reason"),
    [
        ("mamba", {"state_size": 4}, "padded", "attention"),
        ("gemma2", {}, "padded", "caps its attention scores"),
        ("bloom", {"n_layer": 1, "n_head": 4}, "padded", "attention"),
        ("qwen2_moe", {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 2,
                       "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
         "padded", "the gradient of packed rows would be wrong by"),
        ("llama", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}},
         "one_row", "its rotary embedding depends on the length"),
    ],
)  # fmt: skip
def test_a_mode_that_is_not_exact_is_replaced_by_the_next_with_a_reason(
    name: str, changes: dict[str, Any], mode: str, reason: str
) -> None:
    model = tiny(name, **changes)
    chosen = choose_mode(model, "prefix_packed", probe_skeleton(model), training=True)
    assert chosen.mode == mode
    assert chosen.fallback is not None
    assert reason in chosen.fallback


def test_rows_share_no_prefix_if_there_is_active_dropout(make_llama: Make) -> None:
    model = make_llama()
    probe = probe_skeleton(model)

    def mode(configured: str = "prefix_packed", *, training: bool = True) -> str:
        return choose_mode(model, configured, probe, training=training).mode

    assert not has_dropout(model)
    assert mode() == "prefix_packed"
    model.model.layers[0].self_attn.attention_dropout = 0.1
    assert mode(training=False) == "prefix_packed"
    assert mode() == "packed"
    assert "dropout" in str(choose_mode(model, "prefix_packed", probe, training=True).fallback)
    model.model.layers[0].self_attn.attention_dropout = 0.0
    model.model.layers[1].mlp.extra = nn.Dropout(0.1)
    assert mode() == "packed"
    assert mode("padded") == "padded"


def test_dropout_that_is_no_module_is_noticed() -> None:
    model = tiny("opt", dropout=0.1, ffn_dim=64, word_embed_proj_dim=32)
    assert not has_dropout(model)
    chosen = choose_mode(model, "prefix_packed", probe_skeleton(model), training=True)
    assert chosen.mode == "packed"


def test_a_model_that_is_not_causal_is_refused() -> None:
    model = tiny("bert", is_decoder=False)
    with pytest.raises(UserError, match="must be causal"):
        choose_mode(model, "padded", probe_skeleton(model), training=False)


def test_an_architecture_that_cannot_be_tried_runs_row_by_row(make_llama: Make) -> None:
    chosen = choose_mode(make_llama(), "padded", Probe(problem="no such part"), training=False)
    assert chosen.mode == "one_row"
    assert "could not be tried (no such part)" in str(chosen.fallback)


def test_the_auxiliary_loss_of_a_router_is_refused() -> None:
    sizes = {"num_local_experts": 4, "num_experts_per_tok": 2}
    model = tiny("mixtral", output_router_logits=True, **sizes)
    fix = r"config_overrides: \{output_router_logits: false\}"
    with pytest.raises(UserError, match=fix):
        choose_mode(model, "padded", probe_skeleton(model), training=True)
