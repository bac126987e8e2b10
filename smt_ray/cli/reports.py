"""The page of whatever bears a name in a storage: ``smt-ray report``."""

from __future__ import annotations

from smt_ray.artifacts.runs import RunFolder
from smt_ray.artifacts.storage import Storage
from smt_ray.comparison import report as comparison_report
from smt_ray.errors import UserError
from smt_ray.run import report as run_report
from smt_ray.search import report as search_report


def write_report_of(storage_root: str, name: str) -> str:
    """Writes the page of a run or, where none bears the name, of a comparison or a search.

    Returns:
        Where it is.

    Raises:
        UserError: There is none of them, or an artifact cannot be read.
    """
    storage = Storage(storage_root)
    run = RunFolder(storage, name)
    if storage.exists(run.path("run.json")):
        return run_report.write_report(run)
    for group in (comparison_report, search_report):
        if storage.exists(group.folder_of(name), group.RESULTS):
            return group.write_report(storage, name)
    known = [
        f"{kind} there: {', '.join(storage.list_folders(kind)) or 'none'}"
        for kind in ("runs", "comparisons", "searches")
    ]
    raise UserError(
        "NAME",
        f"no such run in {storage.uri('runs')}, comparison in {storage.uri('comparisons')} or"
        f" search in {storage.uri('searches')}",
        got=name,
        fix=f"{'; '.join(known)}; another storage is chosen with --storage",
    )
