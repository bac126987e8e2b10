"""The paper's recipes in configs/paper, which are identified by their file names."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from smt_ray.config.load import load_config
from smt_ray.config.run import RunConfig

ROOT = Path(__file__).parents[2]
MODELS = ("llama_7b", "llama_13b", "llama2_7b", "llama3_8b")
SUITES = ("commonsense", "math")


@dataclass(frozen=True)
class Recipe:
    """One recipe.

    Attributes:
        path: The file; its name is <model>_<suite>_<method>, for smt with the budget in percent.
    """

    path: Path

    @cached_property
    def config(self) -> RunConfig:
        return load_config(self.path)

    @cached_property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")

    @cached_property
    def parts(self) -> tuple[str, str, str, float | None]:
        """Model, suite, method, and smt's budget in percent."""
        pattern = rf"({'|'.join(MODELS)})_({'|'.join(SUITES)})_(smt|lora|dora|full)(?:_([\d.]+))?"
        match = re.fullmatch(pattern, self.path.stem)
        assert match, f"{self.path.name} is not named like a recipe"
        model, suite, method, budget = match.groups()
        return model, suite, method, float(budget) if budget else None

    @property
    def model(self) -> str:
        return self.parts[0]

    @property
    def suite(self) -> str:
        return self.parts[1]

    @property
    def method(self) -> str:
        return self.parts[2]

    @property
    def budget(self) -> float | None:
        return self.parts[3]

    def __str__(self) -> str:
        return self.path.stem


RECIPES = [Recipe(path) for path in sorted((ROOT / "configs" / "paper").glob("*.yaml"))]
