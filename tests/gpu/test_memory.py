"""The plan of a run is compared with the peak of CUDA's allocator in that run."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from smt_ray.config.load import validate_config
from smt_ray.planning.report import plan_memory
from tests.planning import measure_engines
from tests.planning.conftest import small_run  # noqa: F401

pytestmark = [pytest.mark.slow, pytest.mark.gpu]
TOLERANCE = 0.1
BILLION = {
    "vocab_size": 32000, "hidden_size": 2048, "intermediate_size": 5504, "num_hidden_layers": 16,
    "num_attention_heads": 16,
}  # fmt: skip
LARGE = ("data.max_length=512", "batching.max_tokens=4096", "model.dtype=bfloat16")
CASES = {
    "smt": ("method=smt",),
    "smt, recomputed": ("method=smt", "training.activation_checkpointing=true"),
    "lora": ("method=lora",),
    "sift": ("method=sift", "sift.budget=0.0084"),
    "full, recomputed": ("method=full", "training.activation_checkpointing=true"),
    "smt, nf4": ("method=smt", "model.quantization=nf4"),
}


@pytest.mark.parametrize("name", CASES)
def test_a_plan_is_within_a_tenth_of_the_allocators_peak(
    small_run: Callable[..., dict[str, Any]],  # noqa: F811
    is_gpu: bool,
    name: str,
) -> None:
    sizes = [f"model.architecture.{key}={value}" for key, value in BILLION.items()]
    values = small_run(*(sizes if is_gpu else ()), *(LARGE if is_gpu else ()), *CASES[name])
    where = "cuda" if is_gpu else "cpu"
    answer = subprocess.run(
        [sys.executable, measure_engines.__file__, json.dumps([values]), where],
        capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    (peak,) = json.loads(answer.stdout.splitlines()[-1])
    report = plan_memory(validate_config(values))
    planned = report.configured.training_bytes + (0 if is_gpu else report.host_bytes or 0)
    assert planned == pytest.approx(peak, rel=TOLERANCE)
