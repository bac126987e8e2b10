from __future__ import annotations

import pytest
import torch

from smt_ray.errors import UserError
from smt_ray.smt.grid import (
    BlockGrid,
    allowed_block_sizes,
    check_block_size,
    common_block_size,
    resolve_block_size,
)

LLAMA_7B = {"q_proj": (4096, 4096), "up_proj": (11008, 4096)}
SMOLLM2 = {"q_proj": (576, 576), "k_proj": (192, 576)}


def test_view_shows_each_block_of_the_weight_without_a_copy() -> None:
    weight = torch.arange(6 * 9.0).view(6, 9)
    view = BlockGrid(6, 9, 3).view(weight)
    assert view.shape == (2, 3, 3, 3)
    for row in range(2):
        for col in range(3):
            block = weight[3 * row : 3 * row + 3, 3 * col : 3 * col + 3]
            assert torch.equal(view[row, col], block)
    assert view.untyped_storage().data_ptr() == weight.untyped_storage().data_ptr()


def test_scatter_changes_exactly_the_blocks_that_gather_reads() -> None:
    grid = BlockGrid(8, 12, 4)
    weight = torch.randn(8, 12)
    before, indices = weight.clone(), torch.tensor([[0, 1], [1, 2]], dtype=torch.int32)
    grid.scatter_(weight, indices, grid.gather(weight, indices) + 1)
    changed = torch.zeros(8, 12)
    changed[0:4, 4:8] = changed[4:8, 8:12] = 1
    assert torch.equal(weight, before + changed)


def test_gather_is_a_copy() -> None:
    weight = torch.zeros(4, 4)
    blocks = BlockGrid(4, 4, 2).gather(weight, torch.tensor([[0, 0]]))
    blocks.fill_(1)
    assert not weight.any()


def test_grid_counts_its_rows_columns_and_blocks() -> None:
    grid = BlockGrid(11008, 4096, 256)
    assert (grid.num_rows, grid.num_cols, grid.num_blocks) == (43, 16, 688)


def test_auto_is_the_largest_common_divisor_up_to_the_limit() -> None:
    assert common_block_size(LLAMA_7B) == 256
    assert common_block_size(SMOLLM2) == 192
    assert common_block_size(SMOLLM2, limit=32) == 32
    assert common_block_size({"a": (288, 288)}, multiple_of=32) == 96
    assert resolve_block_size(SMOLLM2, "auto") == 192
    assert resolve_block_size(SMOLLM2, 64) == 64


def test_allowed_block_sizes_are_exactly_those_that_divide_every_dimension() -> None:
    sizes = allowed_block_sizes(SMOLLM2)
    dimensions = [d for shape in SMOLLM2.values() for d in shape]
    assert list(sizes) == [s for s in range(1, 577) if all(d % s == 0 for d in dimensions)]


def test_the_error_for_a_block_size_names_a_module_its_shape_and_the_allowed_sizes() -> None:
    with pytest.raises(UserError, match=r"q_proj is 576 x 576; got 256.*16, 32, 64") as error:
        check_block_size({"up_proj": (1536, 512), **SMOLLM2}, 256)
    assert error.value.field == "selection.block_size"


@pytest.mark.parametrize("size", [0, -32, 2.0, True, "large"])
def test_block_size_must_be_a_positive_whole_number(size: object) -> None:
    with pytest.raises(UserError, match="positive whole number"):
        resolve_block_size(SMOLLM2, size)  # type: ignore[arg-type]


def test_there_is_no_block_size_without_modules() -> None:
    with pytest.raises(UserError, match="at least one linear"):
        common_block_size({})
