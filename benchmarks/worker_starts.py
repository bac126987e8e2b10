r"""Whole commands, with workers that are forked from one process and with workers that start alone.

    python -m benchmarks.worker_starts --json benchmarks/results/worker_starts.json

The training of each run is the same; the results are compared by their bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.measuring import (
    ROOT,
    add_common_options,
    interleave,
    machine_facts,
    machine_line,
    markdown_table,
    set_up,
    spread,
    write_json,
)
from smt_ray.cluster.fork_server.session import VARIABLE

COMMANDS = {
    "run": ["run", "storage={}"],
    "tune": ["tune", str(ROOT / "configs/tune/tiny.yaml"), "run.storage={}"],
    "compare": [
        "compare", str(ROOT / "configs/compare/tiny.yaml"), "run.storage={}", "seeds=[0]",
        "learning_rates={}", "tables={few: {title: Few, rows: {smt: {}, lora: {method: lora}}}}",
    ],
}  # fmt: skip
"""Name -> the arguments of a command; {} stands for the storage."""

WAYS = {"forked": "1", "alone": "0"}


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Measures, prints a table and writes the JSON; returns its ``cases``."""
    options = _parser().parse_args(arguments)
    machine = machine_facts(set_up(options))
    cases = {
        (name, way): partial(_measure, COMMANDS[name], WAYS[way])
        for name in options.commands
        for way in WAYS
    }
    rounds = interleave(cases, options.rounds)
    for found in rounds:
        for name in options.commands:
            trained = {tuple(found[name, way]["trained"]) for way in WAYS}
            assert len(trained) == 1, f"{name}: both ways must train the same"
    summary = {
        name: {
            "forked / alone": spread(
                found[name, "forked"]["seconds"] / found[name, "alone"]["seconds"]
                for found in rounds
            ),
            **{
                f"{way}, {kind}": spread(found[name, way][kind] for found in rounds)
                for way in WAYS
                for kind in ("seconds", "cpu_seconds")
            },
        }
        for name in options.commands
    }
    print(machine_line(machine), end="\n\n")
    head = ["command", *(next(iter(summary.values())))]
    rows = [
        (name, *(f"{value['median']:.3g}" for value in values.values()))
        for name, values in summary.items()
    ]
    print(markdown_table(head, rows))
    write_json(options.json, "worker_starts", options, machine, {"cases": summary})
    return summary


def _measure(arguments: Sequence[str], forks: str, _: int) -> dict[str, Any]:
    """The time of a command, the CPU time of the whole machine in it, and what it trained."""
    with TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "smt_ray", *(a.replace("{}", folder) for a in arguments)]
        environ = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"} | {VARIABLE: forks}
        began, busy = time.perf_counter(), _busy_seconds()
        subprocess.run(command, env=environ, cwd=ROOT, check=True, capture_output=True)
        return {
            "seconds": time.perf_counter() - began,
            "cpu_seconds": _busy_seconds() - busy,
            "trained": _digests(Path(folder)),
        }


def _busy_seconds() -> float:
    """The seconds that all cores of this machine have worked since it was started."""
    with Path("/proc/stat").open() as file:
        user, nice, system, _idle, _wait, *interrupts = map(int, file.readline().split()[1:])
    return (user + nice + system + sum(interrupts[:2])) / os.sysconf("SC_CLK_TCK")


def _digests(storage: Path) -> list[str]:
    """The digests of the adapters, in the order of their stages."""
    adapters = sorted(storage.glob("stages/training-*/adapter/*.safetensors"))
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in adapters]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, prog="benchmarks.worker_starts")
    parser.add_argument("--commands", nargs="+", choices=COMMANDS, default=list(COMMANDS))
    add_common_options(parser, rounds=3)
    return parser


if __name__ == "__main__":
    main()
