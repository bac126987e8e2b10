from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from smt_ray.errors import UserError
from smt_ray.smt.layers.linear import SparseLinear
from smt_ray.smt.model import (
    apply_selection,
    make_sparse,
    merge_and_unload,
    print_trainable_parameters,
    refresh,
    sparse_modules,
    trainable_parameters,
    unload,
)


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


@pytest.mark.parametrize("bias", [True, False])
def test_applying_a_selection_trains_its_blocks_and_nothing_else(
    make_toy: Callable, choose: Callable, tokens: Tensor, bias: bool
) -> None:
    model = make_toy(bias)
    before = model(tokens)
    selection = choose(model)
    assert apply_selection(model, selection) is model
    chosen = {name: count for name, count in selection.counts().items() if count}
    assert {n: len(m.blocks) for n, m in sparse_modules(model).items()} == chosen
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {f"{name}.blocks" for name in chosen}
    assert torch.equal(model(tokens), before)


def test_training_changes_only_the_selected_blocks(
    make_toy: Callable, choose: Callable, train: Callable, tokens: Tensor
) -> None:
    base, model = state(make_toy()), make_toy()
    selection = choose(model)
    losses = train(apply_selection(model, selection), tokens)
    assert losses[-1] < losses[0]
    tuned = state(merge_and_unload(model))
    assert tuned.keys() == base.keys()
    for name, weight in base.items():
        selected = torch.zeros_like(weight, dtype=torch.bool)
        module = selection.modules.get(name.removesuffix(".weight"))
        for row, col in module.indices.tolist() if module else []:
            selected[4 * row : 4 * row + 4, 4 * col : 4 * col + 4] = True
        assert torch.equal(tuned[name][~selected], weight[~selected])
        assert not torch.isclose(tuned[name][selected], weight[selected], rtol=1e-6).any()


def test_block_gradients_of_a_model_equal_slices_of_its_dense_gradients(
    make_toy: Callable, choose: Callable, tokens: Tensor
) -> None:
    dense, sparse = make_toy(), make_toy()
    apply_selection(sparse, choose(sparse, num_blocks=30))
    dense.loss(tokens).backward()
    sparse.loss(tokens).backward()
    for name, layer in sparse_modules(sparse).items():
        expected = layer.grid.gather(dense.get_submodule(name).weight.grad, layer.indices)
        torch.testing.assert_close(layer.blocks.grad, expected, rtol=1e-12, atol=1e-14)


def test_the_merged_model_computes_the_same_as_the_tuned_model(
    make_toy: Callable, choose: Callable, train: Callable, tokens: Tensor
) -> None:
    model = make_toy()
    train(apply_selection(model, choose(model)), tokens)
    tuned = model(tokens)
    assert torch.equal(merge_and_unload(model)(tokens), tuned)
    assert not sparse_modules(model)
    assert model.state_dict().keys() == make_toy().state_dict().keys()


def test_unloading_restores_the_base_model_bit_for_bit(
    make_toy: Callable, choose: Callable, train: Callable, tokens: Tensor
) -> None:
    model = make_toy(dtype=torch.float32)
    base = state(model)
    train(apply_selection(model, choose(model)), tokens)
    assert same(state(unload(model)), base)


def test_refresh_skips_weights_that_zero_3_has_partitioned(
    make_toy: Callable, choose: Callable
) -> None:
    model = make_toy()
    layers = list(sparse_modules(apply_selection(model, choose(model))).values())
    layers[0].weight.data = torch.empty(0)
    for layer in layers:
        layer.blocks.data.add_(1)
    refresh(model)
    for layer in layers[1:]:
        assert torch.equal(layer.grid.gather(layer.weight, layer.indices), layer.blocks)


def test_trainable_parameters_count_tied_weights_once_and_blocks_not_twice(
    make_toy: Callable, choose: Callable, capsys: pytest.CaptureFixture[str]
) -> None:
    model = make_toy()
    base = sum(p.numel() for p in model.parameters())
    assert base == 11 * 16 + 2 * (16 * 16 * 2 + 8 * 16 * 2) + 2 * 16
    counts = trainable_parameters(apply_selection(model, choose(model)))
    assert (counts.trainable, counts.base) == (9 * 16, base)
    assert counts.percent_of_base == 100 * 144 / base
    assert counts.percent_of_base_and_adapter == 100 * 144 / (base + 144)
    print_trainable_parameters(model)
    assert f"trainable params: 144 || base params: {base:,} ||" in capsys.readouterr().out


def saved_bytes(run: Callable, model: nn.Module) -> int:
    """The bytes of all storages kept for backward, except those of parameters."""
    storages: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        outputs = run()
    for parameter in model.parameters():
        storages.pop(parameter.untyped_storage().data_ptr(), None)
    del outputs
    return sum(storages.values())


def sparse_at(model: nn.Module, columns: dict[str, list[int]]) -> list[nn.Module]:
    """The blocks of the first block row at some block columns."""
    shapes = {name: tuple(model.get_submodule(name).weight.shape) for name in columns}
    indices = {name: torch.tensor([[0, c] for c in chosen]) for name, chosen in columns.items()}
    make_sparse(model, 4, shapes, indices, {})
    return list(sparse_modules(model).values())


