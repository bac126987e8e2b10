"""What the stages of a run left behind, as plain values for pages."""

from __future__ import annotations

import json
from typing import Any

from smt_ray.artifacts.storage import Storage
from smt_ray.reporting.pages.weight_grid import Weight
from smt_ray.stages.training import METRICS
from smt_ray.stages.warmup import SELECTION
from smt_ray.tracking.records import parse_records


class StageArtifacts:
    """The artifacts of a run's finished stages.

    Args:
        storage: Where they lie.
        stages: The run's, from its manifest.

    Attributes:
        missing: What was looked for and is gone.
    """

    def __init__(self, storage: Storage, stages: dict[str, Any]) -> None:
        self._storage, self._stages = storage, stages
        self.missing: list[str] = []

    def records(self) -> list[Any]:
        """Training's records."""
        place = self._find("training", METRICS)
        return parse_records(self._storage.read_bytes(place).decode()) if place else []

    def weights(self) -> list[Weight]:
        """The eligible weights with their chosen blocks."""
        place = self._find("selection", SELECTION)
        if place is None:
            return []
        from smt_ray.smt.selection import Selection

        with self._storage.local(place) as file:
            selection = Selection.load(file)
        return [
            Weight(
                name,
                module.shape,
                selection.block_size,
                [(row, column) for row, column in module.indices.tolist()],
                module.scores.tolist(),
            )
            for name, module in selection.modules.items()
        ]

    def predictions(self, who: str) -> dict[str, list[Any]]:
        """Every prediction of ``base`` or ``tuned``, by task."""
        folder = self._find(f"evaluation of {who}")
        files = self._storage.list_files(folder) if folder else []
        return {
            file.rpartition("/")[2].removesuffix(".jsonl"): [
                json.loads(line)
                for line in self._storage.read_bytes(f"{folder}/{file}").decode().split("\n")
                if line
            ]
            for file in files
            if file.endswith(".jsonl")
        }

    def _find(self, kind: str, file: str = "") -> str | None:
        """A file, or the folder, of a stage; None where the run has no such stage."""
        if kind not in self._stages:
            return None
        place = f"stages/{self._stages[kind]['stage']}/{file}".rstrip("/")
        if self._storage.exists(place):
            return place
        self.missing.append(self._storage.uri(place))
        return None
