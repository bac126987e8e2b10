"""Which blocks are trained: a score table and a budget become a selection."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from smt_ray.errors import UserError
from smt_ray.smt.grid import resolve_block_size
from smt_ray.smt.modules import match_groups, match_modules
from smt_ray.smt.ranking import best, best_of_each, number_of_blocks
from smt_ray.smt.scores import ScoreTable
from smt_ray.smt.tensorfile import read_tensors, reading, write_tensors

SCOPES = ("global", "per_module")
"""One ranking over the model (the paper's), or the same number of blocks from each module."""

_KIND = "block selection"


@dataclass(frozen=True, eq=False)
class ModuleSelection:
    """The chosen blocks of one module.

    Attributes:
        shape: (out_features, in_features) of its weight.
        indices: Block indices (row, col), (M, 2) int32 on the CPU, sorted by row, then col.
        scores: Their scores, (M,) float64.
    """

    shape: tuple[int, int]
    indices: Tensor
    scores: Tensor


@dataclass(frozen=True, eq=False)
class Selection:
    """The chosen blocks of a model, with their scores and where they came from.

    Attributes:
        block_size: L, side of a block in elements.
        modules: Every module that could be chosen from, in the model's order; some may have got
            no block.
        num_base_parameters: Parameters of the base model, tied ones once.
        num_requested: Blocks that the budget asked for; above ``num_blocks`` where scope
            ``per_module`` could not give them (see :meth:`summary`).
        score: The score that ranked them.
        scope: ``global`` or ``per_module``.
        margin: Relative distance at the cut, (last chosen - first rejected) / last chosen: near
            zero, the choice at the cut is a near-tie. The smallest over modules with scope
            ``per_module``; None when nothing was rejected.
        provenance: Where the scores came from, as JSON values.
    """

    block_size: int
    modules: Mapping[str, ModuleSelection]
    num_base_parameters: int
    num_requested: int
    score: str
    scope: str
    margin: float | None
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def num_blocks(self) -> int:
        """Chosen blocks, over all modules."""
        return sum(self.counts().values())

    @property
    def num_trainable(self) -> int:
        """Parameters in the chosen blocks."""
        return self.num_blocks * self.block_size**2

    @property
    def budget(self) -> float:
        """Trainable parameters as a fraction of the base model's: the budget really reached."""
        return self.num_trainable / self.num_base_parameters

    def counts(self) -> dict[str, int]:
        """Module name -> number of its chosen blocks."""
        return {name: len(module.indices) for name, module in self.modules.items()}

    def summary(self) -> str:
        """A few printable lines: size, cut, shortfall, and blocks by the modules' last name."""
        size, missing = self.block_size, self.num_requested - self.num_blocks
        cut = "nothing rejected" if self.margin is None else f"relative margin {self.margin:.2e}"
        lines = [
            f"{self.num_blocks} blocks of {size} x {size} = {self.num_trainable:,} parameters, "
            f"{self.budget:.3%} of the base model's {self.num_base_parameters:,}",
            f"score {self.score}, scope {self.scope}, at the cut: {cut}",
        ]
        if missing:
            lines.append(
                f"{missing} fewer than the {self.num_requested} blocks asked for: scope "
                f"{self.scope} takes the same whole number from each of {len(self.modules)} "
                "modules, and no more than a module has"
            )
        kinds: dict[str, list[int]] = {}
        for name, count in self.counts().items():
            kinds.setdefault(name.rpartition(".")[2], []).append(count)
        lines += [
            f"  {kind}: {sum(counts)} blocks ({sum(counts) / self.num_blocks:.1%}) "
            f"in {sum(c > 0 for c in counts)} of {len(counts)} modules"
            for kind, counts in kinds.items()
        ]
        return "\n".join(lines)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the selection as one safetensors file with a JSON header."""
        tensors: dict[str, Tensor] = {}
        for name, module in self.modules.items():
            tensors |= {f"{name}.indices": module.indices, f"{name}.scores": module.scores}
        header = {
            "block_size": self.block_size,
            "modules": {name: module.shape for name, module in self.modules.items()},
            "num_base_parameters": self.num_base_parameters,
            "num_requested": self.num_requested,
            "score": self.score,
            "scope": self.scope,
            "margin": self.margin,
            "provenance": dict(self.provenance),
        }
        write_tensors(path, _KIND, tensors, header)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Selection:
        """Reads a saved selection.

        Raises:
            UserError: The file is missing, truncated, or no selection.
        """
        tensors, header = read_tensors(path, _KIND)
        with reading(Path(path), _KIND):
            modules = {
                name: ModuleSelection(
                    (shape[0], shape[1]), tensors[f"{name}.indices"], tensors[f"{name}.scores"]
                )
                for name, shape in header.pop("modules").items()
            }
            return cls(modules=modules, **header)


def select_blocks(
    table: ScoreTable,
    *,
    block_size: int | str = "auto",
    budget: float | None = None,
    num_blocks: int | None = None,
    score: str = "mean_of_abs",
    scope: str = "global",
    target_modules: Sequence[str] | None = None,
    groups: Mapping[str, float] | None = None,
) -> Selection:
    """Chooses the blocks with the highest scores (paper section 3.2 and appendix B).

    Args:
        table: The warm-up's statistics.
        block_size: L, a multiple of the table's, or ``auto``: the largest up to 256 that divides
            every dimension.
        budget: Trainable parameters as a fraction of the base model's; the number of blocks is
            the nearest. Give this or ``num_blocks``.
        num_blocks: Blocks to choose.
        score: One of :data:`smt_ray.smt.scores.SCORES`.
        scope: One of :data:`SCOPES`.
        target_modules: Names or last parts of names of the modules to choose from; by default all
            of the table's.
        groups: Budgets of groups, ranked apart, instead of ``budget`` and ``num_blocks``; see
            :func:`smt_ray.smt.modules.match_groups`. Modules in no group are not chosen from.

    Raises:
        UserError: An argument that cannot be met; the message says what could.
    """
    if target_modules is not None:
        table = table.subset(match_modules(table.statistics, target_modules))
    size = resolve_block_size(table.shapes, block_size, multiple_of=table.block_size)
    return select_by_scores(
        table.scores(size, score),
        block_size=size,
        num_base_parameters=table.num_base_parameters,
        budget=budget,
        num_blocks=num_blocks,
        score=score,
        scope=scope,
        groups=groups,
        provenance=table.provenance,
    )


def select_by_scores(
    scores: Mapping[str, Tensor],
    *,
    block_size: int,
    num_base_parameters: int,
    budget: float | None = None,
    num_blocks: int | None = None,
    score: str,
    scope: str = "global",
    groups: Mapping[str, float] | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> Selection:
    """Chooses blocks by any scores, such as a control's; see :func:`select_blocks`.

    Args:
        scores: Module name -> score of each block, (R, C), higher is better.
        block_size: L of those blocks.
        num_base_parameters: Parameters of the base model, tied ones once.
        budget: See :func:`select_blocks`.
        num_blocks: See :func:`select_blocks`.
        score: What to call the scores in the selection.
        scope: See :func:`select_blocks`. Ties go to the earlier module, row and column.
        groups: See :func:`select_blocks`.
        provenance: Where the scores came from, as JSON values.
    """
    if scope not in SCOPES:
        raise UserError("selection.scope", f"must be one of {', '.join(SCOPES)}", got=scope)
    scores = {name: values.double().cpu() for name, values in scores.items()}
    common = {
        "block_size": block_size,
        "num_base_parameters": num_base_parameters,
        "score": score,
        "scope": scope,
        "provenance": dict(provenance or {}),
    }
    if groups is None:
        return _select(scores, budget, num_blocks, None, common)
    if budget is not None or num_blocks is not None:
        raise UserError(
            "selection.groups",
            "must be the only one of groups, budget and num_blocks",
            got={"budget": budget, "num_blocks": num_blocks},
        )
    joined = join_selections(
        [
            _select({name: scores[name] for name in names}, groups[group], None, group, common)
            for group, names in match_groups(scores, groups).items()
        ]
    )
    ordered = {name: joined.modules[name] for name in scores if name in joined.modules}
    return replace(joined, modules=ordered)


def _select(
    scores: Mapping[str, Tensor],
    budget: float | None,
    num_blocks: int | None,
    group: str | None,
    common: dict[str, Any],
) -> Selection:
    """One ranking's choice.

    Args:
        scores: (R, C) float64 each.
        budget: See :func:`select_blocks`.
        num_blocks: See :func:`select_blocks`.
        group: For errors to name.
        common: What the selection carries whatever is chosen.
    """
    _check_scores(scores)
    size, scope = common["block_size"], common["scope"]
    num_eligible = sum(values.numel() for values in scores.values())
    wanted = number_of_blocks(
        budget, num_blocks, num_eligible, size, common["num_base_parameters"], group=group
    )
    masks, margin = (best if scope == "global" else best_of_each)(scores, wanted)
    modules = {
        name: ModuleSelection(
            shape=(mask.shape[0] * size, mask.shape[1] * size),
            indices=mask.nonzero().to(torch.int32),  # in row-major order
            scores=scores[name][mask],
        )
        for name, mask in masks.items()
    }
    return Selection(modules=modules, num_requested=wanted, margin=margin, **common)


def join_selections(selections: Sequence[Selection]) -> Selection:
    """Joins selections of disjoint modules: groups with budgets of their own (paper table 4).

    Raises:
        UserError: They share a module, or differ in block size, score, scope or base model.
    """
    first = selections[0]
    modules: dict[str, ModuleSelection] = {}
    for other in selections:
        for attribute in ("block_size", "score", "scope", "num_base_parameters"):
            if getattr(other, attribute) != getattr(first, attribute):
                raise UserError(
                    "selection.groups",
                    f"must agree in {attribute}",
                    got=[getattr(first, attribute), getattr(other, attribute)],
                )
        shared = sorted(modules.keys() & other.modules.keys())
        if shared:
            raise UserError("selection.groups", "must not share a module", got=shared[0])
        modules |= other.modules
    margins = [other.margin for other in selections if other.margin is not None]
    return Selection(
        block_size=first.block_size,
        modules=modules,
        num_base_parameters=first.num_base_parameters,
        num_requested=sum(other.num_requested for other in selections),
        score=first.score,
        scope=first.scope,
        margin=min(margins, default=None),
        provenance=first.provenance,
    )


def _check_scores(scores: Mapping[str, Tensor]) -> None:
    """Checks that a ranking of these scores would mean something."""
    for name, values in scores.items():
        if not bool(torch.isfinite(values).all()):
            raise UserError(
                "scores",
                f"must be finite; those of {name} are not",
                fix="look for overflowing gradients in the warm-up",
            )
    if not any(bool(values.any()) for values in scores.values()):
        raise UserError(
            "scores",
            "must not all be zero",
            fix="check that the warm-up's loss depends on the eligible modules",
        )
