from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from smt_ray.smt.layers.kept_input import KeptInput
from smt_ray.smt.layers.linear import SparseLinear

INDICES = torch.tensor([[0, 1], [1, 1], [1, 4], [2, 0]], dtype=torch.int32)
ALL = torch.cartesian_prod(torch.arange(3), torch.arange(5)).int()


def pair(
    dtype: torch.dtype = torch.float64, bias: bool = True, indices: Tensor = INDICES
) -> tuple[nn.Linear, SparseLinear]:
    """A dense linear (12, 20), and a sparse layer with blocks of 4 x 4 of a copy."""
    torch.manual_seed(0)
    dense = nn.Linear(20, 12, bias=bias, dtype=dtype)
    return dense, SparseLinear.from_linear(copy.deepcopy(dense), indices, 4)


def draw(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3), dtype=dtype)


def current(layer: SparseLinear) -> Tensor:
    """The blocks in the weight."""
    return layer.grid.gather(layer.weight, layer.indices)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("leading", [(), (7,), (3, 7), (2, 3, 7), (2, 1, 3, 7), (0, 7)])
def test_forward_equals_nn_linear_bit_for_bit_at_the_start(
    leading: tuple[int, ...], dtype: torch.dtype, bias: bool
) -> None:
    dense, sparse = pair(dtype, bias)
    x = draw(*leading, 20, dtype=dtype)
    reference = dense(x.view(-1, 20)).view(*leading, 12) if leading == () else dense(x)
    assert torch.equal(sparse(x), reference)
    with torch.no_grad():
        assert torch.equal(sparse(x), dense(x))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("leading", [(7,), (3, 7), (2, 3, 7), (2, 1, 3, 7)])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 2e-2)]
)
def test_block_gradient_equals_dense_gradient_slice_for_any_leading_dimensions(
    dtype: torch.dtype, tolerance: float, leading: tuple[int, ...], bias: bool
) -> None:
    dense, sparse = pair(dtype, bias)
    x, other = (draw(*leading, 20, dtype=dtype).requires_grad_() for _ in range(2))
    dense(x).square().sum().backward()
    sparse(other).square().sum().backward()
    expected = sparse.grid.gather(dense.weight.grad, INDICES)
    expected = expected.to(sparse.blocks.dtype)
    torch.testing.assert_close(sparse.blocks.grad, expected, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(other.grad, x.grad, rtol=tolerance, atol=tolerance)
    assert sparse.weight.grad is None


def test_an_input_need_not_be_contiguous() -> None:
    dense, sparse = pair()
    x = draw(20, 5, 3).transpose(0, 2)  # for which nn.Linear adds the bias in a step of its own
    torch.testing.assert_close(sparse(x), dense(x), rtol=1e-12, atol=1e-12)


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "AdamW": torch.optim.AdamW,
    "AdamW foreach": lambda p, **k: torch.optim.AdamW(p, foreach=True, **k),
    "AdamW fused": lambda p, **k: torch.optim.AdamW(p, fused=True, **k),
    "SGD fused": lambda p, **k: torch.optim.SGD(p, fused=True, **k),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_plain_optimizer_works(name: str) -> None:
    _, sparse = pair()
    optimizer = OPTIMIZERS[name]([sparse.blocks], lr=0.1)
    x = draw(6, 20)
    losses = []
    for _ in range(4):
        loss = sparse(x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses == sorted(losses, reverse=True)
    with torch.no_grad():  # the step after the last forward is seen too
        sparse(x)
    assert torch.equal(current(sparse), sparse.blocks)
    assert not torch.equal(sparse.blocks.cpu(), sparse.original_blocks)


@pytest.mark.parametrize("bias", [True, False])
def test_training_all_blocks_equals_dense_training_over_20_adam_steps(bias: bool) -> None:
    dense, sparse = pair(bias=bias, indices=ALL)
    if bias:
        dense.bias.requires_grad_(False)
    x, target = draw(9, 20), draw(9, 12)
    for model, trained in ((dense, dense.weight), (sparse, sparse.blocks)):
        optimizer = torch.optim.Adam([trained], lr=1e-2)
        for _ in range(20):
            optimizer.zero_grad()
            F.mse_loss(model(x), target).backward()
            optimizer.step()
    torch.testing.assert_close(sparse.merge().weight, dense.weight, rtol=1e-12, atol=1e-12)


def test_unselected_weights_stay_bitwise_unchanged() -> None:
    dense, sparse = pair()
    optimizer = torch.optim.AdamW([sparse.blocks], lr=0.1, weight_decay=0.1)
    for _ in range(3):
        sparse(draw(6, 20)).square().mean().backward()
        optimizer.step()
    selected = torch.zeros(12, 20, dtype=torch.bool)
    sparse.grid.scatter_(selected, INDICES, torch.ones(4, 4, 4, dtype=torch.bool))
    merged = sparse.merge().weight
    assert torch.equal(merged[~selected], dense.weight[~selected])
    assert not torch.isclose(merged[selected], dense.weight[selected]).any()


def test_the_gradients_of_two_forwards_before_one_backward_are_added() -> None:
    dense, sparse = pair()
    first, second = draw(6, 20), draw(2, 3, 20) + 1
    for model in (dense, sparse):
        (model(first).square().sum() + model(second).square().sum()).backward()
    expected = sparse.grid.gather(dense.weight.grad, INDICES)
    torch.testing.assert_close(sparse.blocks.grad, expected, rtol=1e-12, atol=1e-12)


def test_a_change_between_forward_and_backward_is_an_error_as_in_nn_linear() -> None:
    _, sparse = pair()
    loss = sparse(draw(6, 20)).sum()
    with torch.no_grad():
        sparse.blocks.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("reentrant", [True, False])
def test_activation_checkpointing_gives_the_same_gradients(reentrant: bool) -> None:
    _, sparse = pair()
    x = draw(6, 20).requires_grad_()
    sparse(x).square().sum().backward()
    expected, expected_x = sparse.blocks.grad, x.grad
    sparse.blocks.grad = x.grad = None
    checkpoint(lambda v: sparse(v).square(), x, use_reentrant=reentrant).sum().backward()
    assert torch.equal(sparse.blocks.grad, expected)
    assert torch.equal(x.grad, expected_x)


def saved_bytes(run: Callable[[], Tensor], but: list[Tensor]) -> int:
    """The bytes of all storages saved for backward, except those of parameters."""
    storages: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        run()
    known = {tensor.untyped_storage().data_ptr() for tensor in but}
    return sum(nbytes for pointer, nbytes in storages.items() if pointer not in known)


def test_only_the_distinct_chosen_columns_are_saved() -> None:
    dense, sparse = pair()
    x = draw(2, 7, 20)
    tokens, columns = 14, 3  # INDICES name three distinct block columns
    assert saved_bytes(lambda: sparse(x), list(sparse.parameters())) == tokens * columns * 4 * 8
    assert saved_bytes(lambda: dense(x), list(dense.parameters())) == tokens * 20 * 8
    _, single = pair(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):  # in the dtype that backward works in
        low = saved_bytes(lambda: single(x.float()), list(single.parameters()))
    assert low == tokens * columns * 4 * 2


def test_a_layer_that_uses_all_columns_saves_its_input_and_no_copy() -> None:
    _, sparse = pair(indices=ALL)
    x = draw(14, 20)
    parameters = list(sparse.parameters())
    assert sparse.kept_input.columns is None
    assert saved_bytes(lambda: sparse(x), parameters) == 14 * 20 * 8
    assert saved_bytes(lambda: sparse(x), [*parameters, x]) == 0


def test_frozen_blocks_save_nothing_of_the_input() -> None:
    _, sparse = pair()
    sparse.blocks.requires_grad_(False)
    x = draw(14, 20).requires_grad_()
    assert saved_bytes(lambda: sparse(x), list(sparse.parameters())) == 0
    sparse(x).sum().backward()
    torch.testing.assert_close(x.grad, sparse.weight.sum(0).expand(14, 20))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("backward_inside", [True, False])
@pytest.mark.parametrize("save_input", [True, False])
def test_autocast_gives_the_gradients_of_nn_linear(
    dtype: torch.dtype, backward_inside: bool, save_input: bool
) -> None:
    dense, sparse = pair(torch.float32)
    dense, sparse = dense.to(dtype), SparseLinear.from_linear(dense.to(dtype), INDICES, 4)
    sparse.share_input(KeptInput(20, 4, range(5) if save_input else sparse.layout.cols))
    dense.weight = nn.Parameter(dense.weight.detach().clone())
    x, other = (draw(6, 20, dtype=torch.float32).requires_grad_() for _ in range(2))
    for model, inputs in ((dense, x), (sparse, other)):
        with torch.autocast("cpu", torch.bfloat16):
            y = model(inputs)
            assert y.dtype == torch.bfloat16
            if backward_inside:
                y.sum().backward()
        if not backward_inside:
            y.sum().backward()
    assert (sparse.blocks.grad.dtype, other.grad.dtype) == (torch.float32, torch.float32)
    expected = sparse.grid.gather(dense.weight.grad, INDICES).float()
    torch.testing.assert_close(sparse.blocks.grad, expected, rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(other.grad, x.grad, rtol=1e-2, atol=1e-2)


def test_a_backward_inside_autocast_does_not_recast_a_float32_forward() -> None:
    dense, sparse = pair(torch.float32)
    x = draw(6, 20, dtype=torch.float32).requires_grad_()
    loss, reference = sparse(x).square().sum(), dense(x).square().sum()
    with torch.autocast("cpu", torch.bfloat16):
        (grad_blocks, grad_x) = torch.autograd.grad(loss, (sparse.blocks, x))
    grad_weight, dense_grad_x = torch.autograd.grad(reference, (dense.weight, x))
    torch.testing.assert_close(grad_blocks, sparse.grid.gather(grad_weight, INDICES))
    torch.testing.assert_close(grad_x, dense_grad_x)


class Gathered:
    """Imitates ZeRO-3: the weight only exists while the layer computes, with the base's values."""

    def __init__(self, layer: SparseLinear) -> None:
        self.layer, self.base = layer, layer.weight.detach().clone()
        layer.register_forward_pre_hook(lambda *_: self.gather())
        layer.register_forward_hook(lambda *_: self.release())
        self.release()

    def gather(self) -> None:
        self.layer.weight.data = self.base.clone()

    def release(self) -> None:
        self.layer.weight.data = torch.empty(0, dtype=self.base.dtype)


def test_a_weight_that_is_gathered_for_each_use_gives_the_same_results() -> None:
    def train(layer: SparseLinear, gathered: Gathered | None) -> list[Tensor]:
        optimizer = torch.optim.SGD([layer.blocks], lr=0.1)
        results = []
        for step in range(3):
            x = (draw(6, 20) + step).requires_grad_()
            y = layer(x)
            if gathered:
                gathered.gather()
            y.square().mean().backward()
            if gathered:
                gathered.release()
            optimizer.step()
            results += [y.detach(), x.grad, layer.blocks.grad.clone()]
            layer.blocks.grad = None
        return results

    (_, staying), (_, fresh) = pair(), pair()
    for ours, theirs in zip(train(fresh, Gathered(fresh)), train(staying, None), strict=True):
        assert torch.equal(ours, theirs)


def test_refresh_writes_blocks_that_were_changed_through_data() -> None:
    _, sparse = pair()
    x = draw(6, 20)
    sparse(x)
    sparse.blocks.data.add_(1)
    assert not torch.equal(current(sparse), sparse.blocks)  # nothing tells autograd of it
    sparse.refresh()
    assert torch.equal(current(sparse), sparse.blocks)


def test_merge_gives_a_plain_linear_with_the_tuned_weight() -> None:
    _, sparse = pair()
    with torch.no_grad():
        sparse.blocks.mul_(2)
    x = draw(3, 6, 20)
    tuned = sparse(x)
    merged = sparse.eval().merge()
    assert type(merged) is nn.Linear
    assert not merged.training
    assert torch.equal(merged(x), tuned)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_unmerge_restores_the_base_linear_bit_for_bit(dtype: torch.dtype) -> None:
    dense, sparse = pair(dtype)
    with torch.no_grad():
        sparse.blocks.mul_(2)
    sparse(draw(6, 20, dtype=dtype))
    restored = sparse.unmerge()
    assert type(restored) is nn.Linear
    assert torch.equal(restored.weight, dense.weight)
    assert torch.equal(restored.bias, dense.bias)


def test_a_change_of_dtype_changes_the_blocks_and_not_the_indices() -> None:
    _, sparse = pair(torch.float32)
    sparse.to(torch.bfloat16)
    assert torch.equal(sparse.indices, INDICES)
    assert sparse.blocks.dtype == sparse.weight.dtype == torch.bfloat16
    assert torch.equal(current(sparse), sparse.blocks)


@pytest.mark.parametrize("assign", [True, False])
def test_a_loaded_state_is_used_by_the_next_forward(assign: bool) -> None:
    (_, source), (_, target) = pair(), pair()
    with torch.no_grad():
        source.blocks.add_(1)
    x = draw(6, 20)
    state = copy.deepcopy(source.state_dict())
    target(x)
    target.load_state_dict({"blocks": state["blocks"]}, strict=False, assign=assign)
    assert torch.equal(target(x), source(x))


def test_a_state_of_other_blocks_is_an_error() -> None:
    (_, source), (_, target) = pair(), pair(indices=INDICES[[0, 1, 3]])
    with pytest.raises(RuntimeError, match="another selection of blocks"):
        target.load_state_dict(source.state_dict())


def test_a_copy_is_trained_separately() -> None:
    _, sparse = pair()
    twin = copy.deepcopy(sparse)
    with torch.no_grad():
        twin.blocks.zero_()
    x = draw(6, 20)
    assert not torch.equal(twin(x), sparse(x))
    assert not current(twin).any()


def test_a_layer_made_in_inference_mode_works() -> None:
    dense, _ = pair()
    with torch.inference_mode():
        layer = SparseLinear.from_linear(copy.deepcopy(dense), INDICES, 4)
        layer.blocks.add_(0)
        assert torch.equal(layer(draw(6, 20)), dense(draw(6, 20)))


def test_forward_and_backward_work_on_the_meta_device() -> None:
    layer = SparseLinear.from_linear(nn.Linear(20, 12, device="meta"), INDICES, 4)
    x = torch.empty(2, 7, 20, device="meta", requires_grad=True)
    layer(x).sum().backward()
    assert (x.grad.shape, layer.blocks.grad.shape) == (x.shape, (4, 4, 4))


def test_the_repr_has_the_block_size_and_the_number_of_blocks() -> None:
    _, sparse = pair()
    expected = "in_features=20, out_features=12, bias=True, block_size=4, num_blocks=4"
    assert repr(sparse) == f"SparseLinear({expected})"


def test_an_unfrozen_bias_gets_its_gradient() -> None:
    dense, sparse = pair()
    sparse.bias.requires_grad_(True)
    kwargs: dict[str, Any] = {"rtol": 1e-12, "atol": 1e-12}
    for model in (dense, sparse):
        model(draw(6, 20)).square().sum().backward()
    torch.testing.assert_close(sparse.bias.grad, dense.bias.grad, **kwargs)
