"""Small configs: with random weights for plans, with the built-in model for real runs."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from smt_ray.artifacts.runs import RunFolder
from smt_ray.artifacts.storage import Storage
from smt_ray.config.load import apply_overrides, validate_config
from smt_ray.config.run import RunConfig
from smt_ray.documents.run import RunManifest, RunMetrics

NUM_STEPS = 40
QUICK: dict[str, Any] = {
    "name": "quick",
    "model": {"builtin": "tiny"},
    "data": {
        "train": ["builtin:tiny_commonsense", "builtin:tiny_arithmetic"],
        "max_rows": 300,
        "validation_rows": 8,
    },
    "warmup": {"num_steps": 12, "num_shards": 2, "table_block_size": 16},
    "selection": {"block_size": 16, "budget": 0.05},
    "training": {
        "max_steps": NUM_STEPS,
        "learning_rate": 2e-3,
        "validate_every_steps": 20,
        "checkpoint_every_steps": 5,
    },
    "resources": {"num_workers": 2, "use_gpu": False},
    "evaluation": {
        "tasks": ["tiny_commonsense", "tiny_arithmetic"],
        "base_likelihood": True,
        "max_rows": 8,
    },
}
"""A short form of the quickstart, for every real run in the tests."""
ONE_WORKER: dict[str, Any] = {"num_workers": 1, "use_gpu": False}
"""Resources for claims that are not about ranks: few processes start, and two runs fit at once."""


@pytest.fixture(scope="session")
def rows_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with made-up rows in the layout of LLM-Adapters."""
    folder = tmp_path_factory.mktemp("data")
    rows = [
        {"instruction": f"Is {i} even?", "output": f"the answer is {answer}", "answer": answer}
        for i in range(30)
        for answer in [str(i % 2 == 0).lower()]
    ]
    (folder / "train.json").write_text(json.dumps(rows[:20]))
    (folder / "dataset" / "boolq").mkdir(parents=True)
    (folder / "dataset" / "boolq" / "test.json").write_text(json.dumps(rows[20:]))
    return folder


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory, make_llama: Callable[..., Any]) -> Path:
    """A tiny Llama on disk, without a tokenizer."""
    folder = tmp_path_factory.mktemp("model")
    make_llama().save_pretrained(folder)
    return folder


@pytest.fixture
def make_config(tmp_path: Path, rows_folder: Path, model_folder: Path) -> Callable[..., RunConfig]:
    """Makes a config on those rows and that model, with ``key.sub=value`` overrides."""

    def make(*overrides: str) -> RunConfig:
        values: dict[str, Any] = {
            "name": "small",
            "storage": str(tmp_path / "storage"),
            "model": {"path": str(model_folder)},
            "data": {"dir": str(rows_folder), "train": ["train.json"], "validation_rows": 2},
            "selection": {"block_size": 8, "budget": 0.05},
            "evaluation": {"tasks": ["boolq"], "base_likelihood": True},
        }
        return validate_config(apply_overrides(values, overrides))

    return make


@dataclass(frozen=True)
class Run:
    """A run in a storage."""

    storage: Path
    name: str
    metrics: RunMetrics

    @property
    def manifest(self) -> RunManifest:
        """run.json."""
        return RunFolder.open(Storage(str(self.storage)), self.name).manifest()

    def stage(self, kind: str) -> Path:
        """A finished stage's folder."""
        return self.storage / "stages" / self.manifest.stages[kind].stage

    @property
    def adapter(self) -> dict[str, bytes]:
        """The adapter's files."""
        return {p.name: p.read_bytes() for p in (self.stage("training") / "adapter").iterdir()}

    def steps(self) -> list[int]:
        """The steps in metrics.jsonl, in the order of its lines."""
        lines = (self.stage("training") / "metrics.jsonl").read_text().splitlines()
        return [json.loads(line)["step"] for line in lines]


def quick_config(storage: Path, *overrides: str) -> RunConfig:
    """The short quickstart in a storage."""
    values = copy.deepcopy(QUICK) | {"storage": str(storage)}
    return validate_config(apply_overrides(values, overrides))


@pytest.fixture(scope="session")
def whole(cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """An undisturbed run from rows to metrics, which the others are compared with."""
    from smt_ray.run import flow

    storage = tmp_path_factory.mktemp("whole")
    config = quick_config(storage)
    return Run(storage, config.name, flow.run(config))


@pytest.fixture
def stages_of(whole: Run, tmp_path: Path) -> Callable[[Sequence[str]], Path]:
    """Makes a storage with some stages of the undisturbed run, but without a run."""

    def copied(kinds: Sequence[str]) -> Path:
        storage = tmp_path / "storage"
        for kind in kinds:
            shutil.copytree(whole.stage(kind), storage / "stages" / whole.stage(kind).name)
        return storage

    return copied


@pytest.fixture(scope="session")
def quick() -> Callable[..., RunConfig]:
    """The short quickstart in a storage, with overrides."""
    return quick_config
