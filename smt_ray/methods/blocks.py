"""What a config asks of its model, checked on the meta device before anything long is done."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from torch import nn

from smt_ray.config.run import RunConfig
from smt_ray.methods.lora import choose_rank, default_alpha, find_targets, target_shapes
from smt_ray.models.inspect import count_parameters, find_eligible
from smt_ray.models.load import load_skeleton
from smt_ray.smt.grid import check_block_size, common_block_size, resolve_block_size
from smt_ray.smt.modules import match_groups, match_modules
from smt_ray.smt.ranking import number_of_blocks, share_of_each
from smt_ray.stages.plan import RunPlan

_FINEST = 32


@dataclass(frozen=True)
class Preflight:
    """What the warm-up needs to know of the model.

    Attributes:
        shapes: Eligible modules' (O, I), in the model's order.
        num_parameters: Of the base model, tied ones once.
        table_block_size: The finest block size that the table will hold.
        block_size: Of the blocks that are trained.
        groups: The modules of each ranking and the blocks that its budget asks for; one ranking
            where there are no groups.
    """

    shapes: dict[str, tuple[int, int]]
    num_parameters: int
    table_block_size: int
    block_size: int
    groups: tuple[tuple[tuple[str, ...], int], ...]


def skeleton_of(plan: RunPlan) -> nn.Module:
    """The base model on the meta device: to be looked at alone, for runs of one model share it.

    Raises:
        UserError: Its configuration cannot be read.
    """
    return _skeleton(json.dumps(plan.model), json.dumps(plan.identity))


@lru_cache(maxsize=1)  # reading a GGUF's takes seconds, and every run of a comparison asks for it
def _skeleton(model: str, _identity: str) -> nn.Module:
    return load_skeleton(json.loads(model))


def check_model(config: RunConfig, skeleton: nn.Module) -> Preflight:
    """Checks target modules, block sizes and the budget.

    Raises:
        UserError: One of them cannot be met; the message says what could.
    """
    eligible = find_eligible(skeleton, config.warmup.target_modules)
    shapes = {name: (m.out_features, m.in_features) for name, m in eligible.items()}
    num_parameters = count_parameters(skeleton)
    finest = _finest(config, shapes)
    size, groups = _check_selection(config, shapes, finest, num_parameters)
    return Preflight(shapes, num_parameters, finest, size, groups)


def check_lora(config: RunConfig, skeleton: nn.Module) -> dict[str, Any]:
    """Checks LoRA's or DoRA's target modules, and makes a budget a rank.

    Returns:
        The rest of :class:`smt_ray.methods.lora.LoraSettings`, as plain values.

    Raises:
        UserError: A target matches no linear, or the budget comes to no rank.
    """
    lora = config.lora
    shapes = target_shapes(find_targets(skeleton, lora.target_modules))
    rank = lora.rank
    if rank is None:
        assert lora.budget is not None
        rank = choose_rank(
            shapes, lora.budget, count_parameters(skeleton), use_dora=config.method == "dora"
        )
    return {
        "rank": rank,
        "alpha": lora.alpha or default_alpha(rank),
        "dropout": lora.dropout,
        "target_modules": lora.target_modules,
        "seed": config.seed,
    }


def _finest(config: RunConfig, shapes: dict[str, tuple[int, int]]) -> int:
    asked = config.warmup.table_block_size
    if asked == "auto":
        return common_block_size(shapes, limit=_FINEST)
    check_block_size(shapes, asked, field="warmup.table_block_size")
    return asked


def _check_selection(
    config: RunConfig, shapes: dict[str, tuple[int, int]], finest: int, num_parameters: int
) -> tuple[int, tuple[tuple[tuple[str, ...], int], ...]]:
    selection = config.selection
    if selection.target_modules is not None:
        shapes = {name: shapes[name] for name in match_modules(shapes, selection.target_modules)}
    size = resolve_block_size(shapes, selection.block_size, multiple_of=finest)
    groups = match_groups(shapes, selection.groups or {}) or {None: list(shapes)}
    found = []
    for group, names in groups.items():
        count = number_of_blocks(
            budget=(selection.groups or {}).get(group or "", selection.budget),
            num_blocks=selection.num_blocks,
            block_size=size,
            num_base_parameters=num_parameters,
            num_eligible=sum(shapes[name][0] * shapes[name][1] for name in names) // size**2,
            group=group,
        )
        if selection.scope == "per_module":
            share_of_each(count, len(names))
        found.append((tuple(names), count))
    return size, tuple(found)
