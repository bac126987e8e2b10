"""What the settings of methods that train a selection have in common."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from torch import nn

from smt_ray.config.run import RunConfig
from smt_ray.documents.probe import Probe


@dataclass(frozen=True)
class SelectedSettings:
    """The settings of a method that trains what a selection names.

    Attributes:
        selection: The file of the selection, as the storage names it.
    """

    is_whole_model: ClassVar[bool] = False

    selection: str

    @classmethod
    def check(
        cls,
        config: RunConfig,
        skeleton: Callable[[], nn.Module],
        probe: Probe,
        selection: str | None,
    ) -> Self:
        """Names the selection, which was checked on the model when it was made."""
        assert selection is not None
        return cls(selection)

    @staticmethod
    def stage_inputs(config: RunConfig) -> dict[str, Any]:
        """No inputs besides the selection."""
        return {}

    def describe(self) -> dict[str, Any]:
        """No settings, as the selection has a summary of its own."""
        return {}
