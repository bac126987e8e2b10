"""Claims about the progress of a stage where there is no terminal."""

from __future__ import annotations

import time

import pytest

from smt_ray.reporting.text import progress as progresses
from smt_ray.reporting.text.progress import progress


@pytest.mark.parametrize(("total", "count"), [(8, " 3/8"), (0, "")])
def test_a_line_has_a_count_if_the_total_is_known(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], total: int, count: str
) -> None:
    monkeypatch.setattr(progresses, "_LINE_EVERY_S", 0.0)
    monkeypatch.setattr(progresses, "_POLL_S", 0.01)
    with progress("training", total, lambda: (3, "loss 0.5")):
        time.sleep(0.2)
    assert capsys.readouterr().err.splitlines()[0] == f"training:{count} after 0 s loss 0.5"
