"""Claims about sparse layers that stand for GPT-2's and Falcon's linears."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.models.falcon.modeling_falcon import FalconLinear
from transformers.pytorch_utils import Conv1D

from smt_ray.errors import UserError
from smt_ray.smt.adapter import load_adapter, save_adapter
from smt_ray.smt.adapter_files import read_adapter
from smt_ray.smt.grid import BlockGrid
from smt_ray.smt.layers.linear import SparseLinear
from smt_ray.smt.layers.saving import plain_state_dict
from smt_ray.smt.linears import as_dense, dense_weight, is_transposed, linear_shape
from smt_ray.smt.model import make_sparse, merge_and_unload, sparse_modules, unload
from tests.zoo import FAMILIES

INDICES = torch.tensor([[0, 1], [1, 1], [1, 3], [2, 0]], dtype=torch.int32)  # none is mirrored
GRADIENT = {"rtol": 1e-12, "atol": 1e-12}

KINDS: dict[str, Callable[[], nn.Module]] = {
    "Conv1D": lambda: Conv1D(12, 20),
    "square Conv1D": lambda: Conv1D(16, 16),
    "FalconLinear": lambda: FalconLinear(20, 12),
    "FalconLinear without bias": lambda: FalconLinear(20, 12, bias=False),
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def pair(kind: str, dtype: torch.dtype = torch.float64) -> tuple[Any, SparseLinear]:
    """A linear, and a sparse layer of a copy with blocks of 4 x 4."""
    torch.manual_seed(0)
    dense = KINDS[kind]().to(dtype)
    for parameter in dense.parameters():
        nn.init.normal_(parameter)
    return dense, SparseLinear.from_linear(copy.deepcopy(dense), INDICES, 4)


def draw(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3), dtype=dtype)


def slices(dense: Tensor) -> Tensor:
    """The blocks of a dense weight (O, I), row by row and column by column."""
    return torch.stack([dense[r * 4 : r * 4 + 4, c * 4 : c * 4 + 4] for r, c in INDICES.tolist()])


@every_kind
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_forward_equals_that_of_the_linear(kind: str, dtype: torch.dtype) -> None:
    dense, sparse = pair(kind, dtype)
    x = draw(3, 7, linear_shape(dense)[1], dtype=dtype)
    for context in (torch.enable_grad(), torch.no_grad()):
        with context:
            if kind == "FalconLinear" and dtype != torch.float64:  # it adds the bias afterwards
                torch.testing.assert_close(sparse(x), dense(x))
            elif kind == "FalconLinear":
                torch.testing.assert_close(sparse(x), dense(x), **GRADIENT)
            else:
                assert torch.equal(sparse(x), dense(x))


@every_kind
@pytest.mark.parametrize("run", ["eager", "compiled"])
def test_gradients_equal_slices_of_the_dense_gradient(kind: str, run: str) -> None:
    dense, sparse = pair(kind)
    call = sparse
    if run == "compiled":
        torch._dynamo.reset()
        call = torch.compile(sparse, backend="aot_eager", fullgraph=True)
    x, other = (draw(3, 7, linear_shape(dense)[1]).requires_grad_() for _ in range(2))
    dense(x).square().sum().backward()
    call(other).square().sum().backward()
    expected = slices(as_dense(dense.weight.grad, is_transposed(dense)))
    torch.testing.assert_close(
        as_dense(sparse.blocks.grad, sparse.transposed), expected, **GRADIENT
    )
    torch.testing.assert_close(other.grad, x.grad, **GRADIENT)
    assert sparse.weight.grad is None


@every_kind
def test_training_changes_the_chosen_blocks_only(kind: str) -> None:
    dense, sparse = pair(kind)
    x = draw(7, linear_shape(dense)[1])
    optimizer = torch.optim.AdamW([sparse.blocks], lr=0.1)
    sparse(x).square().sum().backward()
    optimizer.step()
    merged = sparse.merge()
    changed = (dense_weight(merged) != dense_weight(dense)).detach()
    assert slices(changed).all()
    assert int(changed.sum()) == INDICES.shape[0] * 16


@every_kind
def test_merge_and_unmerge_give_the_original_class_and_values_bit_for_bit(kind: str) -> None:
    dense, sparse = pair(kind)
    weight, bias = sparse.weight, sparse.bias
    with torch.no_grad():
        sparse.blocks.mul_(2)
    x = draw(7, linear_shape(dense)[1])
    tuned = sparse(x)
    merged = copy.deepcopy(sparse).eval().merge()
    torch.testing.assert_close(merged(x), tuned, **GRADIENT)
    assert not merged.training
    restored = sparse.unmerge()
    assert (restored.weight, restored.bias) == (weight, bias)  # they are not copied
    for found in (merged, restored):
        assert type(found) is type(dense)
        assert repr(found) == repr(dense)
        assert [n for n, _ in found.named_parameters()] == [n for n, _ in dense.named_parameters()]
        own = {name: vars(dense)[name] for name in vars(dense) if not name.startswith("_")}
        assert {name: vars(found)[name] for name in own} == own | {"training": found.training}
    assert torch.equal(restored.weight, dense.weight)
    assert torch.equal(restored(x), dense(x))


def test_a_layer_keeps_no_parameter_hook_or_method_of_its_linear() -> None:
    linear = Conv1D(12, 20)
    linear.register_forward_hook(lambda *_: None)
    linear.forward = linear.forward  # as accelerate does, bound to the old module
    layer = SparseLinear.from_linear(linear, INDICES, 4)
    assert layer._shell.attributes == {"nf": 12, "nx": 20}
    merged = layer.merge()
    assert "forward" not in vars(merged)
    assert not merged._forward_hooks


@every_kind
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_a_copy_is_of_the_same_kind(kind: str, copied: Callable[..., Any]) -> None:
    dense, sparse = pair(kind)
    twin = copied(sparse)
    x = draw(7, linear_shape(dense)[1])
    assert torch.equal(twin(x), sparse(x))
    assert type(twin.merge()) is type(dense)


@every_kind
def test_a_plain_state_is_made_from_the_state_alone_and_can_be_loaded(kind: str) -> None:
    dense, source = pair(kind)
    with torch.no_grad():
        source.blocks.mul_(2)
    state = copy.deepcopy(source.state_dict())
    state["weight"] = dense.weight.detach().clone()  # as ZeRO-3 gathers it
    plain = plain_state_dict(state)
    merged = copy.deepcopy(source).merge()
    assert list(plain) == list(merged.state_dict())
    assert torch.equal(plain["weight"], merged.weight)
    _, target = pair(kind)
    assert not target.load_state_dict(plain).missing_keys
    assert torch.equal(target.blocks, source.blocks)
    _, whole = pair(kind)
    whole.load_state_dict(source.state_dict())
    assert torch.equal(whole.merge().weight, merged.weight)


def test_a_conv1d_on_the_meta_device_has_shapes() -> None:
    layer = SparseLinear.from_linear(Conv1D(12, 20).to("meta"), INDICES, 4)
    x = torch.empty(2, 7, 20, device="meta", requires_grad=True)
    layer(x).sum().backward()
    assert (x.grad.shape, layer.blocks.grad.shape) == (x.shape, (4, 4, 4))


def tuned(family: str) -> Any:
    """A model with trained blocks in all kinds of its linears; some of them are square."""
    model = FAMILIES[family]()
    head = model.get_output_embeddings()
    shapes = {
        name: linear_shape(module)
        for name, module in model.named_modules()
        if isinstance(module, Conv1D | nn.Linear) and module is not head
    }
    assert any(o == i for o, i in shapes.values())
    make_sparse(model, 8, shapes, {n: torch.tensor([[0, 1], [3, 2]]) for n in shapes}, {})
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)
    ids = torch.arange(24).view(2, 12)
    model(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    return model


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        return model(input_ids=torch.arange(24).view(2, 12)).logits


def types(model: nn.Module) -> list[type]:
    return [type(module) for module in model.modules()]


def check_logits(found: Tensor, expected: Tensor, family: str) -> None:
    if family == "gpt2":
        assert torch.equal(found, expected)
    else:  # Falcon's own linear adds the bias after the product
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("family", ["gpt2", "falcon"])
def test_save_pretrained_writes_a_plain_model(family: str, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = tuned(family)
    model.save_pretrained(tmp_path)
    loaded, info = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    assert types(loaded) == types(FAMILIES[family]())
    check_logits(logits(loaded), logits(model), family)
    assert not torch.allclose(logits(loaded), logits(FAMILIES[family]()))


@pytest.mark.parametrize("family", ["gpt2", "falcon"])
def test_an_adapter_has_the_blocks_of_dense_weights_and_is_put_on_its_base(
    family: str, tmp_path: Path
) -> None:
    model = tuned(family)
    expected = logits(model)
    save_adapter(model, tmp_path)
    again = load_adapter(FAMILIES[family](), tmp_path)
    assert torch.equal(logits(again), expected)
    saved = read_adapter(tmp_path)
    names = list(sparse_modules(model))
    merged = merge_and_unload(model)
    assert types(merged) == types(FAMILIES[family]())
    check_logits(logits(merged), expected, family)
    for name in names:
        weight = dense_weight(merged.get_submodule(name))
        grid = BlockGrid(*weight.shape, 8)
        assert saved.indices[name].tolist() == [[0, 1], [3, 2]]
        assert torch.equal(grid.gather(weight, saved.indices[name]), saved.blocks[name])
    restored, plain = unload(again), FAMILIES[family]()
    assert types(restored) == types(plain)
    states = restored.state_dict(), plain.state_dict()
    assert all(torch.equal(states[0][name], value) for name, value in states[1].items())
    with pytest.raises(UserError, match="weight at the adapter's blocks differs"):
        load_adapter(merged, tmp_path)
