"""The plan of a run is compared with the live bytes of that run."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from smt_ray.config.load import validate_config
from smt_ray.planning.report import plan_memory

TOLERANCE = 0.05
COLUMNS = ("selection={block_shape: column, budget: 0.05}",)
CASES = [
    ("smt", "float32", 0, False),
    ("smt", "float32", 2, True),
    ("smt", "bfloat16", 2, False),
    ("smt", "bfloat16", 0, True),
    ("sift", "float32", 2, True),
    ("sift", "bfloat16", 0, False),
    ("columns", "bfloat16", 2, False),
    ("lora", "float32", 2, False),
    ("lora", "bfloat16", 0, False),
    ("dora", "bfloat16", 1, True),
    ("full", "float32", 0, False),
    ("full", "float32", 1, True),
    ("full", "float32", 2, False),
    ("full", "bfloat16", 0, True),
    ("full", "bfloat16", 1, False),
    ("full", "bfloat16", 2, True),
    ("full", "bfloat16", 3, False),
    ("smt", "bfloat16", 2, False, "nf4"),
    ("smt", "float32", 0, True, "nf4"),
    ("lora", "bfloat16", 2, True, "nf4"),
]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def configs(small_run: Callable[..., dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        small_run(
            *([*COLUMNS] if method == "columns" else [f"method={method}"]),
            f"model.dtype={dtype}",
            f"deepspeed.zero_stage={stage}",
            f"training.activation_checkpointing={checkpointing}",
            f"model.quantization={quantization[0] if quantization else 'none'}",
        )
        for method, dtype, stage, checkpointing, *quantization in CASES
    ]


@pytest.fixture(scope="module")
def measured(configs: list[dict[str, Any]]) -> list[int]:
    """The peaks of all cases, measured in one process since its imports take long."""
    answer = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("measure_engines.py")), json.dumps(configs)],
        capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    peaks: list[int] = json.loads(answer.stdout.splitlines()[-1])
    return peaks


@pytest.mark.parametrize("index", range(len(CASES)), ids=lambda i: "-".join(map(str, CASES[i])))
def test_a_plan_is_within_5_percent_of_a_real_run(
    configs: list[dict[str, Any]], measured: list[int], index: int
) -> None:
    report = plan_memory(validate_config(configs[index]))
    # The tensors of the host are on the same device here.
    planned = report.configured.training_bytes + (report.host_bytes or 0)
    # A dequantised weight is counted at the peak, where there may be none.
    above = 2 * TOLERANCE if len(CASES[index]) > 4 else TOLERANCE
    assert (1 - TOLERANCE) * measured[index] <= planned <= (1 + above) * measured[index]
