"""Claims about the public names of the package, and about the cost of importing it."""

from __future__ import annotations

import json
import subprocess
import sys
from types import ModuleType

import pytest

import smt_ray

PUBLIC = {
    "BlockGrid",
    "GradientAccumulator",
    "RunConfig",
    "ScoreTable",
    "Selection",
    "SparseLinear",
    "UserError",
    "__version__",
    "apply_selection",
    "block_statistics",
    "dense_weight",
    "find_eligible",
    "load_adapter",
    "load_config",
    "merge_and_unload",
    "print_trainable_parameters",
    "refresh",
    "save_adapter",
    "select_blocks",
    "trainable_parameters",
    "unload",
}
HEAVY = ("torch", "ray", "transformers", "deepspeed", "mlflow", "datasets", "pandas", "numpy")

# Runs a statement in a new interpreter and prints the heavy modules that it imported.
PROBE = """
import json, sys
sys.argv = {argv!r}
try:
    {statement}
except SystemExit as end:
    assert not end.code, end.code
print()
print(json.dumps([name for name in {heavy!r} if name in sys.modules]))
"""


def heavy_after(statement: str, *arguments: str) -> list[str]:
    script = PROBE.format(statement=statement, argv=["smt-ray", *arguments], heavy=HEAVY)
    answer = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=120
    )
    assert answer.returncode == 0, answer.stderr
    found: list[str] = json.loads(answer.stdout.splitlines()[-1])
    return found


def test_all_lists_exactly_the_public_api() -> None:
    assert set(smt_ray.__all__) == PUBLIC
    assert len(smt_ray.__all__) == len(set(smt_ray.__all__))
    assert set(dir(smt_ray)) == PUBLIC


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_a_public_name_resolves_to_a_documented_thing(name: str) -> None:
    thing = getattr(smt_ray, name)
    assert not isinstance(thing, ModuleType)
    if name != "__version__":
        assert thing.__doc__
        assert thing.__name__ == name


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Selektion'"):
        smt_ray.Selektion  # noqa: B018


@pytest.mark.parametrize(
    ("statement", "arguments"),
    [
        ("import smt_ray; dir(smt_ray)", ()),
        ("from smt_ray.cli import main; main()", ("--help",)),
        ("from smt_ray.cli import main; main()", ("run", "--help")),
        ("from smt_ray.cli import main; main()", ("config",)),
        ("from smt_ray.cli import main; main()", ("config", "--schema")),
        ("from smt_ray.cli import main; main()", ("config", "--schema", "--kind", "search")),
        ("from smt_ray.cli import main; main()", ("--version",)),
    ],
    ids=["import", "--help", "run --help", "config", "config --schema", "--kind", "--version"],
)
def test_quick_answers_need_no_heavy_imports(statement: str, arguments: tuple[str, ...]) -> None:
    assert heavy_after(statement, *arguments) == []


def test_the_probe_sees_a_heavy_import() -> None:
    assert heavy_after("import numpy") == ["numpy"]


@pytest.mark.parametrize("stage", ["warmup_tasks", "selection", "evaluation"])
def test_the_file_of_a_workers_task_imports_no_heavy_library(stage: str) -> None:
    """Ray's workers import the file first; each task imports the libraries that it needs."""
    found = heavy_after(f"import smt_ray.stages.{stage}")
    assert "ray" in found
    assert not {"torch", "transformers", "deepspeed", "mlflow"} & set(found)


AS_A_RANK = (
    "import torch; from smt_ray.training.engine import import_deepspeed;"
    " import_deepspeed(torch.device('cpu'))"
)


def test_a_rank_does_not_import_mlflow_for_the_autotuner_of_deepspeed() -> None:
    imported = heavy_after(AS_A_RANK)
    assert "deepspeed" in imported
    assert "mlflow" not in imported


def test_a_rank_can_import_mlflow_afterwards() -> None:
    assert "mlflow" in heavy_after(f"{AS_A_RANK}; import mlflow")
