"""Claims about the benchmark of many rows: every phase of every case is measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import data

PHASES = {
    "1 processes": ["imports", "rows", "tokens", "storage", "load and one step"],
    "plan of 5,000": ["imports", "rows", "split", "fingerprint", "first rows"],
}


@pytest.mark.slow
def test_data_measures_every_phase(tmp_path: Path) -> None:
    file = tmp_path / "d.json"
    data.main(f"--rows 3000 --processes 1 --planned-rows 5000 --json {file}".split())
    results = json.loads(file.read_text())["results"]
    assert {case: list(phases) for case, phases in results.items()} == PHASES
    for phases in results.values():
        assert all(found["memory"] > 0 for found in phases.values())
