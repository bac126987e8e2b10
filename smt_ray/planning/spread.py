"""A selection before the warm-up: the right number of blocks, where they need the most memory."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from smt_ray.methods.blocks import EligibleBlocks
from smt_ray.places.largest import share_out
from smt_ray.places.layouts import Kind
from smt_ray.places.selection import ModulePlaces, PlaceSelection
from smt_ray.smt.grid import BlockGrid
from smt_ray.smt.ranking import share_of_each
from smt_ray.smt.selection import ModuleSelection, Selection


def spread_selection(blocks: EligibleBlocks, scope: str) -> Selection:
    """Spreads the blocks of each ranking over its modules, in as many input columns as possible.

    Every layer is then trained and keeps as many inputs as possible, so a real selection of the
    same size does not need more memory.

    Args:
        scope: The scope of the selection; ``per_module`` gives each module the same number.
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


def spread_places(blocks: EligibleBlocks) -> PlaceSelection:
    """Spreads elements or columns evenly over the weights of each ranking.

    The memory of elements does not depend on their places. That of columns does: wide inputs keep
    more, so the same share of each weight is an average.
    """
    kind: Kind = "column" if blocks.shape == "column" else "element"
    modules: dict[str, ModulePlaces] = {}
    for ranking in blocks.rankings:
        shapes = {name: blocks.shapes[name] for name in ranking.modules}
        shares = share_out(ranking.num_blocks, {name: o * i for name, (o, i) in shapes.items()})
        owed = 0  # parameters that did not fill a column of the modules before
        for name, (out_features, in_features) in shapes.items():
            if kind == "column":
                owed += shares[name]
                count, number = round(owed / out_features), in_features
                owed -= count * out_features
            else:
                count, number = shares[name], out_features * in_features
            places = torch.arange(count) * (number // max(count, 1))
            modules[name] = ModulePlaces(shapes[name], places.to(torch.int32))
    ordered = {name: modules[name] for name in blocks.shapes if name in modules}
    return PlaceSelection(kind, ordered, blocks.num_parameters, score="spread", scope="spread")


def _shares(grids: Mapping[str, BlockGrid], wanted: int, scope: str) -> dict[str, int]:
    """The number of blocks of each module: equal shares, or all blocks of a module with fewer."""
    if scope == "per_module":
        each = share_of_each(wanted, len(grids))
        return {name: min(each, grid.num_blocks) for name, grid in grids.items()}
    shares = dict.fromkeys(grids, 0)
    # Small modules come first, since the others take the blocks that these cannot hold.
    for place, name in enumerate(sorted(grids, key=lambda name: grids[name].num_blocks)):
        equal = -(-(wanted - sum(shares.values())) // (len(grids) - place))
        shares[name] = min(equal, grids[name].num_blocks)
    return shares


def _diagonal(grid: BlockGrid, count: int, start: int) -> torch.Tensor:
    """Distinct block indices (count, 2), which use every column before they repeat one."""
    step = torch.arange(count)
    cols = (step + start) % grid.num_cols
    rows = (step // grid.num_cols + cols) % grid.num_rows
    order = torch.argsort(rows * grid.num_cols + cols)
    return torch.stack([rows, cols], dim=1)[order].to(torch.int32)
