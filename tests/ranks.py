"""Runs a harness once for each rank."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def free_port() -> int:
    """A port that no process listens on."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def run_ranks(harness: Path, folder: Path, ranks: Sequence[Sequence[Any]]) -> None:
    """Runs ``harness FOLDER *RANK`` for all ranks at the same time; all must succeed.

    The logs are in the folder; their names are the first two arguments of the ranks.
    """
    processes = [
        subprocess.Popen(
            [sys.executable, str(harness), str(folder), *map(str, rank)],
            stdout=(folder / f"{rank[0]}-{rank[1]}.log").open("w"), stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        )
        for rank in ranks
    ]  # fmt: skip
    try:
        codes = [process.wait(timeout=600) for process in processes]
    finally:
        for process in processes:
            process.kill()
    logs = "\n".join(p.read_text()[-3000:] for p in sorted(folder.glob("*.log")))
    assert codes == [0] * len(ranks), logs


def set_rank(rank: str, num_ranks: str, port: str) -> None:
    """Sets the variables with which a process joins its group on this machine, without a GPU."""
    os.environ |= {
        "RANK": rank,
        "LOCAL_RANK": rank,
        "WORLD_SIZE": num_ranks,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "CUDA_VISIBLE_DEVICES": "",
    }
