"""Claims about a run on a quantised base: it learns as much, and merges into the full model."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from smt_ray.artifacts.storage import Storage
from smt_ray.builtin import MODEL_DIR
from smt_ray.config.run import RunConfig
from smt_ray.documents.run import RunMetrics
from smt_ray.run.export.merge import merge_run

pytestmark = pytest.mark.slow


def train_losses(storage: Path, metrics: RunMetrics) -> list[float]:
    """The training loss of every step."""
    stage = storage / "stages" / metrics.stages["training"].stage
    records = map(json.loads, (stage / "metrics.jsonl").read_text().splitlines())
    return [record["metrics"]["train/loss"] for record in records if record["step"]]


def test_blocks_beside_nf4_weights_learn_as_much_and_are_merged_into_the_full_model(
    whole: Any, stages_of: Callable[[Sequence[str]], Path], quick: Callable[..., RunConfig],
    tmp_path: Path,
) -> None:  # fmt: skip
    from smt_ray.run import flow

    storage = stages_of(["tokens", "warmup", "selection"])
    # At the usual rate the loss of the tiny model soon falls to zero, where ratios say nothing.
    common = ("training.max_steps=30", "training.learning_rate=2e-4")
    expected = flow.run(quick(storage, "name=full", *common), until="training")
    found = flow.run(
        quick(storage, "name=nf4", "model.quantization=nf4", *common), until="training"
    )
    assert expected.stages["selection"].reused
    assert not found.stages["tokens"].reused  # the identity of the model is another
    plain, quantised = (train_losses(storage, metrics) for metrics in (expected, found))
    assert sum(plain[-10:]) < 0.9 * sum(plain[:2]) * 5
    assert sum(quantised[-10:]) == pytest.approx(sum(plain[-10:]), rel=0.03)
    assert quantised != plain
    assert found.trainable == expected.trainable
    assert found.selection.num_blocks == expected.selection.num_blocks
    merge_run(Storage(str(storage)), "nf4", tmp_path / "merged")
    merged, base = (
        AutoModelForCausalLM.from_pretrained(place) for place in (tmp_path / "merged", MODEL_DIR)
    )
    changed = [
        name
        for name, weight in merged.state_dict().items()
        if not torch.equal(weight, base.state_dict()[name])
    ]
    assert {name.split(".")[-2] for name in changed} <= {"q_proj", "k_proj", "v_proj"}
    assert changed
