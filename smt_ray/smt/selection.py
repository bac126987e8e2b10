"""The selection of the trained blocks, from a score table and a budget."""

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
from smt_ray.smt.modules import choose_modules, match_groups
from smt_ray.smt.ranking import best, best_of_each, check_scores, number_of_blocks
from smt_ray.smt.scores import ScoreTable
from smt_ray.smt.tensorfile import read_tensors, reading, write_tensors

SCOPES = ("global", "per_module")
"""One ranking of all blocks (the paper's), or the same number of blocks from each module."""

_KIND = "block selection"


@dataclass(frozen=True, eq=False)
class ModuleSelection:
    """The chosen blocks of one module.

    Attributes:
        shape: The (out_features, in_features) of its weight.
        indices: The block indices (row, col), (M, 2) int32 on the CPU, sorted by row and column.
        scores: The scores of the blocks, (M,) float64.
    """

    shape: tuple[int, int]
    indices: Tensor
    scores: Tensor


@dataclass(frozen=True, eq=False)
class Selection:
    """The chosen blocks of a model, with their scores and their origin.

    Attributes:
        block_size: The side L of a block in elements.
        modules: All eligible modules, in the model's order; some may have no chosen block.
        num_base_parameters: The number of parameters of the base model, tied ones once.
        num_requested: The number of blocks for the budget. With scope ``per_module`` it may be
            larger than ``num_blocks`` (see :meth:`summary`).
        score: The score that ranked the blocks.
        scope: The scope: ``global`` or ``per_module``.
        margin: The relative distance at the cut, (last chosen - first rejected) / last chosen; a
            value near zero is a near-tie. It is the smallest over modules with scope
            ``per_module``, and None if nothing was rejected.
        provenance: The origin of the scores, as JSON values.
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
        """The number of chosen blocks of all modules."""
        return sum(self.counts().values())

    @property
    def num_trainable(self) -> int:
        """The number of parameters in the chosen blocks."""
        return self.num_blocks * self.block_size**2

    @property
    def budget(self) -> float:
        """The trainable parameters as a fraction of the base model's."""
        return self.num_trainable / self.num_base_parameters

    @property
    def origin(self) -> dict[str, Any]:
        """What an adapter says about the selection of its blocks, as JSON values."""
        names = ("score", "scope", "budget", "num_base_parameters", "margin")
        return {name: getattr(self, name) for name in names}

    def counts(self) -> dict[str, int]:
        """Module name -> the number of its chosen blocks."""
        return {name: len(module.indices) for name, module in self.modules.items()}

    def summary(self) -> str:
        """A few lines: the size, the cut, missing blocks, and the blocks by kind of module."""
        size, missing = self.block_size, self.num_requested - self.num_blocks
        cut = "nothing rejected" if self.margin is None else f"relative margin {self.margin:.2e}"
        lines = [
            f"{self.num_blocks} blocks of {size} x {size} = {self.num_trainable:,} parameters, "
            f"{self.budget:.3%} of the base model's {self.num_base_parameters:,}",
            f"score {self.score}, scope {self.scope}, at the cut: {cut}",
        ]
        if missing:
            lines.append(
                f"{missing} fewer than the {self.num_requested} requested blocks: scope "
                f"{self.scope} takes the same whole number from each of {len(self.modules)} "
                "modules, and no more than a module has"
            )
        kinds: dict[str, list[int]] = {}
        for name, count in self.counts().items():
            kinds.setdefault(name.rpartition(".")[2], []).append(count)
        for kind, counts in kinds.items():
            lines.append(
                f"  {kind}: {sum(counts)} blocks ({sum(counts) / self.num_blocks:.1%}) "
                f"in {sum(c > 0 for c in counts)} of {len(counts)} modules"
            )
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
            "score": self.score, "scope": self.scope, "margin": self.margin,
            "provenance": dict(self.provenance),
        }  # fmt: skip
        write_tensors(path, _KIND, tensors, header)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Selection:
        """Reads a saved selection.

        Raises:
            UserError: The file is missing, truncated, or not a selection.
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
    layers: Sequence[int] | None = None,
    groups: Mapping[str, float] | None = None,
) -> Selection:
    """Chooses the blocks with the highest scores (paper section 3.2 and appendix B).

    Args:
        table: The score table.
        block_size: The block size L, a multiple of the table's, or ``auto`` for the largest size up
            to 256 that divides every dimension.
        budget: The trainable parameters as a fraction of the base model's, or None with
            ``num_blocks``. The nearest number of blocks is chosen.
        num_blocks: The number of blocks, or None with ``budget``.
        score: The score, one of :data:`smt_ray.smt.scores.SCORES`.
        scope: The scope, one of :data:`SCOPES`.
        target_modules: The names, or last parts of names, of eligible modules; by default all
            modules of the table.
        layers: The first and the last layer of blocks, counted from 0; None for all.
        groups: The budgets of groups, which have separate rankings, in the place of ``budget`` and
            ``num_blocks``; see :func:`smt_ray.smt.modules.match_groups`. Modules in no group are
            not eligible.

    Raises:
        UserError: An argument is impossible; the message says what is possible.
    """
    table = table.subset(choose_modules(table.statistics, target_modules, layers))
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
    """Chooses the blocks with the highest of any scores, such as those of a control.

    Args:
        scores: Module name -> the scores of its blocks, (R, C).
        block_size: The side L of those blocks.
        num_base_parameters: The number of parameters of the base model, tied ones once.
        budget: See :func:`select_blocks`.
        num_blocks: See :func:`select_blocks`.
        score: The name of the scores.
        scope: See :func:`select_blocks`. Of equal scores, the first by module, row and column is
            chosen.
        groups: See :func:`select_blocks`.
        provenance: The origin of the scores, as JSON values.
    """
    if scope not in SCOPES:
        raise UserError("selection.scope", f"must be one of {', '.join(SCOPES)}", got=scope)
    scores = {name: values.double().cpu() for name, values in scores.items()}
    common = {
        "block_size": block_size, "num_base_parameters": num_base_parameters,
        "score": score, "scope": scope, "provenance": dict(provenance or {}),
    }  # fmt: skip
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
    """The selection of one ranking; ``common`` holds the fields that do not depend on it."""
    check_scores(scores)
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
    """Joins the selections of groups with their own budgets (paper table 4).

    Raises:
        UserError: They share a module, or differ in block size, score, scope or base model.
    """
    first = selections[0]
    modules: dict[str, ModuleSelection] = {}
    for other in selections:
        for attribute in ("block_size", "score", "scope", "num_base_parameters"):
            found = [getattr(first, attribute), getattr(other, attribute)]
            if found[0] != found[1]:
                raise UserError("selection.groups", f"must agree in {attribute}", got=found)
        shared = sorted(modules.keys() & other.modules.keys())
        if shared:
            raise UserError("selection.groups", "must not share a module", got=shared[0])
        modules |= other.modules
    margins = [other.margin for other in selections if other.margin is not None]
    return replace(
        first,
        modules=modules,
        num_requested=sum(other.num_requested for other in selections),
        margin=min(margins, default=None),
    )
