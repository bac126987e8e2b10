"""The plan of a run, against the live bytes of that run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from smt_ray.config.load import validate_config
from smt_ray.orchestration.memory_plan import plan_memory

LLAMA = {
    "model_type": "llama", "vocab_size": 1024, "hidden_size": 256, "intermediate_size": 704,
    "num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 4,
    "tie_word_embeddings": True,
}  # fmt: skip
TOLERANCE = 0.1

CASES = [
    ("smt", "float32", 0, False),
    ("smt", "float32", 2, True),
    ("smt", "bfloat16", 2, False),
    ("smt", "bfloat16", 0, True),
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
]


def config_of(method: str, dtype: str, stage: int) -> dict[str, Any]:
    return {
        "name": "planned",
        "method": method,
        "model": {"architecture": LLAMA, "dtype": dtype},
        "data": {"train": ["builtin:tiny_arithmetic"], "max_length": 65, "train_on_inputs": True},
        "selection": {"block_size": 32, "budget": 0.05},
        "lora": {"rank": 8, "dropout": 0.05},
        "training": {"batch_size": 8},
        "batching": {"mode": "packed", "max_tokens": 256},
        "deepspeed": {"zero_stage": stage},
    }


@pytest.fixture(scope="module")
def measured() -> list[int]:
    """Peaks of all cases, from one process: its imports take longer than they do."""
    cases = [{"config": config_of(m, d, s), "checkpointing": c} for m, d, s, c in CASES]
    script = Path(__file__).with_name("measure_engines.py")
    answer = subprocess.run(
        [sys.executable, str(script), json.dumps(cases)],
        capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    peaks: list[int] = json.loads(answer.stdout.splitlines()[-1])
    return peaks


@pytest.mark.slow
@pytest.mark.parametrize("index", range(len(CASES)), ids=lambda i: "-".join(map(str, CASES[i])))
def test_a_plan_is_within_a_tenth_of_what_a_run_holds(measured: list[int], index: int) -> None:
    method, dtype, stage, checkpointing = CASES[index]
    report = plan_memory(validate_config(config_of(method, dtype, stage)))
    total = report["stages"][stage]["checkpointed_total" if checkpointing else "total"]
    # Here the host's tensors are on the same device.
    planned = total + report.get("host_bytes", 0)
    assert planned == pytest.approx(measured[index], rel=TOLERANCE)
