"""The page of a run, a comparison or a search, found by its name."""

from __future__ import annotations

from smt_ray.artifacts.layout import (
    COMPARISON,
    COMPARISONS_FOLDER,
    RUNS_FOLDER,
    SEARCH,
    SEARCHES_FOLDER,
    comparison_folder,
    search_folder,
)
from smt_ray.artifacts.runs import RunFolder
from smt_ray.artifacts.storage import Storage
from smt_ray.comparison import report as comparison_report
from smt_ray.errors import UserError
from smt_ray.grid.folder import GroupFolder
from smt_ray.run import report as run_report
from smt_ray.search import report as search_report


def write_report_of(storage_root: str, name: str) -> str:
    """Writes the page of a run or, if no run has the name, of a comparison or a search.

    Returns:
        The path or URI of the page.

    Raises:
        UserError: Nothing has the name, or an artifact cannot be read.
    """
    storage = Storage(storage_root)
    run = RunFolder(storage, name)
    if run.exists():
        return run_report.write_report(run)
    comparison = GroupFolder(storage, comparison_folder(name))
    if comparison.exists(COMPARISON):
        return comparison_report.write_report(comparison)
    search = GroupFolder(storage, search_folder(name))
    if search.exists(SEARCH):
        return search_report.write_report(search)
    folders = (RUNS_FOLDER, COMPARISONS_FOLDER, SEARCHES_FOLDER)
    known = [
        f"{folder} there: {', '.join(storage.list_folders(folder)) or 'none'}" for folder in folders
    ]
    runs, comparisons, searches = map(storage.uri, folders)
    raise UserError(
        "NAME",
        f"no such run in {runs}, comparison in {comparisons} or search in {searches}",
        got=name,
        fix=f"{'; '.join(known)}; another storage is chosen with --storage",
    )
