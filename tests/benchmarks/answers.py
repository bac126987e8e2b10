"""Checks of the parts that every benchmark's JSON has, and of spreads."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any


def read(path: Path, benchmark: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    assert found["benchmark"] == benchmark
    assert found["options"]["rounds"] == 1
    machine = found["machine"]
    assert machine["cpu"]
    assert machine["threads"] == 1
    assert len(machine["load_average_at_start"]) == 3
    assert {"torch", "transformers", "peft", "commit"} <= machine.keys()
    return found


def assert_spread(values: dict[str, float]) -> None:
    assert 0 <= values["min"] <= values["median"] <= values["max"]
    assert math.isfinite(values["max"])
