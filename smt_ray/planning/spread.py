"""A selection before there is a warm-up: as many blocks, at the places that cost the most."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from smt_ray.methods.blocks import EligibleBlocks
from smt_ray.smt.grid import BlockGrid
from smt_ray.smt.ranking import share_of_each
from smt_ray.smt.selection import ModuleSelection, Selection


def spread_selection(blocks: EligibleBlocks, scope: str) -> Selection:
    """Spreads each ranking's blocks evenly over its modules, in as many input columns as possible.

    Every layer is then trained and keeps the most inputs that so many blocks can ask for. A real
    selection needs no more.

    Args:
        blocks: The blocks that a config may select in its model.
        scope: ``global``, or ``per_module`` for the same whole number of blocks in each module.
    """
    modules: dict[str, ModuleSelection] = {}
    for ranking in blocks.rankings:
        grids = {
            name: BlockGrid(*blocks.shapes[name], blocks.block_size) for name in ranking.modules
        }
        start = 0
        for name, count in _shares(grids, ranking.num_blocks, scope).items():
            indices = _diagonal(grids[name], count, start)
            start += count
            modules[name] = ModuleSelection(
                blocks.shapes[name], indices, torch.zeros(count, dtype=torch.float64)
            )
    return Selection(
        block_size=blocks.block_size,
        modules={name: modules[name] for name in blocks.shapes if name in modules},
        num_base_parameters=blocks.num_parameters,
        num_requested=sum(ranking.num_blocks for ranking in blocks.rankings),
        score="spread",
        scope=scope,
        margin=None,
    )


def _shares(grids: Mapping[str, BlockGrid], wanted: int, scope: str) -> dict[str, int]:
    """The blocks of each module: equal numbers, or all blocks of a module that has fewer."""
    if scope == "per_module":
        each = share_of_each(wanted, len(grids))
        return {name: min(each, grid.num_blocks) for name, grid in grids.items()}
    shares = dict.fromkeys(grids, 0)
    # Small modules first: the others take what these cannot hold.
    for place, name in enumerate(sorted(grids, key=lambda name: grids[name].num_blocks)):
        equal = -(-(wanted - sum(shares.values())) // (len(grids) - place))
        shares[name] = min(equal, grids[name].num_blocks)
    return shares


def _diagonal(grid: BlockGrid, count: int, start: int) -> torch.Tensor:
    """Distinct indices (count, 2), each in a new column as long as there is one."""
    step = torch.arange(count)
    cols = (step + start) % grid.num_cols
    rows = (step // grid.num_cols + cols) % grid.num_rows
    order = torch.argsort(rows * grid.num_cols + cols)
    return torch.stack([rows, cols], dim=1)[order].to(torch.int32)
