"""Claims about earlier runs: damaged artifacts and taken names are refused and not changed."""

from __future__ import annotations

from pathlib import Path

import pytest

from smt_ray.artifacts.runs import RunFolder
from smt_ray.artifacts.storage import Storage
from smt_ray.stages.plan import RunPlan
from tests.cli.refusals import Refused, assert_names, finish


@pytest.mark.parametrize("harm", [b"what was", b"WHAT was computed", None])
@pytest.mark.parametrize(
    "stage", ["tokens", "selection", "training", "evaluation_base", "evaluation_tuned"]
)
def test_a_truncated_edited_or_missing_artifact_is_refused(
    refused: Refused, plan: RunPlan, finished: dict[str, str], stage: str, harm: bytes | None
) -> None:
    artifact = Path(finished[stage])
    artifact.write_bytes(harm) if harm is not None else artifact.unlink()
    line = refused("run", f"storage={plan.storage.root}", "name=mine")
    assert_names(line, f"{artifact}: was truncated or edited", "delete", "to make the stage again")
    others = [Path(path) for name, path in finished.items() if name != stage]
    assert all(path.read_bytes() == b"what was computed" for path in others)


def test_a_truncated_score_table_is_refused_if_it_is_needed(
    refused: Refused, plan: RunPlan
) -> None:
    assert plan.warmup is not None
    artifact = finish(plan.warmup, "score_table.safetensors")
    Path(artifact).write_bytes(b"what")
    line = refused("run", f"storage={plan.storage.root}")
    assert_names(line, f"{artifact}: was truncated or edited")


def test_a_truncated_manifest_is_refused(
    refused: Refused, plan: RunPlan, finished: dict[str, str]
) -> None:
    manifest = Path(plan.training.uri) / "manifest.json"
    manifest.write_bytes(manifest.read_bytes()[:50])
    assert_names(refused("run", f"storage={plan.storage.root}"), f"{manifest}: cannot be read")


def test_the_name_of_a_run_with_another_config_is_refused(
    refused: Refused, trained: RunFolder
) -> None:
    root = trained.storage.root
    line = refused("run", f"storage={root}", "name=mine", "training.learning_rate=5e-4")
    assert_names(
        line, "name: the run mine was made with another config", "training.learning_rate", "0.0005"
    )


def test_a_refused_config_does_not_reserve_its_name(refused: Refused, storage: Storage) -> None:
    named = ("run", f"storage={storage.root}", "name=mine")
    assert_names(refused(*named, "selection.block_size=48"), "selection.block_size: must divide")
    line = refused(*named, "selection.budget=0.9")
    assert_names(line, "selection.budget: must come to")
