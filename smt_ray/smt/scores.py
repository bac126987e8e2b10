"""The score table: four or six statistics for each block, from which all scores are computed.

The statistics of a block are sums over its elements. So those of a larger block are sums over the
finest blocks in it, and one warm-up is enough for all block sizes, scores and subsets of modules.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from smt_ray.errors import UserError
from smt_ray.smt.grid import BlockGrid, check_block_size
from smt_ray.smt.tensorfile import read_tensors, reading, write_tensors

SCORES = ("mean_of_abs", "abs_of_mean", "l2", "saliency")
"""The scores of every table; ``mean_of_abs`` is that of the paper (section 3.2, appendix B)."""

STEP_SCORES = ("step_mean_of_abs", "step_l2")
"""The scores of a table that also has the sums of single steps' gradients."""

_KIND = "score table"
_NUM_STATISTICS = (len(SCORES), len(SCORES) + len(STEP_SCORES))


def block_statistics(gradient: Tensor, weight: Tensor, block_size: int) -> Tensor:
    """Reduces a gradient sum to the four statistics of each block.

    Args:
        gradient: The signed sum of the warm-up steps' gradients, (O, I).
        weight: The weight of that gradient, (O, I), in any floating dtype.
        block_size: The block size L, which divides both dimensions.

    Returns:
        The sums over each block of g, abs(g), g^2 and abs(g * w): (4, R, C) in float64, on the
        gradient's device.
    """
    grid = BlockGrid(gradient.shape[0], gradient.shape[1], block_size)
    parts = element_statistics(gradient, weight)
    return torch.stack([grid.view(part).sum((2, 3)) for part in parts])


