"""The files of a search, and the check that its folder is not another search's."""

from __future__ import annotations

from functools import partial

from smt_ray.artifacts.layout import (
    BEST_CONFIG,
    SEARCH,
    SEARCH_CONFIG,
    SEARCH_SETTINGS,
    SEARCH_TABLE,
)
from smt_ray.config.load import to_yaml, values_to_yaml
from smt_ray.config.run import RunConfig
from smt_ray.config.search import SearchConfig
from smt_ray.documents.search import SearchDocument, SearchSettings, TrialResult
from smt_ray.errors import UserError
from smt_ray.grid.folder import GroupFolder
from smt_ray.reporting.charts.search import save_curves, save_key
from smt_ray.reporting.text.search import to_csv, to_markdown
from smt_ray.search.report import write_report

_TABLE, _CURVES = "trials.csv", "trials.png"


def check_same_search(folder: GroupFolder, config: SearchConfig, run: RunConfig) -> None:
    """Writes the settings of the search and its first run, or compares them with the folder's.

    Raises:
        UserError: Another search made the folder.
    """
    wanted = SearchSettings(settings={**config.semantic(), "run": run.semantic_tree()})
    if not folder.exists(SEARCH_SETTINGS):
        folder.storage.write_json(folder.path(SEARCH_SETTINGS), wanted.to_json())
        return
    fix = "give the search another name=..., or delete the folder"
    before = folder.read_document(SearchSettings, SEARCH_SETTINGS, fix=fix)
    differing = [key for key, value in wanted.settings.items() if before.settings.get(key) != value]
    if differing:
        raise UserError(
            "name",
            f"another search made {folder.uri()}",
            got=f"{config.name}, with another {', '.join(differing)}",
            fix="give this search another name=..., or go back to the earlier configuration",
        )


def write_search(folder: GroupFolder, config: SearchConfig, results: SearchDocument) -> None:
    """Writes everything into the folder of a search."""
    trials = results.trials
    folder.write_document(SEARCH, results)
    folder.write_text(SEARCH_CONFIG, to_yaml(config))
    folder.write_text(SEARCH_TABLE, to_markdown(results))
    folder.write_text(_TABLE, to_csv(trials))
    folder.write_text(BEST_CONFIG, results.best_yaml)
    folder.write_picture(_CURVES, partial(save_curves, trials))
    for key, domain in config.domains.items():
        draw = partial(save_key, trials, key, is_log=domain.is_log)
        folder.write_picture(f"loss_over_{key}.png", draw)
    folder.write_page(write_report)


def best_yaml(config: SearchConfig, best: TrialResult, num_trials: int) -> str:
    """The configuration file of the winner."""
    values = {**config.run_values(best.point), "name": best.run}
    return (
        f"# smt-ray run {BEST_CONFIG}\n# Best of {num_trials} trials of {config.name}, by"
        f" validation loss: {best.loss:.4f}.\n{values_to_yaml(values)}"
    )
