"""What a comparison leaves in the storage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from smt_ray.artifacts.scratch import scratch_folder
from smt_ray.artifacts.storage import Storage
from smt_ray.config.comparison import ComparisonConfig
from smt_ray.config.load import to_yaml
from smt_ray.orchestration.comparison_report import CONFIG, RESULTS, folder_of, write_report
from smt_ray.orchestration.run_report import REPORT, warn_where_it_fails
from smt_ray.reporting.comparison import to_csv, to_markdown
from smt_ray.reporting.comparison_figures import draw_table


def write_comparison(
    storage: Storage, config: ComparisonConfig, results: Mapping[str, Any]
) -> list[str]:
    """Writes the results, the configuration, the tables as Markdown, CSV and pictures, the page.

    Args:
        storage: Where to.
        config: The comparison.
        results: What :func:`smt_ray.orchestration.compare.compare` returns.

    Returns:
        The files, as the storage names them.
    """
    folder = folder_of(config.name)
    files = [f"{folder}/{file}" for file in (RESULTS, CONFIG, "comparison.md")]
    storage.write_json(files[0], dict(results))
    storage.write_bytes(files[1], to_yaml(config).encode())
    storage.write_bytes(files[2], to_markdown(results).encode())
    for name, table in results["tables"].items():
        files += [f"{folder}/{name}.csv", f"{folder}/{name}.png"]
        storage.write_bytes(files[-2], to_csv(table).encode())
        with scratch_folder() as scratch:
            storage.put_file(draw_table(table, scratch / "table.png"), files[-1])
    if warn_where_it_fails(lambda: write_report(storage, config.name), config.name, storage):
        files.append(f"{folder}/{REPORT}")
    return files
