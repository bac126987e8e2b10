"""Claims about the kernels of packed attention: they compute its definition and its gradients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.memory import SavedBytes
from smt_ray.data.packing import PackedRows, Segment
from smt_ray.training.attention import packed, varlen
from smt_ray.training.attention.cores import Attended, Core, Dense, FlashCpu, choose_core
from smt_ray.training.attention.parts import CHUNK
from tests.training.attention.reference import (
    allowed,
    attend,
    flash_backward,
    flash_forward,
    make_rows,
)

Patch = pytest.MonkeyPatch
SCALE = 0.3


def tensors(rows: PackedRows, *, dtype: torch.dtype, value_size: int = 8) -> list[Tensor]:
    """Queries of six heads, keys and values of two, as models lay them out: heads first."""
    generator = torch.Generator().manual_seed(0)
    num_tokens = rows.offsets()[-1]
    made = []
    for heads, size in ((6, 8), (2, 8), (2, value_size)):
        states = torch.randn(1, heads, num_tokens, size, generator=generator, dtype=torch.float64)
        made.append(states.to(dtype).requires_grad_())
    return made


def run(
    rows: PackedRows, window: int | None, states: list[Tensor]
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The result and the gradients of the kernel that is chosen."""
    output, _ = packed.packed_attention(
        torch.nn.Module(),
        *states,
        None,
        scaling=SCALE,
        sliding_window=window,
        **{packed.KEYWORD: rows},
    )
    return output.detach(), torch.autograd.grad(output, states, _grad(output))


def expected(
    rows: PackedRows, window: int | None, states: list[Tensor]
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The same by definition, in float64."""
    double = [x.detach().double().requires_grad_() for x in states]
    by_token = [x[0].transpose(0, 1) for x in double]
    output = attend(*by_token, allowed(rows, window), SCALE)[None]
    return output.detach(), torch.autograd.grad(output, double, _grad(output))


def _grad(like: Tensor) -> Tensor:
    """The same gradient of the result in all dtypes."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(like.shape, generator=generator, dtype=torch.float64).to(like.dtype)


def use_core(core: Core) -> Callable[[Patch], None]:
    return lambda patch: patch.setattr(packed, "choose_core", lambda *_: core)


def use_varlen(patch: Patch) -> None:
    """CUDA's way over the parts, with its two kernels replaced by their definitions."""
    patch.setattr(packed, "has_varlen", lambda *_: True)
    patch.setattr(varlen, "_forward", flash_forward)
    patch.setattr(varlen, "_backward", flash_backward)


KERNELS = {"flash": use_core(FlashCpu()), "dense": use_core(Dense()), "varlen": use_varlen}


@pytest.mark.parametrize("window", [None, 2, 5])
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("kernel", KERNELS)
def test_results_and_gradients_are_those_of_the_definition(
    kernel: str, seed: int, window: int | None, monkeypatch: Patch
) -> None:
    KERNELS[kernel](monkeypatch)
    rows = make_rows(seed=seed)
    states = tensors(rows, dtype=torch.float64)
    _assert_close(run(rows, window, states), expected(rows, window, states), 1e-12)


@pytest.mark.parametrize("window", [None, 100])
@pytest.mark.parametrize("kernel", KERNELS)
def test_rows_longer_than_a_chunk(kernel: str, window: int | None, monkeypatch: Patch) -> None:
    KERNELS[kernel](monkeypatch)
    rows = PackedRows((Segment(-1, 0, 2 * CHUNK + 9), *(Segment(0, 2 * CHUNK + 9, 30),) * 2))
    states = tensors(rows, dtype=torch.float64)
    _assert_close(run(rows, window, states), expected(rows, window, states), 1e-12)


@pytest.mark.parametrize("core", [FlashCpu(), Dense()])
def test_bfloat16_is_as_exact_as_its_rounding(core: Core, monkeypatch: Patch) -> None:
    use_core(core)(monkeypatch)
    rows = make_rows()
    states = tensors(rows, dtype=torch.bfloat16)
    found = run(rows, None, states)
    assert found[0].dtype == torch.bfloat16
    _assert_close(found, expected(rows, None, states), 1e-2)


def test_values_of_another_size_use_plain_products() -> None:
    rows = make_rows()
    states = tensors(rows, dtype=torch.float64, value_size=12)
    assert isinstance(choose_core(states[0], states[2]), Dense)
    _assert_close(run(rows, None, states), expected(rows, None, states), 1e-12)


@pytest.mark.parametrize("window", [None, 64])
@pytest.mark.parametrize("shared", [0, 300])
def test_kept_bytes_are_linear_in_the_tokens(shared: int, window: int | None) -> None:
    """Queries, keys, values, the result, and a number for each query and head; nothing else."""
    for length in (600, 1200):
        segments = (Segment(-1, 0, length),)
        if shared:
            segments = (Segment(-1, 0, shared), *(Segment(0, shared, length - shared),) * 2)
        rows = PackedRows(segments)
        states = tensors(rows, dtype=torch.float32)
        with SavedBytes(()) as kept:
            packed.packed_attention(
                torch.nn.Module(), *states, None, sliding_window=window, **{packed.KEYWORD: rows}
            )
        per_token = (6 + 2 + 2 + 6) * 8 + 6
        assert kept.total == rows.offsets()[-1] * per_token * 4


def test_dropped_weights_have_the_mean_of_the_result() -> None:
    rows = PackedRows.whole([4, 4, 9])
    states = [x.detach() for x in tensors(rows, dtype=torch.float64)]
    for window in (None, 3):
        with torch.no_grad():
            torch.manual_seed(0)
            results = [_drop(rows, window, states) for _ in range(300)]
        assert not torch.equal(results[0], results[1])
        wanted, _ = expected(rows, window, states)
        error = (torch.stack(results).mean(0) - wanted).abs().max()
        assert float(error) < 0.2


def _drop(rows: PackedRows, window: int | None, states: list[Tensor]) -> Tensor:
    keywords: dict[str, Any] = {packed.KEYWORD: rows, "sliding_window": window}
    output, _ = packed.packed_attention(
        torch.nn.Module(), *states, None, scaling=SCALE, dropout=0.1, **keywords
    )
    return output


@pytest.mark.parametrize("window", [None, 4])
def test_pytorchs_flash_kernels_take_the_arguments_of_varlen(window: int | None) -> None:
    """On the meta device, which computes shapes and dtypes only."""
    rows = make_rows()
    query, key, value = (
        x.detach()[0].transpose(0, 1).to("meta", torch.bfloat16)
        for x in tensors(rows, dtype=torch.float32)
    )
    sums = tuple(torch.zeros_like(x, dtype=torch.float32) for x in (query, key, value))
    lse = torch.empty(query.shape[:2], device="meta")
    for part in varlen.make_varlen(rows, window, torch.device("cpu")):
        moved = replace(
            part,
            keys=None if part.keys is None else part.keys.to("meta"),
            query_ends=part.query_ends.to("meta"),
            key_ends=part.key_ends.to("meta"),
        )
        output, found = moved.forward(query, key, value, SCALE)
        assert output.shape == moved.take(query).shape
        assert found.shape == moved.take(lse).shape
        assert found.dtype == torch.float32
        moved.backward(query, Attended(query, key, value, query, lse), SCALE, sums)


def _assert_close(
    found: tuple[Tensor, tuple[Tensor, ...]],
    wanted: tuple[Tensor, tuple[Tensor, ...]],
    tolerance: float,
) -> None:
    for one, other in zip((found[0], *found[1]), (wanted[0], *wanted[1]), strict=True):
        assert float((one.double() - other).norm() / other.norm()) < tolerance
