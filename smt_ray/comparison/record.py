"""What a comparison leaves in the storage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from smt_ray.artifacts.scratch import scratch_folder
from smt_ray.artifacts.storage import Storage
from smt_ray.comparison.report import CONFIG, RESULTS, folder_of, write_report
from smt_ray.config.comparison import ComparisonConfig
from smt_ray.config.load import to_yaml
from smt_ray.reporting.charts.comparison import draw_table
from smt_ray.reporting.charts.run import selection_figure
from smt_ray.reporting.text.comparison import (
    layer_lines,
    layered_rows,
    layers_picture,
    to_csv,
    to_markdown,
    write_csv,
)
from smt_ray.run.report import REPORT, warn_where_it_fails


def write_comparison(
    storage: Storage, config: ComparisonConfig, results: Mapping[str, Any]
) -> list[str]:
    """Writes the results, the configuration, the tables as Markdown, CSV and pictures, the page.

    Args:
        storage: Where to.
        config: The comparison.
        results: What :func:`smt_ray.comparison.flow.compare` returns.

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
        files += _write_layers(storage, f"{folder}/{name}", table)
    if warn_where_it_fails(lambda: write_report(storage, config.name), config.name, storage):
        files.append(f"{folder}/{REPORT}")
    return files


def failure_text(config: ComparisonConfig, results: Mapping[str, Any]) -> str:
    """How many of the cells' runs failed, and where it is said why; "" where none did.

    A learning rate that could not be trained is no such failure, as long as another one could.

    Args:
        config: The comparison.
        results: What :func:`smt_ray.comparison.flow.compare` returns.
    """
    names = {
        name
        for table in results["tables"].values()
        for columns in table["rows"].values()
        for cell in columns.values()
        for name in cell["runs"]
    }
    failed = [name for name in names if results["runs"][name]["error"]]
    if not failed:
        return ""
    storage, folder = Storage(config.make_run({}, config.seeds[0]).storage), folder_of(config.name)
    page = REPORT if storage.exists(f"{folder}/{REPORT}") else "comparison.md"
    return f"{len(failed)} of {len(names)} runs failed: see {storage.uri(folder, page)}"


def _write_layers(storage: Storage, place: str, table: Mapping[str, Any]) -> list[str]:
    """Where the blocks are, of a table that knows it: as CSV, and a picture of each row."""
    if not (lines := layer_lines(table)):
        return []
    files = [f"{place}_layers.csv"]
    storage.write_bytes(files[0], write_csv(lines).encode())
    for row, cell in layered_rows(table).items():
        chosen = {module["module"]: module["chosen"] for module in cell["modules"]}
        blocks = {module["module"]: module["blocks"] for module in cell["modules"]}
        files.append(layers_picture(place, row))
        with scratch_folder() as scratch:
            picture = selection_figure(chosen, blocks, scratch / "layers.png", f"Blocks of {row}")
            storage.put_file(picture, files[-1])
    return files
