"""The artifacts of a run's finished stages, read for pages and tables."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath

from smt_ray.artifacts.layout import RECORDS, SELECTION, stage_folder
from smt_ray.artifacts.stages import Stage
from smt_ray.artifacts.storage import Storage
from smt_ray.documents.prediction import Prediction, from_lines
from smt_ray.documents.run import Record, StageEntry, Who, evaluation_key
from smt_ray.documents.stages import SelectionSummary
from smt_ray.reporting.pages.selection_map import Weights
from smt_ray.reporting.pages.weight_grid import CountedWeight, Weight
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
        return parse_records(self._storage.read_text(place)) if place else []

    def weights(self) -> Weights:
        """The eligible weights with their selected blocks, or with the number of others."""
        place = self._find("selection", SELECTION)
        if place is None:
            return []
        summary = self._selection_summary()
        if summary and summary.block_shape != "square":
            return self._counted(place, summary)
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

    def _selection_summary(self) -> SelectionSummary | None:
        stage = Stage.at(self._storage, self._stages["selection"].stage)
        if not stage.is_done():
            return None
        summary: SelectionSummary = stage.read().summary
        return summary

    def _counted(self, place: str, summary: SelectionSummary) -> list[CountedWeight]:
        """The weights with the numbers of their selected elements or columns."""
        from smt_ray.places.selection import read_shapes

        with self._storage.local(place) as file:
            shapes = read_shapes(file)
        return [
            CountedWeight(name, shape, summary.block_shape, summary.counts[name])
            for name, shape in shapes.items()
        ]

    def predictions(self, who: Who) -> dict[str, list[Prediction]]:
        """The predictions of one model by one protocol, by task."""
        folder = self._find(evaluation_key(who))
        found = {}
        for file in self._storage.list_files(folder) if folder else []:
            if file.endswith(".jsonl"):
                place = f"{folder}/{file}"
                text = self._storage.read_text(place)
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
