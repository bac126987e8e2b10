"""The page of whatever bears a name in a storage: ``smt-ray report``."""

from __future__ import annotations

from smt_ray.artifacts.runs import RunFolder
from smt_ray.artifacts.storage import Storage
from smt_ray.errors import UserError
from smt_ray.orchestration import comparison_report, run_report


def write_report_of(storage_root: str, name: str) -> str:
    """Writes the page of a run or, where no run bears the name, of a comparison; says where it is.

    Raises:
        UserError: There is neither, or an artifact cannot be read.
    """
    storage = Storage(storage_root)
    run = RunFolder(storage, name)
    if storage.exists(run.path("run.json")):
        return run_report.write_report(run)
    if storage.exists(comparison_report.folder_of(name), comparison_report.RESULTS):
        return comparison_report.write_report(storage, name)
    known = {
        kind: ", ".join(storage.list_folders(kind)) or "none" for kind in ("runs", "comparisons")
    }
    raise UserError(
        "NAME",
        f"no such run in {storage.uri('runs')}, and no such comparison in"
        f" {storage.uri('comparisons')}",
        got=name,
        fix=f"runs there: {known['runs']}; comparisons: {known['comparisons']};"
        " another storage is chosen with --storage",
    )
