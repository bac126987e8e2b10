"""A run's page, made from what lies in its storage: at its end, and at ``smt-ray report``."""

from __future__ import annotations

import json
from typing import Any

from smt_ray.artifacts.runs import RunFolder
from smt_ray.artifacts.storage import Storage
from smt_ray.orchestration.progress import say
from smt_ray.orchestration.trainer import METRICS
from smt_ray.orchestration.warmup_graph import SELECTION
from smt_ray.reporting.run_page import RunContents, run_page
from smt_ray.reporting.weight_grid import Weight
from smt_ray.tracking.records import parse_records

REPORT = "report.html"


def report_run(storage_root: str, name: str) -> str:
    """Writes the page of a run anew; says where it is.

    Raises:
        UserError: There is no such run, or an artifact cannot be read.
    """
    return write_report(RunFolder.open(Storage(storage_root), name))


def write_report(run: RunFolder) -> str:
    """Writes ``report.html`` into a run's folder; returns its place.

    Raises:
        UserError: An artifact cannot be read.
    """
    run.storage.write_bytes(run.path(REPORT), run_page(read_contents(run)).encode())
    return run.storage.uri(run.path(REPORT))


def try_to_write_report(run: RunFolder) -> None:
    """The same at a run's end, where a page that cannot be written is only told of."""
    try:
        write_report(run)
    except Exception as error:  # whatever it is, the run itself is done
        said = str(error).strip().rpartition("\n")[2]
        say(
            f"WARNING report: could not be written ({said}); nothing is lost:"
            f" smt-ray report {run.name} --storage {run.storage.root} writes it"
        )


def read_contents(run: RunFolder) -> RunContents:
    """What a run left behind, as plain values.

    Raises:
        UserError: An artifact cannot be read. One that is gone is named as missing.
    """
    manifest = run.manifest()
    found = _Stages(run.storage, manifest["stages"])
    weights = found.weights()
    records = found.records()
    predictions = {who: found.predictions(who) for who in ("base", "tuned")}
    # A run that has not ended has no metrics: what its manifest knows stands for them.
    tags = manifest.get("tags", {})
    known = {
        "name": run.name,
        "method": tags.get("method"),
        "model": {"name": tags.get("model")},
        "stages": manifest["stages"],
    }
    return RunContents(
        name=run.name,
        status=manifest.get("status", "UNKNOWN"),
        started_ms=manifest.get("started_ms"),
        ended_ms=manifest.get("ended_ms"),
        metrics=_json(run, "metrics.json") or known,
        config=manifest.get("config", {}),
        config_text=_text(run, "config.yaml"),
        datasets=manifest.get("datasets", []),
        environment=_json(run, "environment.json"),
        records=records,
        weights=weights,
        predictions=predictions,
        missing=found.missing,
    )


class _Stages:
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

        selection = Selection.load(self._storage.fetch(place))
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


def _json(run: RunFolder, file: str) -> dict[str, Any]:
    text = _text(run, file)
    value: dict[str, Any] = json.loads(text) if text else {}
    return value


def _text(run: RunFolder, file: str) -> str:
    if not run.storage.exists(run.path(file)):
        return ""
    return run.storage.read_bytes(run.path(file)).decode()