def element_statistics(gradient: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
    """The terms of :func:`block_statistics` for each element: four times (O, I), in float64."""
    g = gradient.detach().double()
    return g, g.abs(), g.square(), (g * weight.detach().to(g)).abs_()


def step_statistics(gradient: Tensor, block_size: int) -> Tensor:
    """Reduces the gradient of one warm-up step to the two statistics that are summed over steps.

    Args:
        gradient: The gradient of the step, (O, I).
        block_size: The block size L, which divides both dimensions.

    Returns:
        The sums over each block of abs(g) and g^2: (2, R, C) in float64, on the gradient's device.
    """
    grid = BlockGrid(gradient.shape[0], gradient.shape[1], block_size)
    g = gradient.detach().double()
    return torch.stack([grid.view(t).sum((2, 3)) for t in (g.abs(), g.square())])


def score_of(statistics: Tensor, score: str, area: int, num_steps: int = 1) -> Tensor:
    """A score of blocks of any shape; see :meth:`ScoreTable.scores`.

    Args:
        statistics: The statistics of the blocks, (4 or 6, ...) float64.
        score: The score.
        area: The number of elements of a block.
        num_steps: The number of warm-up steps.

    Returns:
        The scores, (...) float64.
    """
    g, g_abs, g_squared, weighted, *of_steps = statistics.unbind(0)
    if score in STEP_SCORES:
        step_abs, step_squared = of_steps
        return step_squared.sqrt() if score == "step_l2" else step_abs / area / num_steps
    if score == "l2":
        return g_squared.sqrt()
    means = {"mean_of_abs": g_abs, "abs_of_mean": g.abs(), "saliency": weighted}
    return means[score] / area


@dataclass(frozen=True, eq=False)
class ScoreTable:
    """The block statistics of every module of the warm-up, at the finest block size.

    Attributes:
        block_size: The finest block size L.
        statistics: Module name -> sums of g, abs(g), g^2, abs(g * w), where g is the sum of the
            steps' gradients: (4, R, C) float64, on the CPU, in the model's order. A table with the
            scores of steps has (6, R, C): the last two are abs(g) and g^2 of the single steps,
            summed over the steps.
        num_base_parameters: The number of parameters of the base model, tied ones once.
        num_steps: The number of warm-up steps in the sums.
        provenance: The origin of the table, as JSON values.
    """

    block_size: int
    statistics: Mapping[str, Tensor]
    num_base_parameters: int
    num_steps: int
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, sums in self.statistics.items():
            if sums.dtype != torch.float64 or sums.ndim != 3 or len(sums) not in _NUM_STATISTICS:
                raise ValueError(f"statistics of {name} must be (4 or 6, R, C) in float64")

    @property
    def shapes(self) -> dict[str, tuple[int, int]]:
        """Module name -> (out_features, in_features)."""
        size = self.block_size
        return {n: (s.shape[1] * size, s.shape[2] * size) for n, s in self.statistics.items()}

    def subset(self, modules: Iterable[str]) -> ScoreTable:
        """The table of some of its modules, in the same order.

        Raises:
            UserError: The table has no such module.
        """
        wanted = set(modules)
        missing = sorted(wanted - set(self.statistics))
        if missing:
            raise UserError(
                "target_modules",
                "must be among the modules of the warm-up",
                got=missing[0],
                fix="add it to warmup.target_modules, which needs a new warm-up",
            )
        return replace(self, statistics={n: s for n, s in self.statistics.items() if n in wanted})

    def coarsen(self, block_size: int) -> ScoreTable:
        """The table with larger blocks, whose statistics are sums over its own blocks.

        Raises:
            UserError: The size is not a multiple of the table's, or does not tile every module.
        """
        check_block_size(self.shapes, block_size, multiple_of=self.block_size)
        k = block_size // self.block_size

        def coarse(sums: Tensor) -> Tensor:
            number, rows, cols = sums.shape
            return sums.view(number, rows // k, k, cols // k, k).sum((2, 4))

        statistics = {name: coarse(sums) for name, sums in self.statistics.items()}
        return replace(self, block_size=block_size, statistics=statistics)

    def scores(
        self, block_size: int | None = None, score: str = "mean_of_abs"
    ) -> dict[str, Tensor]:
        """The scores of all blocks of all modules.

        Args:
            block_size: The block size L; by default that of the table.
            score: The score: ``mean_of_abs``, the mean of abs(g) (the paper's); ``abs_of_mean``,
                the absolute value of the mean of g; ``l2``, the root of the sum of g^2;
                ``saliency``, the mean of abs(g * w). With the gradients of single steps:
                ``step_mean_of_abs``, the mean of their abs(g); ``step_l2``, the root of the sum of
                their g^2.

        Returns:
            Module name -> scores, (R, C) float64.

        Raises:
            UserError: The score is unknown, or the table has no scores for the block size.
        """
        self._check_score(score)
        table = self.coarsen(self.block_size if block_size is None else block_size)
        area = table.block_size**2
        return {
            name: score_of(sums, score, area, table.num_steps)
            for name, sums in table.statistics.items()
        }

    def _check_score(self, score: str) -> None:
        if score not in (*SCORES, *STEP_SCORES):
            known = ", ".join((*SCORES, *STEP_SCORES))
            raise UserError("selection.score", f"must be one of {known}", got=score)
        has_steps = all(len(sums) > len(SCORES) for sums in self.statistics.values())
        if score in STEP_SCORES and not has_steps:
            raise UserError(
                "selection.score",
                "needs a score table with the gradients of single steps",
                got=score,
                fix="make the table with per_step (warmup.per_step of a run)",
            )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the table as one safetensors file with a JSON header."""
        header = {
            "block_size": self.block_size,
            "modules": list(self.statistics),
            "num_base_parameters": self.num_base_parameters,
            "num_steps": self.num_steps,
            "provenance": dict(self.provenance),
        }
        write_tensors(path, _KIND, self.statistics, header)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> ScoreTable:
        """Reads a saved table.

        Raises:
            UserError: The file is missing, truncated, or not a score table.
        """
        tensors, header = read_tensors(path, _KIND)
        with reading(Path(path), _KIND):
            statistics = {name: tensors[name] for name in header.pop("modules")}
            return cls(statistics=statistics, **header)
