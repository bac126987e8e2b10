"""A rank that gives no sign of life is ended, with its stacks in its log."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from smt_ray.training import watchdog
from smt_ray.training.watchdog import Watchdog


def run(script: str) -> subprocess.CompletedProcess[str]:
    begin = "import time\nfrom smt_ray.training.watchdog import Watchdog\ndog = Watchdog(1.0)\n"
    return subprocess.run([sys.executable, "-c", begin + script], capture_output=True, text=True)


def test_a_process_that_hangs_ends_and_shows_where() -> None:
    done = run("def stuck(): time.sleep(60)\ndog.sign()\nstuck()")
    assert done.returncode == 1
    assert "in stuck" in done.stderr


@pytest.mark.parametrize(
    "script",
    ["for _ in range(4): dog.sign(); time.sleep(0.5)", "dog.sign(); dog.stop(); time.sleep(1.5)"],
    ids=["signs", "stopped"],
)
def test_it_does_nothing_while_there_are_signs_or_none_are_awaited(script: str) -> None:
    done = run(f"{script}\nprint('end')\ndog.stop()")
    assert (done.returncode, done.stdout, done.stderr) == (0, "end\n", "")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    now = [0.0]
    monkeypatch.setattr(watchdog.time, "monotonic", lambda: now[0])
    yield now
    Watchdog().stop()


def test_by_default_it_waits_ten_times_the_longest_and_at_least_300_s(clock: list[float]) -> None:
    dog = Watchdog()
    limits = []
    for seconds in (0.0, 5.0, 100.0, 20.0):
        clock[0] += seconds
        dog.sign()
        limits.append(dog.limit_s)
    assert limits == [1800.0, 300.0, 1000.0, 1000.0]
    dog.stop()
    clock[0] += 5000.0  # such as for a checkpoint
    dog.sign()
    assert dog.limit_s == 1000.0
