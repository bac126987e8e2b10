"""Claims about the YAML files: each loads, and its first line is the command that runs it."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from smt_ray.config.comparison import load_comparison
from smt_ray.config.load import load_config
from smt_ray.config.search import load_search
from smt_ray.search.space import draw_points

ROOT = Path(__file__).parents[2]
COMPARISONS = sorted(ROOT.glob("configs/compare/*.yaml"))
SEARCHES = sorted(ROOT.glob("configs/tune/*.yaml"))
CONFIGS = sorted(
    {*ROOT.glob("configs/**/*.yaml"), *ROOT.glob("smt_ray/config/*.yaml")}
    - {*COMPARISONS, *SEARCHES}
)


def launch_command(path: Path) -> list[str]:
    first = path.read_text(encoding="utf-8").split("\n", 1)[0]
    assert first.startswith("# "), "the first line must be a comment with the launch command"
    return shlex.split(first.removeprefix("# "))


def test_configs_are_found_in_both_folders() -> None:
    assert {path.parent for path in CONFIGS} >= {ROOT / "configs", ROOT / "smt_ray" / "config"}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_a_config_loads_as_it_is(path: Path) -> None:
    assert load_config(path).name.startswith(path.stem)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_a_config_begins_with_the_command_that_runs_it(path: Path) -> None:
    command = launch_command(path)
    starts = (["smt-ray", "run"], ["smt-ray", "plan"], ["ray", "job", "submit"])
    assert any(command[: len(start)] == start for start in starts)
    # A config without weights can only be planned.
    assert (command[1] == "plan") == (load_config(path).model.architecture is not None)
    overrides = [word for word in command[2:] if "=" in word and not word.startswith("-")]
    if path.parent.name == "config":
        assert command == ["smt-ray", "run"]  # the quickstart needs no argument
    else:
        assert str(path.relative_to(ROOT)) in command
    load_config(path, overrides)


@pytest.mark.parametrize("path", COMPARISONS, ids=lambda path: path.name)
def test_a_comparison_loads_with_all_its_cells_and_begins_with_its_command(path: Path) -> None:
    assert launch_command(path)[:3] == ["smt-ray", "compare", str(path.relative_to(ROOT))]
    comparison = load_comparison(path, [])
    assert comparison.name == path.stem
    rates = {method: rates[0] for method, rates in comparison.learning_rates.items()}
    assert list(comparison.cell_runs(rates))


@pytest.mark.parametrize("path", SEARCHES, ids=lambda path: path.name)
def test_a_search_loads_with_its_points_and_begins_with_its_command(path: Path) -> None:
    command, place = launch_command(path), str(path.relative_to(ROOT))
    starts = (["smt-ray", "tune", place], ["ray", "job", "submit"])
    assert any(command[: len(start)] == start for start in starts)
    assert place in command
    overrides = [word for word in command if "=" in word and not word.startswith("-")]
    search = load_search(path, overrides)
    assert search.name == path.stem
    assert all(search.make_run(point) for point in draw_points(search))
