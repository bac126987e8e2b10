"""The page of a search, made from its storage: at its end, and by ``smt-ray report``."""

from __future__ import annotations

from smt_ray.artifacts.layout import REPORT, SEARCH, SEARCH_CONFIG
from smt_ray.artifacts.runs import RunFolder
from smt_ray.documents.search import SearchDocument
from smt_ray.grid.folder import GroupFolder
from smt_ray.reporting.pages.search import SearchContents, search_page
from smt_ray.run import report as run_report


def write_report(folder: GroupFolder) -> str:
    """Writes ``report.html`` into the folder of a search; returns its path or URI.

    Raises:
        UserError: An artifact cannot be read.
    """
    folder.write_text(REPORT, search_page(read_contents(folder)))
    return folder.uri(REPORT)


def read_contents(folder: GroupFolder) -> SearchContents:
    """Reads what a search and its winner left behind.

    Raises:
        UserError: An artifact cannot be read. A missing artifact of the winner is only named.
    """
    results = folder.read_document(
        SearchDocument, SEARCH, fix="start the search again: finished trials are kept"
    )
    return SearchContents(
        results=results,
        winner=run_report.read_contents(RunFolder(folder.storage, results.winner.name)),
        config_text=folder.read_text(SEARCH_CONFIG),
        pages=folder.run_pages(trial.run for trial in results.trials if trial.run),
    )
