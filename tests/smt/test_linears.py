"""Claims about the linears whose blocks can be trained."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers.models.falcon.modeling_falcon import FalconLinear
from transformers.pytorch_utils import Conv1D

from smt_ray.smt.controls import magnitude_scores
from smt_ray.smt.gradients import GradientAccumulator
from smt_ray.smt.linears import (
    dense_weight,
    is_plain_linear,
    is_transposed,
    linear_shape,
    linear_shapes,
)


@pytest.mark.parametrize("linear", [nn.Linear(20, 12), FalconLinear(20, 12), Conv1D(12, 20)])
def test_shapes_and_weights_of_all_classes_are_those_of_the_map(linear: nn.Module) -> None:
    assert is_plain_linear(linear)
    assert is_transposed(linear) == isinstance(linear, Conv1D)
    assert linear_shapes({"linear": linear}) == {"linear": (12, 20)}
    assert linear_shape(linear.to(torch.float64)) == (12, 20)
    x = torch.eye(20, dtype=torch.float64)
    with torch.no_grad():
        assert torch.equal(linear(x) - linear.bias, dense_weight(linear).t())
        dense_weight(linear).zero_()  # it is a view
    assert not linear.weight.any()


def test_other_subclasses_and_classes_of_the_same_name_are_no_plain_linears() -> None:
    class Linear4bit(nn.Linear):
        pass

    class FalconLinear(nn.Linear):
        pass

    class Conv1D(nn.Module):
        pass

    for other in (Linear4bit(4, 4), FalconLinear(4, 4), Conv1D(), nn.Embedding(4, 4)):
        assert not is_plain_linear(other)
        assert not is_transposed(other)


@pytest.mark.parametrize("shape", [(12, 20), (16, 16)])
@pytest.mark.parametrize("device", [None, "host"])
def test_gradient_sums_of_a_transposed_linear_are_dense(
    shape: tuple[int, int], device: str | None
) -> None:
    out_features, in_features = shape
    transposed, unused = Conv1D(*shape), Conv1D(*shape)
    dense = nn.Linear(in_features, out_features)
    dense.weight.data.copy_(dense_weight(transposed))
    dense.bias.data.copy_(transposed.bias)
    model = nn.ModuleList([transposed, unused])
    linears = {"used": transposed, "unused": unused}
    with GradientAccumulator(model, linears, device) as accumulator:
        for seed in range(3):
            x = torch.randn(5, in_features, generator=torch.Generator().manual_seed(seed))
            transposed(x).square().sum().backward()
            dense(x).square().sum().backward()
    torch.testing.assert_close(accumulator.pop("used"), dense.weight.grad)
    assert torch.equal(accumulator.pop("unused"), torch.zeros(shape))


def test_magnitudes_of_a_transposed_linear_are_in_the_dense_grid() -> None:
    linear = Conv1D(8, 12)
    with torch.no_grad():
        dense_weight(linear)[4:8, 8:12] = 9
    scores = magnitude_scores({"linear": dense_weight(linear)}, 4)["linear"]
    assert scores.shape == (2, 3)
    assert scores.argmax().item() == 5  # row 1, column 2
