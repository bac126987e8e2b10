"""The artifacts of a run's finished stages, read for pages and tables."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath

from smt_ray.artifacts.layout import RECORDS, SELECTION, stage_folder
from smt_ray.artifacts.stages import Stage
from smt_ray.artifacts.storage import Storage
from smt_ray.documents.prediction import Prediction, from_lines
from smt_ray.documents.run import Record, StageEntry, Who, evaluation_key
from smt_ray.reporting.pages.weight_grid import Weight
from smt_ray.tracking.records import parse_records


class StageArtifacts:
    """The artifacts of a run's finished stages.

    Attributes:
        missing: The artifacts that should exist but were not found.
    """

    def __init__(self, storage: Storage, stages: Mapping[str, StageEntry]) -> None:
        self._storage, self._stages = storage, stages
        self.missing: list[str] = []

    def records(self, key: str = "training") -> list[Record]:
        """The records of the training or of the warm-up."""
        place = self._find(key, RECORDS)
        return parse_records(self._storage.read_bytes(place).decode()) if place else []

    def weights(self) -> list[Weight]:
        """The eligible weights with their selected square blocks; none if others are selected."""
        place = self._find("selection", SELECTION)
        if place is None or not self._selects_squares():
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

    def _selects_squares(self) -> bool:
        stage = Stage.at(self._storage, self._stages["selection"].stage)
        return not stage.is_done() or bool(stage.read().summary.block_shape == "square")

    def predictions(self, who: Who) -> dict[str, list[Prediction]]:
        """The predictions of one model by one protocol, by task."""
        folder = self._find(evaluation_key(who))
        found = {}
        for file in self._storage.list_files(folder) if folder else []:
            if file.endswith(".jsonl"):
                place = f"{folder}/{file}"
                text = self._storage.read_bytes(place).decode()
                found[PurePath(file).stem] = from_lines(text, self._storage.uri(place))
        return found

    def _find(self, key: str, file: str = "") -> str | None:
        """The path of a stage's file or folder; None if the run has no such stage or lost it."""
        if key not in self._stages:
            return None
        place = f"{stage_folder(self._stages[key].stage)}/{file}".rstrip("/")
        if self._storage.exists(place):
            return place
        self.missing.append(self._storage.uri(place))
        return None
