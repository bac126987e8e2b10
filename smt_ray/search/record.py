"""What a search leaves in the storage, and the check that a folder is its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from smt_ray.artifacts.scratch import scratch_folder
from smt_ray.artifacts.storage import Storage
from smt_ray.config.load import to_yaml, values_to_yaml
from smt_ray.config.run import RunConfig
from smt_ray.config.search import SearchConfig
from smt_ray.errors import UserError
from smt_ray.grid.parent import ParentRun
from smt_ray.reporting.charts.search import save_curves, save_key
from smt_ray.reporting.text.search import to_csv, to_markdown
from smt_ray.run.report import REPORT, warn_where_it_fails
from smt_ray.search.report import CONFIG, RESULTS, folder_of, write_report

_ASKED = "asked.json"


def check_same_search(config: SearchConfig, runs: Sequence[RunConfig]) -> None:
    """Writes what was asked, or finds it there.

    Raises:
        UserError: Another search made the folder.
    """
    storage, place = Storage(runs[0].storage), f"{folder_of(config.name)}/{_ASKED}"
    asked = {**config.semantic(), "run": runs[0].semantic_tree()}
    if storage.exists(place):
        before = storage.read_json(place)
        if before != asked:
            differ = [key for key in asked if before.get(key) != asked[key]]
            raise UserError(
                "name",
                f"another search made {storage.uri(folder_of(config.name))}",
                got=f"{config.name}, with other {', '.join(differ)}",
                fix="give this one another name=..., or go back to that config",
            )
        return
    storage.write_json(place, asked)


def write_search(parent: ParentRun, config: SearchConfig, results: Mapping[str, Any]) -> list[str]:
    """Writes the results, the configuration, the trials as Markdown and CSV, pictures, the page.

    Args:
        parent: The search's folder.
        config: The search.
        results: What :func:`smt_ray.search.flow.search` returns.

    Returns:
        The files, as the storage names them.
    """
    trials = results["trials"]
    texts = {
        CONFIG: to_yaml(config),
        "search.md": to_markdown(results),
        "trials.csv": to_csv(trials),
        "best.yaml": results["best_yaml"],
    }
    storage, folder = parent.storage, parent.folder
    files = [f"{folder}/{RESULTS}"]
    storage.write_json(files[0], dict(results))
    for name, text in texts.items():
        files.append(f"{folder}/{name}")
        storage.write_bytes(files[-1], text.encode())
    with scratch_folder() as scratch:
        pictures = [save_curves(trials, scratch / "trials.png")]
        for key, domain in config.domains.items():
            path = scratch / f"loss_over_{key}.png"
            pictures.append(save_key(trials, key, path, is_log=domain.is_log))
        for picture in pictures:
            files.append(f"{folder}/{picture.name}")
            storage.put_file(picture, files[-1])
    if warn_where_it_fails(lambda: write_report(storage, config.name), config.name, storage):
        files.append(f"{folder}/{REPORT}")
    return files


def best_yaml(config: SearchConfig, best: Mapping[str, Any], num_trials: int) -> str:
    """The winner as a run's own file."""
    values = {**config.run_values(best["point"]), "name": best["run"]}
    return (
        f"# smt-ray run best.yaml\n# Best of {num_trials} trials of {config.name}, by validation"
        f" loss: {best['loss']:.4f}.\n{values_to_yaml(values)}"
    )
