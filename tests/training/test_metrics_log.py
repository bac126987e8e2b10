"""Claims about metrics.jsonl."""

from __future__ import annotations

from pathlib import Path

import pytest

from smt_ray.artifacts.storage import Storage
from smt_ray.tracking.records import parse_records
from smt_ray.training.metrics_log import MetricsLog

FILE = "stages/training-x/metrics.jsonl"


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path))


def steps(storage: Storage) -> list[int]:
    return [record["step"] for record in parse_records(storage.read_bytes(FILE).decode())]


def write(storage: Storage, start: int, stop: int) -> None:
    log = MetricsLog(storage, FILE, start)
    for step in range(start + 1, stop + 1):
        log.add(step, {"train/loss": float(step)})
    log.flush()


def test_flush_returns_each_record_once(storage: Storage) -> None:
    log = MetricsLog(storage, FILE, 0)
    assert [log.add(step, {"train/loss": 0.5}) for step in (1, 2)] == [[], []]
    assert [record["step"] for record in log.flush()] == [1, 2]
    assert log.flush() == []
    assert steps(storage) == [1, 2]


def test_records_are_written_after_some_seconds_without_a_flush(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("smt_ray.training.metrics_log._FLUSH_EVERY_S", 0.0)
    log = MetricsLog(storage, FILE, 0)
    assert [r["step"] for r in log.add(1, {"train/loss": 0.5})] == [1]
    assert steps(storage) == [1]


def test_a_resumed_run_drops_later_records_and_has_every_step_once(
    storage: Storage,
) -> None:
    write(storage, 0, 8)  # killed after step 8, with a checkpoint at step 5
    write(storage, 5, 10)
    assert steps(storage) == list(range(1, 11))


def test_a_run_that_starts_from_the_beginning_drops_the_earlier_attempt(storage: Storage) -> None:
    write(storage, 0, 8)
    write(storage, 0, 3)
    assert steps(storage) == [1, 2, 3]


def test_an_incomplete_last_line_does_not_stop_the_next_attempt(storage: Storage) -> None:
    write(storage, 0, 4)
    storage.write_bytes(FILE, storage.read_bytes(FILE) + b'{"time_ms": 1, "st')
    write(storage, 4, 6)
    assert steps(storage) == [1, 2, 3, 4, 5, 6]


def test_the_latest_values_include_those_of_the_earlier_attempt(storage: Storage) -> None:
    log = MetricsLog(storage, FILE, 0)
    log.add(1, {"train/loss": 3.0, "validation/loss": 4.0})
    log.add(2, {"train/loss": 2.0})
    log.add(3, {"train/loss": 1.0})
    assert log.latest == {"train/loss": 1.0, "validation/loss": 4.0}
    log.flush()
    assert MetricsLog(storage, FILE, 2).latest == {"train/loss": 2.0, "validation/loss": 4.0}
    assert MetricsLog(storage, FILE, 0).latest == {}
