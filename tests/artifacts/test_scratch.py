"""Temporary folders are removed, even those of killed processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from smt_ray.artifacts.scratch import scratch_folder


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A temporary directory of the test's own."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_a_folder_is_removed_after_its_context_even_after_an_error(temporary: Path) -> None:
    with scratch_folder() as folder:
        (folder / "deep").mkdir()
        (folder / "deep" / "file").write_text("x")
    assert not list(temporary.iterdir())
    with pytest.raises(OSError, match="full"), scratch_folder():
        raise OSError("full")
    assert not list(temporary.iterdir())


def test_several_folders_exist_side_by_side(temporary: Path) -> None:
    with scratch_folder() as outer:
        (outer / "file").write_text("x")
        with scratch_folder() as inner:
            assert inner != outer
        assert (outer / "file").read_text() == "x"


def test_the_folder_of_a_killed_process_is_removed_and_that_of_a_living_one_is_kept(
    temporary: Path,
) -> None:
    program = (
        "import sys, time\nfrom smt_ray.artifacts.scratch import scratch_folder\n"
        "with scratch_folder() as folder:\n"
        "    (folder / 'file').write_text('x')\n    print(folder, flush=True)\n    time.sleep(60)"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True,
        env={**os.environ, "TMPDIR": str(temporary)},
    )  # fmt: skip
    assert holder.stdout is not None
    theirs = Path(holder.stdout.readline().strip())
    with scratch_folder():
        assert (theirs / "file").exists()
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (theirs / "file").exists()
    with scratch_folder() as ours:
        assert {path.name for path in temporary.iterdir()} == {ours.name, f"{ours.name}.lock"}
    holder.stdout.close()
