"""What a comparison leaves in the storage."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from smt_ray.artifacts.storage import Storage
from smt_ray.reporting.comparison import to_csv, to_markdown
from smt_ray.reporting.comparison_figures import draw_table


def write_comparison(storage: Storage, folder: str, results: Mapping[str, Any]) -> list[str]:
    """Writes ``comparison.json``, ``comparison.md``, and for each table a CSV and a picture.

    Args:
        storage: Where to.
        folder: The comparison's, in the storage.
        results: What :func:`smt_ray.orchestration.compare.compare` returns.

    Returns:
        The files, as the storage names them.
    """
    files = [f"{folder}/comparison.json", f"{folder}/comparison.md"]
    storage.write_json(files[0], dict(results))
    storage.write_bytes(files[1], to_markdown(results).encode())
    for name, table in results["tables"].items():
        files += [f"{folder}/{name}.csv", f"{folder}/{name}.png"]
        storage.write_bytes(files[-2], to_csv(table).encode())
        with tempfile.TemporaryDirectory() as scratch:
            storage.put_file(draw_table(table, Path(scratch) / "table.png"), files[-1])
    return files