@pytest.mark.parametrize(
    ("q", "k", "v", "num_columns"),
    [([0], [0], [0], 1), ([0], [2], [0, 2], 2), ([0, 1], [1, 2], [3], 4)],
    ids=["the same", "their union", "all of the input"],
)
def test_layers_with_one_input_keep_the_union_of_their_columns_once(
    make_toy: Callable, q: list[int], k: list[int], v: list[int], num_columns: int
) -> None:
    model = make_toy()
    chosen = dict(zip(("q", "k", "v"), (q, k, v), strict=True))
    layers = sparse_at(model, {f"layers.1.{name}_proj": c for name, c in chosen.items()})
    x = torch.randn(2, 5, 16, dtype=torch.float64)
    found = saved_bytes(lambda: [layer(x) for layer in layers], model)
    assert found == 2 * 5 * 8 * 4 * num_columns


def test_layers_that_share_a_copy_have_the_gradients_of_single_layers(
    make_toy: Callable,
) -> None:
    columns = {"layers.1.q_proj": [0, 2], "layers.1.v_proj": [2, 3]}
    together = sparse_at(make_toy(), columns)
    alone = [sparse_at(make_toy(), {name: c})[0] for name, c in columns.items()]
    x = torch.randn(2, 5, 16, dtype=torch.float64)
    for layers in (together, alone):
        sum(layer(x).square().sum() for layer in layers).backward()
    for one, other in zip(together, alone, strict=True):
        assert torch.equal(one.blocks.grad, other.blocks.grad)


@pytest.mark.parametrize("change", ["another tensor", "in place"])
def test_a_copy_is_not_used_for_another_input(make_toy: Callable, change: str) -> None:
    columns = {"layers.1.q_proj": [0], "layers.1.v_proj": [2]}
    first, second = sparse_at(make_toy(), columns)
    (alone,) = sparse_at(make_toy(), {"layers.1.v_proj": [2]})
    x = torch.randn(5, 16, dtype=torch.float64)
    held = first(x)
    if change == "in place":
        x.mul_(2)
    else:
        x = x * 2
    second(x).sum().backward()
    alone(x).sum().backward()
    assert torch.equal(second.blocks.grad, alone.blocks.grad)
    held.sum().backward()


def test_a_copied_model_shares_inputs_only_among_its_own_layers(make_toy: Callable) -> None:
    model = make_toy()
    layers = sparse_at(model, {"layers.1.q_proj": [0], "layers.1.v_proj": [2]})
    layers[0](torch.randn(5, 16, dtype=torch.float64))
    copied = list(sparse_modules(copy.deepcopy(model)).values())
    assert copied[0].kept_input is copied[1].kept_input
    assert copied[0].kept_input is not layers[0].kept_input


def test_layers_of_one_parent_with_different_inputs_share_nothing(make_toy: Callable) -> None:
    model = nn.ModuleDict(
        {"up": nn.Linear(8, 16), "down": nn.Linear(16, 8), "o_proj": nn.Linear(8, 8)}
    )
    up, down, output = sparse_at(model, {"up": [0], "down": [0], "o_proj": [1]})
    assert [layer.kept_input.columns for layer in (up, down, output)] == [(0,), (0,), (1,)]


def test_a_model_that_does_not_fit_is_an_error_and_stays_unchanged(
    make_toy: Callable, choose: Callable
) -> None:
    class Conv1D(nn.Module):
        pass

    selection = choose(make_toy())
    name = next(n for n, count in selection.counts().items() if count)
    wide = nn.Linear(16, 32)
    for replacement, rule in (
        (Conv1D(), "must be a plain torch.nn.Linear; got 'Conv1D'"),
        (wide, r"must have the selection's shape \(16, 16\); got \(32, 16\)"),
        (None, "must be in the model"),
    ):
        model = make_toy()
        if replacement is None:
            del model.layers[0].q_proj
        else:
            model.layers[0].q_proj = replacement
        with pytest.raises(UserError, match=f"module {name}: {rule}"):
            apply_selection(model, selection)
        assert not sparse_modules(model)
        assert model.head.weight.requires_grad


def test_a_subclass_of_linear_is_an_error(make_toy: Callable, choose: Callable) -> None:
    class Linear4bit(nn.Linear):
        pass

    model = make_toy()
    selection = choose(model)
    model.layers[0].q_proj = Linear4bit(16, 16)
    with pytest.raises(UserError, match="got 'Linear4bit'"):
        apply_selection(model, selection)


def test_a_tied_weight_is_an_error(make_toy: Callable, choose: Callable) -> None:
    model = make_toy()
    selection = choose(model)
    model.layers[1].q_proj = model.layers[0].q_proj
    tied = r"target_modules: .* layers.0.q_proj is tied to layers.1.q_proj.weight; got 'layers.0"
    with pytest.raises(UserError, match=tied):
        apply_selection(model, selection)


def test_a_second_selection_needs_the_first_to_be_unloaded(
    make_toy: Callable, choose: Callable
) -> None:
    model = make_toy()
    first, second = choose(model), choose(model, seed=1)
    with pytest.raises(UserError, match="must have sparse layers"):
        unload(model)
    apply_selection(model, first)
    with pytest.raises(UserError, match=r"no sparse layers yet.*unload or merge_and_unload"):
        apply_selection(model, second)
    apply_selection(unload(model), second)
    assert {n for n, m in sparse_modules(model).items() if isinstance(m, SparseLinear)} == {
        n for n, count in second.counts().items() if count
    }


def test_a_selection_with_one_wrong_shape_changes_no_module(
    make_toy: Callable, choose: Callable
) -> None:
    model = make_toy()
    selection = choose(model, num_blocks=30)
    last = list(selection.modules)[-1]
    wrong = replace(selection.modules[last], shape=(64, 64))
    broken = replace(selection, modules={**selection.modules, last: wrong})
    with pytest.raises(UserError, match=last):
        apply_selection(model, broken)
    assert not sparse_modules(model)
