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


def test_new_records_are_appended_and_the_file_is_not_written_again(storage: Storage) -> None:
    log = MetricsLog(storage, FILE, 0)
    inode = Path(storage.key(FILE)).stat().st_ino
    for step in (1, 2, 3):
        log.add(step, {"train/loss": 0.5})
        log.flush()
    assert Path(storage.key(FILE)).stat().st_ino == inode
    assert steps(storage) == [1, 2, 3]


def test_slow_flushes_become_rarer(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    """A flush of one second is followed by none for 100 seconds."""
    now = [0.0]
    monkeypatch.setattr("smt_ray.training.metrics_log.time.monotonic", lambda: now[0])
    log = MetricsLog(storage, FILE, 0)

    def append(path: str, content: bytes) -> None:
        now[0] += 1.0

    monkeypatch.setattr(storage, "append_bytes", append)
    flushed = []
    for step in range(1, 301):
        now[0] += 1.0
        if log.add(step, {"train/loss": 0.5}):
            flushed.append(step)
    assert flushed[0] == 2
    assert 98 <= flushed[1] - flushed[0] <= 101


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
