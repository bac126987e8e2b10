"""The shared parts of all benchmarks: timers, interleaved rounds, spreads, machine facts, JSON."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import torch

from smt_ray.config.model import ModelConfig

ROOT = Path(__file__).parents[1]

_LIBRARIES = ("torch", "transformers", "peft", "ray", "numpy")

K = TypeVar("K")
T = TypeVar("T")


class Laps:
    """Splits a stretch of work into phases. On CUDA it uses events, which time the kernels.

    Args:
        device: The device of the work.
    """

    def __init__(self, device: torch.device) -> None:
        self._on_cuda = device.type == "cuda"
        self._marks: list[tuple[str, Any]] = []
        self.lap("")

    def lap(self, phase: str) -> None:
        """Ends a stretch of a phase."""
        if not self._on_cuda:
            self._marks.append((phase, time.perf_counter()))
            return
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        self._marks.append((phase, event))

    def seconds(self) -> dict[str, float]:
        """Phase -> the seconds of all its stretches."""
        if self._on_cuda:
            torch.cuda.synchronize()
        totals: dict[str, float] = {}
        for (_, start), (phase, end) in zip(self._marks, self._marks[1:], strict=False):
            stretch = start.elapsed_time(end) / 1e3 if self._on_cuda else end - start
            totals[phase] = totals.get(phase, 0.0) + stretch
        return totals


def interleave(cases: Mapping[K, Callable[[int], T]], num_rounds: int) -> list[dict[K, T]]:
    """Runs every case once in each round, so that a slow machine slows all cases alike.

    Every second round runs in reverse order, so that a case does not always follow the same one.

    Args:
        cases: Name -> a function of the round's number.
        num_rounds: The number of rounds.

    Returns:
        One dict for each round, in the order of ``cases``.
    """
    rounds: list[dict[K, T]] = []
    for number in range(num_rounds):
        names = list(cases) if number % 2 == 0 else list(reversed(cases))
        found = {name: cases[name](number) for name in names}
        rounds.append({name: found[name] for name in cases})
        print(f"round {number + 1} of {num_rounds} done", file=sys.stderr, flush=True)
    return rounds


def compare(
    cases: Mapping[str, Callable[[], object]],
    reference: str,
    num_rounds: int,
    device: torch.device,
) -> dict[str, dict[str, Any]]:
    """The seconds of each case, and their ratio to those of the reference in the same round.

    Args:
        cases: Name -> the work, on ``device``.
        reference: The name of one of them.

    Returns:
        Name -> ``seconds`` and ``times_the_<reference>``, each with its :func:`spread`.
    """

    def timed(work: Callable[[], object], _: int) -> float:
        laps = Laps(device)
        work()
        laps.lap("work")
        return laps.seconds()["work"]

    rounds = interleave({name: partial(timed, work) for name, work in cases.items()}, num_rounds)
    return {
        name: {
            "seconds": spread(found[name] for found in rounds),
            f"times_the_{reference}": spread(found[name] / found[reference] for found in rounds),
        }
        for name in cases
    }


def comparison_table(
    summary: Mapping[str, Mapping[str, Mapping[str, Any]]],
    head: Sequence[str],
    cells: Callable[[Mapping[str, Any]], Sequence[object]],
) -> str:
    """A table with a row for each form of each case.

    Args:
        summary: Case -> form -> values.
        head: The titles of the columns after the first.
        cells: A function of a form's values that returns its row.
    """
    rows = [
        (f"{case}: {name}", *cells(values))
        for case, forms in summary.items()
        for name, values in forms.items()
    ]
    return markdown_table(["", *head], rows)


def spread(values: Iterable[float]) -> dict[str, float]:
    """The median, minimum and maximum."""
    values = list(values)
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def gemm_rate(
    shape: tuple[int, int, int], device: torch.device, dtype: torch.dtype, num_times: int = 20
) -> float:
    """The machine's present rate in one plain product, in FLOP/s (the median of a few products).

    Args:
        shape: The (T, I, O) of a product (T, I) x (I, O).
        device: The device of the product.
        dtype: The dtype of the operands.
        num_times: The number of timed products.
    """
    tokens, inner, outer = shape
    left = torch.randn(tokens, inner, device=device, dtype=dtype)
    right = torch.randn(outer, inner, device=device, dtype=dtype)
    seconds = []
    with torch.no_grad():
        for _ in range(num_times + 2):
            laps = Laps(device)
            torch.mm(left, right.t())
            laps.lap("product")
            seconds.append(laps.seconds()["product"])
    return 2 * tokens * inner * outer / statistics.median(seconds[2:])


def add_common_options(parser: argparse.ArgumentParser, *, rounds: int) -> None:
    """Adds the options of every benchmark."""
    parser.add_argument("--rounds", type=int, default=rounds, help="interleaved rounds")
    parser.add_argument("--threads", type=int, help="torch's threads; default: all cores")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="a file for all measurements")


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of benchmarks that run a whole model on rows."""
    parser.add_argument("--model", default="builtin", help="a folder, or the built-in model")
    parser.add_argument("--gguf-file", help="the GGUF file in the folder")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument(
        "--data", default="LLM-Adapters", help="a folder laid out like LLM-Adapters, or builtin"
    )


def model_of(options: argparse.Namespace) -> ModelConfig:
    """The model that the options name."""
    if options.model == "builtin":
        return ModelConfig(builtin="tiny", dtype=options.dtype)
    return ModelConfig(path=options.model, gguf_file=options.gguf_file, dtype=options.dtype)


def set_up(options: argparse.Namespace) -> torch.device:
    """Sets the threads and the seed; returns the device."""
    torch.set_num_threads(options.threads or len(os.sched_getaffinity(0)))
    torch.manual_seed(options.seed)
    return torch.device(options.device)


def machine_facts(device: torch.device) -> dict[str, Any]:
    """The machine and the versions. Call it at the start, before the benchmark adds to the load."""
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "gpu": torch.cuda.get_device_name() if device.type == "cuda" else None,
        "load_average_at_start": list(os.getloadavg()),
        "platform": platform.platform(),
        "python": platform.python_version(),
        **{name: version(name) for name in _LIBRARIES},
        "commit": _commit(),
    }


def write_json(
    path: Path | None,
    benchmark: str,
    options: argparse.Namespace,
    machine: Mapping[str, Any],
    results: Mapping[str, Any],
) -> None:
    """Writes the results of a benchmark with its options and the machine."""
    if path is None:
        return
    document = {
        "benchmark": benchmark,
        "options": {name: _plain(value) for name, value in vars(options).items()},
        "machine": dict(machine),
        **results,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table with text in the first column and numbers in the others."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def machine_line(machine: Mapping[str, Any]) -> str:
    """The most important facts of the machine, in one line for each table."""
    load = ", ".join(f"{value:.2f}" for value in machine["load_average_at_start"])
    return (
        f"{machine['gpu'] or machine['cpu']}, {machine['cores']} cores, {machine['threads']}"
        f" threads, load average at start {load}; torch {machine['torch']}, transformers"
        f" {machine['transformers']}, peft {machine['peft']}; commit {machine['commit']}"
    )


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


def _cpu_model() -> str:
    path = Path("/proc/cpuinfo")
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _commit() -> str | None:
    """The commit of the code, marked if files differ from it; None outside a repository."""
    try:
        answer = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--exclude=*"],
            cwd=ROOT, capture_output=True, text=True, check=True,
        )  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return None
    return answer.stdout.strip()
