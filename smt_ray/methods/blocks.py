"""The blocks or elements that a config may select, found on a model without weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from smt_ray.config.method import SelectionConfig, SiftConfig
from smt_ray.config.run import RunConfig
from smt_ray.documents.probe import Probe
from smt_ray.documents.run import BlockShape
from smt_ray.errors import UserError
from smt_ray.models.inspect import count_parameters, find_eligible
from smt_ray.places.columns import check_room
from smt_ray.places.largest import number_of_parameters
from smt_ray.smt.grid import check_block_size, common_block_size, resolve_block_size
from smt_ray.smt.linears import linear_shapes
from smt_ray.smt.modules import choose_modules, match_groups
from smt_ray.smt.ranking import number_of_blocks, share_of_each

_FINEST = 32

Shapes = dict[str, tuple[int, int]]
"""Module name -> (out_features, in_features)."""


@dataclass(frozen=True)
class Ranking:
    """Modules whose blocks are ranked together.

    Attributes:
        modules: The names of the modules.
        num_blocks: The number of blocks that are selected in them. If blocks are columns, which
            have different sizes, it is the number of parameters in them.
    """

    modules: tuple[str, ...]
    num_blocks: int


@dataclass(frozen=True)
class EligibleBlocks:
    """The blocks that a config may select in its model.

    Attributes:
        shapes: The (O, I) of the eligible modules, in the order of the model.
        num_parameters: The number of parameters of the base model, tied ones once.
        table_block_size: The finest block size of the score table.
        block_size: The size of the blocks that are trained; 1 for single elements and columns.
        shape: What is trained.
        rankings: The ranking of each group of ``selection.groups``; a single one without groups.
    """

    shapes: Shapes
    num_parameters: int
    table_block_size: int
    block_size: int
    rankings: tuple[Ranking, ...]
    shape: BlockShape = "square"


def check_blocks(config: RunConfig, skeleton: nn.Module, probe: Probe) -> EligibleBlocks:
    """Finds the blocks that a config may select, and checks its block sizes and budgets.

    Args:
        config: The configuration of a run that selects blocks or elements.
        skeleton: The base model on the meta device.
        probe: What its architecture allows.

    Raises:
        UserError: The model has no such modules, blocks or number of blocks.
    """
    targets = config.warmup.target_modules
    eligible = find_eligible(skeleton, targets, unused=probe.unused_linears)
    shapes = linear_shapes(eligible)
    num_parameters = count_parameters(skeleton)
    finest = _finest(config, shapes)
    if config.selects_elements:
        chosen = selectable(config.sift, shapes, "sift")
        count = number_of_parameters(config.sift.budget, chosen, num_parameters, "sift.budget")
        whole = (Ranking(tuple(chosen), count),)
        return EligibleBlocks(shapes, num_parameters, finest, 1, whole, "element")
    selected = selectable(config.selection, shapes, "selection")
    if config.selects_columns:
        rankings = _column_rankings(config, selected, num_parameters)
        return EligibleBlocks(shapes, num_parameters, finest, 1, rankings, "column")
    size = resolve_block_size(selected, config.selection.block_size, multiple_of=finest)
    _check_lift_rank(config, selected)
    rankings = _rankings(config, selected, size, num_parameters)
    return EligibleBlocks(shapes, num_parameters, finest, size, rankings)


def _finest(config: RunConfig, shapes: Shapes) -> int:
    asked = config.warmup.table_block_size
    if asked == "auto":
        return common_block_size(shapes, limit=_FINEST)
    check_block_size(shapes, asked, field="warmup.table_block_size")
    return asked


def _column_rankings(config: RunConfig, shapes: Shapes, num_parameters: int) -> tuple[Ranking, ...]:
    found = []
    for group, names, budget in _groups(config, shapes):
        assert budget is not None
        field = "selection.budget" if group is None else f"selection.groups.{group}"
        chosen = {name: shapes[name] for name in names}
        count = number_of_parameters(budget, chosen, num_parameters, field)
        check_room(chosen, count, config.selection.scope, field)
        found.append(Ranking(tuple(names), count))
    return tuple(found)


def _groups(
    config: RunConfig, shapes: Shapes
) -> Iterator[tuple[str | None, list[str], float | None]]:
    """The groups that are ranked apart: name, modules and budget; a single one without groups."""
    selection, budgets = config.selection, config.selection.groups or {}
    groups: list[tuple[str | None, list[str]]] = [*match_groups(shapes, budgets).items()]
    for group, names in groups or [(None, list(shapes))]:
        yield group, names, budgets.get(group or "", selection.budget)


def _check_lift_rank(config: RunConfig, shapes: Shapes) -> None:
    rank, largest = config.selection.lift_rank, min(min(shape) for shape in shapes.values())
    if config.selection.score == "lift" and rank >= largest:
        raise UserError(
            "selection.lift_rank",
            f"must be less than {largest}, the smallest dimension of the eligible weights",
            got=rank,
            fix="lower it, or use score magnitude, which is the same with full rank",
        )


def selectable(section: SelectionConfig | SiftConfig, shapes: Shapes, name: str) -> Shapes:
    """The modules that may be selected from, by the target modules and layers of a section.

    Args:
        section: The section.
        shapes: The eligible modules.
        name: The name of the section, for an error.

    Raises:
        UserError: A target module or a layer is not there.
    """
    chosen = choose_modules(shapes, section.target_modules, section.layers, section=name)
    return {module: shapes[module] for module in chosen}


def _rankings(
    config: RunConfig, shapes: Shapes, size: int, num_parameters: int
) -> tuple[Ranking, ...]:
    selection, found = config.selection, []
    for group, names, budget in _groups(config, shapes):
        count = number_of_blocks(
            budget=budget,
            num_blocks=selection.num_blocks,
            block_size=size,
            num_base_parameters=num_parameters,
            num_eligible=sum(shapes[name][0] * shapes[name][1] for name in names) // size**2,
            group=group,
        )
        if selection.scope == "per_module":
            share_of_each(count, len(names))  # it refuses fewer blocks than modules
        found.append(Ranking(tuple(names), count))
    return tuple(found)
