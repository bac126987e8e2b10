"""Claims about the probe: what a small model of an architecture shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from smt_ray.artifacts.storage import Storage
from smt_ray.data.batches import ONE_ROW, PACKED, PADDED, PREFIX_PACKED
from smt_ray.documents.probe import Probe
from smt_ray.probe import probe as probe_module
from smt_ray.probe.inference import is_causal
from smt_ray.probe.probe import keep_probe, kept_probe, probe_skeleton, small_model


def skeleton(model_type: str, **changes: Any) -> Any:
    """A model on the meta device, as large as the type's default config says."""
    from transformers import CONFIG_MAPPING

    from smt_ray.models.config import model_class

    config = CONFIG_MAPPING[model_type](**changes)
    with torch.device("meta"):
        return model_class(config).from_config(config)


def exact_modes(probe: Probe) -> set[str]:
    return {mode for mode in probe.errors if probe.is_exact(mode)}


def test_everything_is_exact_for_a_llama_of_any_size() -> None:
    probe = probe_skeleton(skeleton("llama", num_hidden_layers=2))
    assert exact_modes(probe) == {PREFIX_PACKED, PACKED, PADDED, ONE_ROW}
    assert max(error for error in probe.errors.values() if error is not None) < 1e-5
    assert probe.is_causal
    assert probe.narrows
    assert probe.pads_left
    assert probe.pads_inside
    assert not probe.draws
    assert not probe.unused_linears


@pytest.mark.parametrize(
    ("model_type", "changes"),
    [
        ("qwen2_moe", {"use_sliding_window": True, "sliding_window": 1024, "max_window_layers": 2}),
        ("phimoe", {"sliding_window": 2048}),
    ],
)
def test_a_window_that_is_in_the_mask_alone_is_noticed(
    model_type: str, changes: dict[str, Any]
) -> None:
    probe = probe_skeleton(skeleton(model_type, num_hidden_layers=3, **changes))
    assert exact_modes(probe) == {PADDED, ONE_ROW}
    assert (probe.errors[PACKED] or 0) > 0.1


def test_a_small_part_of_the_gradient_that_is_wrong_is_noticed() -> None:
    """Falcon-H1's multipliers make the gradients of its state-space layers small."""
    multipliers = {
        "key_multiplier": 0.011, "ssm_in_multiplier": 0.25, "ssm_out_multiplier": 0.088,
        "ssm_multipliers": [0.35, 0.25, 0.18, 0.5, 0.35], "mlp_multipliers": [0.177, 0.044],
    }  # fmt: skip
    probe = probe_skeleton(skeleton("falcon_h1", num_hidden_layers=4, **multipliers))
    assert exact_modes(probe) == {PADDED, ONE_ROW}


def test_blocks_of_keys_that_are_chosen_make_packing_inexact() -> None:
    kinds = ["full_attention"] * 2 + ["minimax_m3_sparse"] * 2
    changes = {"num_hidden_layers": 4, "layer_types": kinds}
    probe = probe_skeleton(skeleton("minimax_m3_vl_text", **changes))
    assert not exact_modes(probe) & {PACKED, PREFIX_PACKED}
    assert not probe.pads_left


@pytest.mark.parametrize("model_type", ["deepseek_v32", "deepseek_v4", "doge"])
def test_attention_that_chooses_tokens_makes_even_padding_inexact(model_type: str) -> None:
    """The last two choose among equal scores, by how many positions there are."""
    probe = probe_skeleton(skeleton(model_type, num_hidden_layers=4))
    assert exact_modes(probe) == {ONE_ROW}
    assert not probe.pads_left


def test_positions_that_count_columns_cannot_be_padded_on_the_left() -> None:
    assert not probe_skeleton(skeleton("bart", decoder_layers=2, encoder_layers=2)).pads_left
    assert not probe_skeleton(skeleton("gpt_neo")).pads_inside


@pytest.mark.parametrize("change", [{}, {"is_decoder": True}])
def test_a_model_that_sees_later_tokens_is_not_causal(change: dict[str, Any]) -> None:
    assert probe_skeleton(skeleton("bert", num_hidden_layers=2, **change)).is_causal == bool(change)


def test_every_position_must_leave_out_the_later_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """Position 2 sees position 5, which is not the last one."""
    model = small_model(skeleton("llama", num_hidden_layers=2))
    assert is_causal(model)
    embed = model.model.embed_tokens.forward

    def peek(ids: torch.Tensor) -> torch.Tensor:
        embedded: torch.Tensor = embed(ids)
        return embedded.index_add(1, torch.tensor([2]), embedded[:, 5:6])

    monkeypatch.setattr(model.model.embed_tokens, "forward", peek)
    assert not is_causal(model)


def test_dropout_that_is_no_module_is_noticed() -> None:
    assert probe_skeleton(skeleton("opt", num_hidden_layers=2, dropout=0.1)).draws
    assert not probe_skeleton(skeleton("opt", num_hidden_layers=2, dropout=0.0)).draws


def test_linears_that_text_does_not_reach_or_whose_forward_is_not_called_are_named() -> None:
    jamba = probe_skeleton(skeleton("jamba", num_hidden_layers=8))
    assert jamba.unused_linears == ("model.layers.*.mamba.dt_proj",)
    gemma3 = probe_skeleton(skeleton("gemma3"))
    assert gemma3.unused_linears
    assert all("vision" in name or "multi_modal" in name for name in gemma3.unused_linears)


def test_an_architecture_that_cannot_be_tried_says_why() -> None:
    model = skeleton("llama", num_hidden_layers=1)
    model.config = object()
    probe = probe_skeleton(model)
    assert "has no attribute 'to_dict'" in str(probe.problem)
    assert probe.unused_linears == ("lm_head",)  # outside the decoder, as towers are


def test_findings_are_kept_in_the_storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage, model = Storage(str(tmp_path)), skeleton("llama", num_hidden_layers=1)
    found = kept_probe(model, storage)
    assert not list(tmp_path.iterdir())
    keep_probe(model, found, storage)
    monkeypatch.setattr(probe_module, "_probe", lambda *_: pytest.fail("it was tried again"))
    assert kept_probe(model, storage) == found
    assert kept_probe(skeleton("llama", num_hidden_layers=1, hidden_size=256), storage) == found
    (file,) = (tmp_path / "probes").iterdir()
    assert Probe.model_validate_json(file.read_text()) == found
