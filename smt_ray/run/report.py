"""A run's page, made from what lies in its storage: at its end, and at ``smt-ray report``."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from smt_ray.artifacts.runs import RunFolder
from smt_ray.artifacts.storage import Storage
from smt_ray.reporting.pages.run import RunContents, run_page
from smt_ray.reporting.text.progress import say
from smt_ray.run.artifacts import StageArtifacts

REPORT = "report.html"


def write_report(run: RunFolder) -> str:
    """Writes ``report.html`` into a run's folder; returns its place.

    Raises:
        UserError: An artifact cannot be read.
    """
    run.storage.write_bytes(run.path(REPORT), run_page(read_contents(run)).encode())
    return run.storage.uri(run.path(REPORT))


def try_to_write_report(run: RunFolder) -> None:
    """The same at a run's end, where a page that cannot be written is only told of."""
    warn_where_it_fails(lambda: write_report(run), run.name, run.storage)


def warn_where_it_fails(write: Callable[[], str], name: str, storage: Storage) -> str | None:
    """Writes a page; its place, or None where it could not be written, which is said.

    Args:
        write: Writes it.
        name: Of the run or comparison that it is of.
        storage: Where that lies.
    """
    try:
        return write()
    except Exception as error:  # whatever it is, what the page is of is done
        said = str(error).strip().rpartition("\n")[2]
        say(
            f"WARNING report: could not be written ({said}); nothing is lost:"
            f" smt-ray report {name} --storage {storage.root} writes it"
        )
        return None


def read_contents(run: RunFolder) -> RunContents:
    """What a run left behind, as plain values.

    Raises:
        UserError: An artifact cannot be read. One that is gone is named as missing.
    """
    manifest = run.manifest()
    found = StageArtifacts(run.storage, manifest["stages"])
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


def _json(run: RunFolder, file: str) -> dict[str, Any]:
    text = _text(run, file)
    value: dict[str, Any] = json.loads(text) if text else {}
    return value


def _text(run: RunFolder, file: str) -> str:
    if not run.storage.exists(run.path(file)):
        return ""
    return run.storage.read_bytes(run.path(file)).decode()
