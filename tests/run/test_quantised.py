"""Claims about a run on a quantised base: it learns as much, and merges into the full model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from smt_ray.artifacts.storage import Storage
from smt_ray.builtin import MODEL_DIR
from smt_ray.config.run import RunConfig
from smt_ray.run.merge import merge_run

pytestmark = pytest.mark.slow


def test_blocks_beside_nf4_weights_learn_as_much_and_are_merged_into_the_full_model(
    whole: Any, stages_of: Callable[[Sequence[str]], Path], quick: Callable[..., RunConfig],
    tmp_path: Path,
) -> None:  # fmt: skip
    from smt_ray.run import flow

    storage = stages_of(["tokens"])
    metrics = flow.run(quick(storage, "model.quantization=nf4", "name=nf4"))
    assert metrics.stages["tokens"].reused is False  # the identity of the model is another
    found, expected = metrics.training, whole.metrics.training
    assert found.num_steps == expected.num_steps
    loss = metrics.training.validation_loss
    assert loss == pytest.approx(whole.metrics.training.validation_loss, rel=0.03)
    assert metrics.trainable == whole.metrics.trainable
    assert metrics.selection.num_blocks == whole.metrics.selection.num_blocks
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
