"""The scene of each fault, and which faults are tried at a commit."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from smt_ray.config.run import RunConfig
from tests.faults.scene import Scene

VARIABLE = "SMT_RAY_FAULTS"
"""The environment variable that is ``all`` to try every fault; by default a third is tried."""
SHARES = 3
FOLDER = Path(__file__).parent

BEFORE = {
    "warmup": ("tokens",),
    "training": ("tokens", "warmup", "selection"),
    "evaluation": ("tokens", "warmup", "selection", "training"),
}
"""Stage -> the stages that are finished before it."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keeps a third of the faults, chosen by the commit; those that are named are all kept."""
    named = any(str(FOLDER.name) in str(argument) for argument in config.args)
    if os.environ.get(VARIABLE) == "all" or named:
        return
    faults = [item for item in items if FOLDER in Path(item.path).parents]
    left_out = {item for i, item in enumerate(faults) if i % SHARES != _commit() % SHARES}
    config.hook.pytest_deselected(items=list(left_out))
    items[:] = [item for item in items if item not in left_out]


def _commit() -> int:
    found = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=FOLDER, capture_output=True, text=True, check=False
    )
    return int(found.stdout.strip() or "0", 16)


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, quick: Callable[..., RunConfig]) -> Scene:
    """A run by the command line without any fault, which the others are compared with."""
    folder = tmp_path_factory.mktemp("undisturbed")
    run = Scene(folder, quick(folder / "storage"), until="evaluation")
    run.start()
    assert run.ends() == 0, run.said()
    return run


@pytest.fixture
def scene(
    tmp_path: Path, quick: Callable[..., RunConfig], undisturbed: Scene
) -> Callable[..., Scene]:
    """Makes the scene of a run whose stages before one are finished."""

    def make(during: str, *overrides: str, environment: dict[str, str] | None = None) -> Scene:
        until = {"warmup": "selection"}.get(during, during)
        for key in BEFORE[during]:
            stage = undisturbed.stage(key)
            shutil.copytree(stage, tmp_path / "storage" / "stages" / stage.name)
        config = quick(tmp_path / "storage", *overrides)
        return Scene(tmp_path, config, environment or {}, until)

    return make
