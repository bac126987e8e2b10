"""Claims about quantised base models: what is quantised, and that nothing else changes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from smt_ray.config.load import validate_config
from smt_ray.config.model import ModelConfig
from smt_ray.errors import UserError
from smt_ray.models import quantisation
from smt_ray.models.inspect import count_parameters, find_eligible, model_identity
from smt_ray.models.load import load_model
from smt_ray.models.quantisation import KINDS, check_quantisation, quantise
from smt_ray.smt.linears import dense_weight, linear_shape
from smt_ray.smt.quantised import is_quantised

TINY = ModelConfig(builtin="tiny")


@pytest.mark.parametrize("kind", KINDS)
def test_all_linears_but_the_output_embeddings_are_quantised(
    make_llama: Callable, kind: str
) -> None:
    plain = make_llama(hidden_size=64, intermediate_size=64, tie_word_embeddings=False)
    model: Any = quantise(copy.deepcopy(plain), kind, "cpu", torch.float32)
    for name, module in plain.named_modules():
        found = model.get_submodule(name)
        if isinstance(module, nn.Linear) and name != "lm_head":
            assert is_quantised(found)
            assert linear_shape(found) == tuple(module.weight.shape)
            weight = dense_weight(found)
            scale = module.weight.abs().max()
            assert (weight - module.weight).abs().max() < (0.01 if kind == "int8" else 0.2) * scale
        elif hasattr(module, "weight"):
            assert torch.equal(found.weight, module.weight)
    assert count_parameters(model) == count_parameters(plain)
    assert list(find_eligible(model, "auto")) == list(find_eligible(plain, "auto"))
    quantised = [module for module in model.modules() if is_quantised(module)]
    assert not any(p.requires_grad for module in quantised for p in module.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_it_computes_with_the_dequantised_weights_in_training_and_in_evaluation(kind: str) -> None:
    model = load_model(TINY.model_copy(update={"quantization": kind}))
    same = load_model(TINY)
    with torch.no_grad():
        for name, module in model.named_modules():
            if is_quantised(module):
                same.get_submodule(name).weight.copy_(dense_weight(module))
    ids = torch.arange(3, 43).view(2, 20)
    for training in (False, True, False):
        with torch.no_grad():
            found, expected = model.train(training)(ids).logits, same(ids).logits
        # int8 products of bitsandbytes round the inputs.
        limit = 0.05 if kind == "int8" else 1e-4
        assert (found - expected).norm() < limit * expected.norm()


def test_the_identity_names_the_quantisation() -> None:
    plain, quantised = (
        model_identity(TINY.model_copy(update={"quantization": kind})) for kind in ("none", "nf4")
    )
    assert quantised == {**plain, "quantization": "nf4"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"method": "full"}, "methods full and sift, and warmup.mode trained, update the weights"),
        ({"warmup": {"mode": "trained"}}, "warmup.mode trained, update the weights"),
        ({"deepspeed": {"zero_stage": 3}}, "deepspeed.zero_stage 3 partitions the weights"),
        ({"warmup": {"gpus_per_shard": 2}}, "gpus_per_worker spread whole layers"),
    ],
)
def test_settings_that_need_the_weights_themselves_are_refused(
    values: dict[str, Any], message: str
) -> None:
    config = {
        "name": "x", "model": {"builtin": "tiny", "quantization": "nf4"},
        "data": {"train": ["rows.json"]}, **values,
    }  # fmt: skip
    with pytest.raises(UserError, match=message):
        validate_config(config)


def test_a_model_without_linears_is_refused() -> None:
    with pytest.raises(UserError, match="needs linears of class"):
        quantise(nn.Sequential(nn.Embedding(3, 4)), "nf4", "cpu", torch.float32)


def test_a_missing_package_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantisation.importlib.util, "find_spec", lambda _: None)
    check_quantisation("none")
    with pytest.raises(UserError, match=r"pip install 'smt-ray\[bitsandbytes\]'"):
        check_quantisation("nf4")
