"""A search's page, made from what lies in its storage: at its end, by ``smt-ray report``."""

from __future__ import annotations

from urllib.parse import quote

from smt_ray.artifacts.runs import RunFolder
from smt_ray.artifacts.storage import Storage
from smt_ray.reporting.pages.search import SearchContents, search_page
from smt_ray.run import report as run_report
from smt_ray.run.report import REPORT

RESULTS = "search.json"
CONFIG = "search.yaml"


def folder_of(name: str) -> str:
    """A search's folder in its storage."""
    return f"searches/{name}"


def write_report(storage: Storage, name: str) -> str:
    """Writes ``report.html`` into a search's folder; returns its place.

    Raises:
        UserError: An artifact cannot be read.
    """
    folder = folder_of(name)
    results = storage.read_json(folder, RESULTS)
    runs = [trial["run"] for trial in results["trials"] if trial["run"]]
    contents = SearchContents(
        results=results,
        winner=run_report.read_contents(RunFolder(storage, results["trials"][0]["run"])),
        config_text=storage.read_bytes(folder, CONFIG).decode(),
        pages={
            run: f"../../runs/{quote(run)}/{REPORT}"
            for run in runs
            if storage.exists(RunFolder(storage, run).path(REPORT))
        },
    )
    storage.write_bytes(f"{folder}/{REPORT}", search_page(contents).encode())
    return storage.uri(folder, REPORT)
