"""The page of a search, made from its storage: at its end, and by ``smt-ray report``."""

from __future__ import annotations

from smt_ray.artifacts.layout import REPORT, SEARCH, SEARCH_CONFIG, search_folder
from smt_ray.artifacts.runs import RunFolder
from smt_ray.artifacts.storage import Storage
from smt_ray.documents.search import SearchDocument
from smt_ray.grid.folder import GroupFolder
from smt_ray.reporting.pages.search import SearchContents, search_page
from smt_ray.run import report as run_report


def write_report(storage: Storage, name: str) -> str:
    """Writes ``report.html`` into the folder of a search; returns its path or URI.

    Raises:
        UserError: An artifact cannot be read.
    """
    folder = GroupFolder(storage, search_folder(name))
    folder.write_text(REPORT, search_page(read_contents(storage, name)))
    return folder.uri(REPORT)


def read_contents(storage: Storage, name: str) -> SearchContents:
    """Reads what a search and its winner left behind.

    Raises:
        UserError: An artifact cannot be read. A missing artifact of the winner is only named.
    """
    folder = GroupFolder(storage, search_folder(name))
    results = folder.read_document(
        SearchDocument, SEARCH, fix="start the search again: finished trials are kept"
    )
    return SearchContents(
        results=results,
        winner=run_report.read_contents(RunFolder(storage, results.winner.name)),
        config_text=folder.read_text(SEARCH_CONFIG),
        pages=folder.run_pages(trial.run for trial in results.trials if trial.run),
    )
