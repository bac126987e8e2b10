"""The page of a comparison, made from its storage: at its end, and by ``smt-ray report``."""

from __future__ import annotations

from functools import cached_property

from smt_ray.artifacts.layout import COMPARISON, COMPARISON_CONFIG, REPORT
from smt_ray.artifacts.runs import RunFolder
from smt_ray.artifacts.storage import Storage
from smt_ray.documents.comparison import CellResult, ComparisonDocument
from smt_ray.documents.run import Record, RunManifest
from smt_ray.grid.folder import GroupFolder
from smt_ray.reporting.pages.comparison import ComparisonContents, comparison_page
from smt_ray.reporting.pages.selection_map import Weights
from smt_ray.run import report as run_report
from smt_ray.run.artifacts import StageArtifacts


def write_report(folder: GroupFolder) -> str:
    """Writes ``report.html`` into the folder of a comparison; returns its path or URI.

    Raises:
        UserError: An artifact cannot be read.
    """
    folder.write_text(REPORT, comparison_page(read_contents(folder)))
    return folder.uri(REPORT)


def read_contents(folder: GroupFolder) -> ComparisonContents:
    """Reads what a comparison and its runs left behind.

    Raises:
        UserError: An artifact cannot be read. A missing artifact is only named.
    """
    storage = folder.storage
    results = folder.read_document(
        ComparisonDocument,
        COMPARISON,
        fix="start the comparison again: finished runs are skipped",
    )
    runs = _Runs(storage, results)
    reference = runs.reference
    return ComparisonContents(
        results=results,
        config_text=folder.read_text(COMPARISON_CONFIG),
        reference=run_report.read_contents(RunFolder(storage, reference)) if reference else None,
        stages={run: manifest.stages for run, manifest in runs.manifests.items()},
        records=runs.records(),
        selections={table: runs.selections(table) for table in results.tables},
        pages=folder.run_pages(results.runs),
        missing=runs.missing(),
    )


class _Runs:
    """The runs of a comparison; each is read once."""

    def __init__(self, storage: Storage, results: ComparisonDocument) -> None:
        self._storage, self._results = storage, results
        self._weights: dict[str, Weights] = {}  # by stage, since runs share them
        self._artifacts: dict[str, StageArtifacts] = {}

    @cached_property
    def manifests(self) -> dict[str, RunManifest]:
        """Run -> its ``run.json``."""
        return {name: RunFolder(self._storage, name).manifest() for name in self._results.runs}

    @property
    def reference(self) -> str | None:
        """The first finished run with a selection, or else the first finished run."""
        finished = [
            cell.runs[0]
            for table in self._results.tables.values()
            for _, _, cell in table.cells()
            if not cell.errors
        ]
        with_selection = (run for run in finished if "selection" in self.manifests[run].stages)
        return next(with_selection, next(iter(finished), None))

    def records(self) -> dict[str, list[Record]]:
        """Row -> the records of its first run, for the first table that compares methods."""
        tables = list(self._results.tables.values())
        table = next((table for table in tables if table.columns == "tasks"), tables[0])
        found: dict[str, list[Record]] = {}
        for row, _, cell in table.cells():
            if row not in found and not cell.errors:
                found[row] = self._artifacts_of(cell.runs[0]).records()
        return found

    def selections(self, table: str) -> dict[str, Weights]:
        """Cell -> what was chosen by its first run; empty if all cells have the same selection."""
        stages: dict[str, tuple[str, CellResult]] = {}
        for row, column, cell in self._results.tables[table].cells():
            stage = self.manifests[cell.runs[0]].stages.get("selection")
            if stage and not cell.errors:
                stages[", ".join(filter(None, (row, column)))] = (stage.stage, cell)
        if len({stage for stage, _ in stages.values()}) < 2:
            return {}
        return {
            label: self._weights_of(stage, cell.runs[0]) for label, (stage, cell) in stages.items()
        }

    def missing(self) -> list[str]:
        """The artifacts that were looked for and are gone."""
        return sorted({place for found in self._artifacts.values() for place in found.missing})

    def _artifacts_of(self, run: str) -> StageArtifacts:
        if run not in self._artifacts:
            self._artifacts[run] = StageArtifacts(self._storage, self.manifests[run].stages)
        return self._artifacts[run]

    def _weights_of(self, stage: str, run: str) -> Weights:
        if stage not in self._weights:
            self._weights[stage] = self._artifacts_of(run).weights()
        return self._weights[stage]
