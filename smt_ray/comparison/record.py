"""The files of a comparison: its results, tables, pictures and page."""

from __future__ import annotations

from functools import partial

from smt_ray.artifacts.layout import (
    COMPARISON,
    COMPARISON_CONFIG,
    COMPARISON_TABLES,
    REPORT,
    comparison_folder,
)
from smt_ray.artifacts.storage import Storage
from smt_ray.comparison.report import write_report
from smt_ray.config.comparison import ComparisonConfig
from smt_ray.config.load import to_yaml
from smt_ray.documents.comparison import CellResult, ComparisonDocument, TableResult
from smt_ray.grid.folder import GroupFolder
from smt_ray.reporting.charts.comparison import draw_table
from smt_ray.reporting.charts.run import selection_figure
from smt_ray.reporting.text.comparison import (
    layer_lines,
    layered_rows,
    layers_picture,
    to_csv,
    to_markdown,
)
from smt_ray.reporting.text.tables import write_csv
from smt_ray.reporting.text.values import blocks_label


def write_comparison(
    folder: GroupFolder, config: ComparisonConfig, results: ComparisonDocument
) -> None:
    """Writes everything into the folder of a comparison."""
    folder.write_document(COMPARISON, results)
    folder.write_text(COMPARISON_CONFIG, to_yaml(config))
    folder.write_text(COMPARISON_TABLES, to_markdown(results))
    for name, table in results.tables.items():
        _write_table(folder, name, table)
    folder.write_page(write_report)


def failure_text(config: ComparisonConfig, results: ComparisonDocument) -> str:
    """The number of failed runs and the file that says why they failed; "" if no run failed.

    A learning rate that failed does not count if another one of its method was chosen.
    """
    names = {
        name
        for table in results.tables.values()
        for _, _, cell in table.cells()
        for name in cell.runs
    }
    failed = [name for name in names if results.runs[name].error]
    if not failed:
        return ""
    storage = Storage(config.make_run({}, config.seeds[0]).storage)
    folder = GroupFolder(storage, comparison_folder(config.name))
    page = REPORT if folder.exists(REPORT) else COMPARISON_TABLES
    return f"{len(failed)} of {len(names)} runs failed: see {folder.uri(page)}"


def _write_table(folder: GroupFolder, name: str, table: TableResult) -> None:
    folder.write_text(f"{name}.csv", to_csv(table))
    folder.write_picture(f"{name}.png", partial(draw_table, table))
    if lines := layer_lines(table):
        folder.write_text(f"{name}_layers.csv", write_csv(lines))
        for row, cell in layered_rows(table).items():
            _write_layers(folder, layers_picture(name, row), row, cell)


def _write_layers(folder: GroupFolder, file: str, row: str, cell: CellResult) -> None:
    """Writes the picture of where a row's blocks, columns or elements are."""
    weights = cell.modules or []
    chosen = {weight.module: weight.chosen for weight in weights}
    blocks = {weight.module: weight.blocks for weight in weights}
    label = blocks_label(weights[0].block_shape if weights else "square")
    title = f"{label.capitalize()} of {row}"
    folder.write_picture(file, lambda path: selection_figure(chosen, blocks, path, title, label))
