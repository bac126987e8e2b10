"""A comparison's page, made from what lies in its storage: at its end, by ``smt-ray report``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote

from smt_ray.artifacts.runs import RunFolder
from smt_ray.artifacts.storage import Storage
from smt_ray.errors import UserError
from smt_ray.reporting.pages.comparison import ComparisonContents, comparison_page
from smt_ray.reporting.pages.weight_grid import Weight
from smt_ray.run import report as run_report
from smt_ray.run.artifacts import StageArtifacts
from smt_ray.run.report import REPORT

RESULTS = "comparison.json"
CONFIG = "comparison.yaml"

Results = Mapping[str, Any]


def folder_of(name: str) -> str:
    """A comparison's folder in its storage."""
    return f"comparisons/{name}"


def write_report(storage: Storage, name: str) -> str:
    """Writes ``report.html`` into a comparison's folder; returns its place.

    Raises:
        UserError: An artifact cannot be read.
    """
    place = f"{folder_of(name)}/{REPORT}"
    storage.write_bytes(place, comparison_page(read_contents(storage, name)).encode())
    return storage.uri(place)


def read_contents(storage: Storage, name: str) -> ComparisonContents:
    """What a comparison and its runs left behind, as plain values.

    Raises:
        UserError: An artifact cannot be read. One that is gone is named as missing.
    """
    results = _results(storage, name)
    runs = _Runs(storage, results)
    config = f"{folder_of(name)}/{CONFIG}"
    reference = _reference(results)
    return ComparisonContents(
        results=results,
        config_text=storage.read_bytes(config).decode() if storage.exists(config) else "",
        reference=run_report.read_contents(runs.folder(reference)) if reference else None,
        stages={run: runs.manifest(run)["stages"] for run in results["runs"]},
        records=_records(results, runs),
        selections={table: runs.selections(table) for table in results["tables"]},
        pages=runs.pages(),
        missing=runs.missing(),
    )


def _results(storage: Storage, name: str) -> dict[str, Any]:
    place = f"{folder_of(name)}/{RESULTS}"
    try:
        results: dict[str, Any] = storage.read_json(place)
    except ValueError as error:
        raise UserError(
            storage.uri(place),
            f"cannot be read ({error})",
            fix="start the comparison again: finished runs are skipped",
        ) from None
    return results


def _cells(table: Mapping[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for row, columns in table["rows"].items():
        for column, cell in columns.items():
            yield row, column, cell


def _reference(results: Results) -> str | None:
    """The run of the first smt cell that is done, or of the first at all; of the first seed."""
    done = [
        cell["runs"][0]
        for table in results["tables"].values()
        for _, _, cell in _cells(table)
        if not cell["errors"]
    ]
    smt = (name for name in done if results["runs"].get(name, {}).get("method") == "smt")
    return next(smt, next(iter(done), None))


def _records(results: Results, runs: _Runs) -> dict[str, list[Any]]:
    """Row -> training's records of its first seed, of the table that compares ways to train."""
    tables = list(results["tables"].values())
    table = next((t for t in tables if t["columns"] == "tasks"), tables[0])
    found: dict[str, list[Any]] = {}
    for row, _, cell in _cells(table):
        if row not in found and not cell["errors"]:
            found[row] = runs.artifacts(cell["runs"][0]).records()
    return found


class _Runs:
    """A comparison's runs, each looked at once.

    Args:
        storage: Where they lie.
        results: The comparison's.
    """

    def __init__(self, storage: Storage, results: Results) -> None:
        self._storage, self._results = storage, results
        self._manifests = {name: self.folder(name).manifest() for name in results["runs"]}
        self._weights: dict[str, list[Weight]] = {}  # by stage: runs share them
        self._artifacts: dict[str, StageArtifacts] = {}

    def folder(self, name: str) -> RunFolder:
        """A run's."""
        return RunFolder(self._storage, name)

    def manifest(self, name: str) -> dict[str, Any]:
        """A run's ``run.json``."""
        return self._manifests[name]

    def artifacts(self, name: str) -> StageArtifacts:
        """What a run's stages left."""
        if name not in self._artifacts:
            stages = self._manifests[name]["stages"]
            self._artifacts[name] = StageArtifacts(self._storage, stages)
        return self._artifacts[name]

    def pages(self) -> dict[str, str]:
        """Run -> its page as the comparison's folder names it, of those that have one."""
        return {
            name: f"../../runs/{quote(name)}/{REPORT}"
            for name in self._results["runs"]
            if self._storage.exists(self.folder(name).path(REPORT))
        }

    def selections(self, table: str) -> dict[str, list[Weight]]:
        """Cell -> the chosen blocks of its first seed; none where all cells chose the same."""
        stages: dict[str, tuple[str, str]] = {}
        for row, column, cell in _cells(self._results["tables"][table]):
            run = cell["runs"][0]
            stage = self._manifests[run]["stages"].get("selection")
            if stage and not cell["errors"]:
                stages[", ".join(filter(None, (row, column)))] = (run, stage["stage"])
        if len({stage for _, stage in stages.values()}) < 2:
            return {}
        return {label: self._chosen(*place) for label, place in stages.items()}

    def _chosen(self, run: str, stage: str) -> list[Weight]:
        if stage not in self._weights:
            self._weights[stage] = self.artifacts(run).weights()
        return self._weights[stage]

    def missing(self) -> list[str]:
        """What was looked for and is gone."""
        return sorted({place for found in self._artifacts.values() for place in found.missing})
