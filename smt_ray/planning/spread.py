"""A selection before the warm-up has made one: as many blocks, at the places that cost the most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from smt_ray.smt.grid import BlockGrid
from smt_ray.smt.ranking import share_of_each
from smt_ray.smt.selection import ModuleSelection, Selection

Groups = Sequence[tuple[Sequence[str], int]]


def spread_selection(
    shapes: Mapping[str, tuple[int, int]],
    groups: Groups,
    *,
    block_size: int,
    num_base_parameters: int,
    scope: str,
) -> Selection:
    """Spreads each group's blocks evenly over its modules, in as many input columns as there are.

    Every layer is then trained and keeps the most of its inputs that so many blocks can ask for:
    what the warm-up really chooses needs no more.

    Args:
        shapes: Module name -> (out_features, in_features) of the modules to choose from.
        groups: The modules of each ranking, and its number of blocks.
        block_size: L.
        num_base_parameters: Parameters of the base model, tied ones once.
        scope: ``global`` or ``per_module``, which gives each module the same whole number.
    """
    modules: dict[str, ModuleSelection] = {}
    for names, wanted in groups:
        grids = {name: BlockGrid(*shapes[name], block_size) for name in names}
        start = 0
        for name, count in _shares(grids, wanted, scope).items():
            indices = _diagonal(grids[name], count, start)
            start += count
            modules[name] = ModuleSelection(
                shapes[name], indices, torch.zeros(count, dtype=torch.float64)
            )
    return Selection(
        block_size=block_size,
        modules={name: modules[name] for name in shapes if name in modules},
        num_base_parameters=num_base_parameters,
        num_requested=sum(count for _, count in groups),
        score="spread",
        scope=scope,
        margin=None,
    )


def _shares(grids: Mapping[str, BlockGrid], wanted: int, scope: str) -> dict[str, int]:
    """Blocks of each module: equal numbers, or all of those that have fewer."""
    if scope == "per_module":
        each = share_of_each(wanted, len(grids))
        return {name: min(each, grid.num_blocks) for name, grid in grids.items()}
    shares = dict.fromkeys(grids, 0)
    # Small modules first: what they cannot take falls to the others.
    for place, name in enumerate(sorted(grids, key=lambda name: grids[name].num_blocks)):
        equal = -(-(wanted - sum(shares.values())) // (len(grids) - place))
        shares[name] = min(equal, grids[name].num_blocks)
    return shares


def _diagonal(grid: BlockGrid, count: int, start: int) -> torch.Tensor:
    """Distinct places (count, 2), each in a new column while there is one, from ``start`` on."""
    step = torch.arange(count)
    cols = (step + start) % grid.num_cols
    rows = (step // grid.num_cols + cols) % grid.num_rows
    order = torch.argsort(rows * grid.num_cols + cols)
    return torch.stack([rows, cols], dim=1)[order].to(torch.int32)
