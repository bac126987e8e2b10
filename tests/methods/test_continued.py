"""A training that starts from an adapter has its weights, trains them, and saves the same kind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from smt_ray.config.load import load_config
from smt_ray.documents.probe import Probe
from smt_ray.errors import UserError
from smt_ray.methods.adapters import find_method, method_name
from smt_ray.methods.continued import ContinuedMethod, ContinuedSettings
from smt_ray.methods.lora import LoraMethod, LoraSettings
from smt_ray.methods.placed import PlacedMethod
from smt_ray.methods.protocol import Method
from smt_ray.methods.registry import settings_of
from smt_ray.methods.smt import SmtMethod
from tests.selections import choose, choose_columns, choose_elements

Make = Callable[..., Any]
METHODS = ("smt", "columns", "lora", "dora", "sift")
IDS = torch.arange(20).view(2, 10)


def make_method(name: str, model: Any) -> Method:
    if name == "smt":
        return SmtMethod(choose(model))
    if name == "columns":
        return PlacedMethod(choose_columns(model))
    if name == "sift":
        return PlacedMethod(choose_elements(model))
    settings = LoraSettings(4, 8, 0.0, ("q_proj", "v_proj"), use_dora=name == "dora", seed=0)
    return LoraMethod(settings)


def trained(model: Any) -> dict[str, torch.Tensor]:
    return {n: p for n, p in model.named_parameters() if p.requires_grad}


def step(model: Any, rate: float = 0.05) -> None:
    """One step of AdamW on whatever is trained."""
    optimizer = torch.optim.AdamW(trained(model).values(), lr=rate)
    model(input_ids=IDS, labels=IDS).loss.backward()
    optimizer.step()
    optimizer.zero_grad()


def save(method: Method, model: Any, folder: Path) -> Path:
    folder.mkdir()
    method.save(model, {n: p.detach().clone() for n, p in trained(model).items()}, folder)
    return folder


@pytest.fixture(params=METHODS)
def made(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def name(made: str) -> str:
    """The method of the config; columns are blocks of smt."""
    return "smt" if made == "columns" else made


@pytest.fixture
def tuned(made: str, make_llama: Make, tmp_path: Path) -> tuple[Path, Any]:
    """An adapter after a step of training, and the model that it was saved from."""
    model = make_llama()
    method = make_method(made, model)
    method.prepare(model)
    step(model)
    return save(method, model, tmp_path / "adapter"), model


def test_the_same_parameters_are_trained_from_the_values_of_the_adapter(
    name: str, make_llama: Make, tuned: tuple[Path, Any], tmp_path: Path
) -> None:
    adapter, reference = tuned
    fresh = make_llama()
    fresh.eval()
    reference.eval()
    expected = reference(input_ids=IDS).logits
    method = ContinuedMethod(str(adapter))
    method.prepare(fresh)
    assert trained(fresh).keys() == trained(reference).keys()
    torch.testing.assert_close(fresh(input_ids=IDS).logits, expected, rtol=0, atol=1e-6)
    for model in (fresh, reference):  # they also learn the same
        step(model)
    after = reference(input_ids=IDS).logits
    torch.testing.assert_close(fresh(input_ids=IDS).logits, after, rtol=0, atol=1e-4)
    assert float((after - expected).abs().max()) > 1e-3
    assert method.count(fresh).num_trainable == sum(p.numel() for p in trained(fresh).values())
    again = save(method, fresh, tmp_path / "again")
    assert {file.name for file in again.iterdir()} == {file.name for file in adapter.iterdir()}
    assert method_name(again) == name
    loaded = make_llama()
    find_method(again).load(loaded, again)
    assert not trained(loaded)
    tuned_again = loaded.eval()(input_ids=IDS).logits
    torch.testing.assert_close(tuned_again, after, rtol=0, atol=1e-4)


def test_it_also_fits_a_model_without_weights_as_a_plan_needs_it(
    make_llama: Make, tuned: tuple[Path, Any]
) -> None:
    adapter, reference = tuned
    with torch.device("meta"):
        skeleton = make_llama()
    ContinuedMethod(str(adapter)).prepare(skeleton)
    shapes = {n: p.shape for n, p in trained(reference).items()}
    assert {n: p.shape for n, p in trained(skeleton).items()} == shapes


def test_another_base_model_is_refused(make_llama: Make, tuned: tuple[Path, Any]) -> None:
    adapter, _ = tuned
    other = make_llama(num_hidden_layers=1)
    with pytest.raises(UserError, match="must be loaded on the base model"):
        ContinuedMethod(str(adapter)).prepare(other)


def test_the_settings_have_the_contents_of_the_adapter(
    name: str, make_llama: Make, tuned: tuple[Path, Any], tmp_path: Path
) -> None:
    adapter, _ = tuned
    config = load_config(None, [f"method={name}", f"training.init_adapter={adapter}"])
    assert settings_of(config) is ContinuedSettings
    assert not config.has_selection
    assert not config.has_warmup
    settings = ContinuedSettings.check(config, make_llama, Probe(), None)
    assert settings.describe() == {"init_adapter": str(adapter)}
    inputs = ContinuedSettings.stage_inputs(config)
    moved = adapter.rename(tmp_path / "moved")
    elsewhere = load_config(None, [f"method={name}", f"training.init_adapter={moved}"])
    assert ContinuedSettings.stage_inputs(elsewhere) == inputs
    for file in moved.iterdir():
        file.write_bytes(file.read_bytes() + b" ")
    assert ContinuedSettings.stage_inputs(elsewhere) != inputs


def test_mistakes_are_one_line(name: str, make_llama: Make, tuned: tuple[Path, Any]) -> None:
    adapter, _ = tuned
    other = "lora" if name != "lora" else "smt"
    config = load_config(None, [f"method={other}", f"training.init_adapter={adapter}"])
    with pytest.raises(UserError, match=rf"must be an adapter of method {other}.*method={name}"):
        ContinuedSettings.check(config, make_llama, Probe(), None)
    missing = load_config(None, [f"method={name}", "training.init_adapter=/nowhere"])
    with pytest.raises(UserError, match=r"^training\.init_adapter: must be the folder.*/nowhere"):
        ContinuedSettings.stage_inputs(missing)
    with pytest.raises(UserError, match=r"model\.path"):
        load_config(None, ["method=full", f"training.init_adapter={adapter}"])
