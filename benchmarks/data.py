"""The time and the memory from a file of rows to stored tokens, and of the plan of many rows.

Each case runs in a process of its own. Its memory is that of the process and all its descendants:
shared pages are divided among those that share them (PSS). Pages of mapped files are counted
separately, because the system takes them back when it needs memory.

    python -m benchmarks.data --model DIR --rows 1000000 --planned-rows 10000000
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import torch

from benchmarks.measuring import machine_facts, machine_line, markdown_table, write_json
from smt_ray.builtin.suites import TASKS, generate_rows
from smt_ray.config.data import DataConfig
from smt_ray.config.model import ModelConfig
from smt_ray.data.batches import StepPlan
from smt_ray.data.encoding.rows import Encoding
from smt_ray.data.encoding.shares import RowsJob, encode_on_disk
from smt_ray.data.encoding.stored import load_tokens, save_tokens
from smt_ray.data.rows import Row
from smt_ray.data.splits import hold_out, read_split
from smt_ray.data.table import Rows, RowTable
from smt_ray.models.load import import_transformers
from smt_ray.stages.tokens import make_prompts

_PERIOD_S = 0.1
_BATCH = 4096
_NUM_WORDS = 60  # of a row, so that it has about 100 tokens with its prompt
_HELD_OUT = 2000

Report = Callable[[str], object]
Measured = dict[str, dict[str, float]]
"""Phase -> seconds, the CPU seconds of all processes, and the largest numbers of bytes."""


def write_rows(path: Path, number: int, seed: int) -> None:
    """Writes rows of random words of the built-in suites, one JSON object a line."""
    texts = (row["instruction"] for task in TASKS for row in generate_rows(task, "train")[:200])
    words = sorted({word for text in texts for word in text.split() if word.isalpha()})
    drawn = random.Random(seed)
    with path.open("w") as file:
        for index in range(number):
            text = " ".join(drawn.choices(words, k=_NUM_WORDS))
            file.write(f'{{"instruction": "{text} {index}", "output": "the answer is {index}"}}\n')


def tokenise_file(
    report: Report, path: Path, model: ModelConfig, number: int, scratch: Path
) -> None:
    """Makes tokens of a file as a run does, and reads a step of them as a rank does.

    Args:
        report: A function that ends a phase.
        number: The number of processes.
        scratch: An empty folder.
    """
    data = DataConfig(train=[str(path)], validation_rows=_HELD_OUT, prompt="clean")
    maker = partial(make_prompts, model, data)
    import_transformers()
    prompts = maker()
    report("imports")
    split = read_split(data, 0)
    report("rows")
    job = RowsJob(split.training, Encoding.of(data), maker, scratch)
    encoded, counts = encode_on_disk(job, prompts, number, lambda _done: None)
    report("tokens")
    save_tokens(scratch / "tokens.safetensors", {"training": encoded})
    report("storage")
    del encoded
    loaded = load_tokens(scratch / "tokens.safetensors", "training")
    assert loaded is not None
    assert len(loaded) == counts.num_rows
    assert torch.stack([loaded.row(i).sum() for i in StepPlan(len(loaded), 64, 0).rows(0)]).all()
    report("load and one step")


def plan_rows(report: Report, number: int) -> None:
    """Plans rows whose texts are equal and whose fingerprints are random, as a run does."""
    report("imports")
    rows = _simulated(number)
    report("rows")
    training, validation, _ = hold_out(rows, max_rows=None, validation_rows=_HELD_OUT, seed=0)
    report("split")
    assert training.digest() != validation.digest()
    report("fingerprint")
    assert len(list(training.select(StepPlan(len(training), 1024, 0).rows(0)))) == 1024
    report("first rows")


def _simulated(number: int) -> Rows:
    written = RowTable.write([Row("What is asked?", "the answer")]).written(0)
    drawn = np.random.default_rng(0)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        schema = pa.schema([(n, pa.binary(w)) for n, w in _WIDTHS])
        with pa.ipc.new_file(str(folder / "rows.arrow"), schema) as writer:
            for start in range(0, number, _BATCH):
                size = min(_BATCH, number - start)
                prints = [_binary(drawn.bytes(size * width), width) for _, width in _WIDTHS[1:]]
                writer.write_batch(pa.record_batch([pa.array([written] * size), *prints], schema))
        found = RowTable(folder / "rows.arrow")  # which can be read after the file is removed
    return Rows([found], [1.0], np.arange(number, dtype=np.int32))


_WIDTHS = (("row", -1), ("digest", 32), ("meaning", 16))


def _binary(data: bytes, width: int) -> Any:
    kind = pa.binary(width)
    return pa.FixedSizeBinaryArray.from_buffers(
        kind, len(data) // width, [None, pa.py_buffer(data)]
    )


def measured(work: Callable[..., None], *given: Any) -> Measured:
    """Runs work in a process of its own, and measures each phase that it reports."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(sender, work, *given))
    process.start()
    sender.close()
    found: Measured = {}
    began, peak = time.monotonic(), {"memory": 0, "mapped": 0}
    while True:
        if receiver.poll(_PERIOD_S):
            try:
                phase, cpu = receiver.recv()
            except EOFError:
                break
            found[phase] = {"seconds": time.monotonic() - began, "cpu": cpu, **peak}
            print(phase, *_numbers(found[phase]), file=sys.stderr, flush=True)
            began, peak = time.monotonic(), {"memory": 0, "mapped": 0}
        for name, size in _tree_bytes(process.pid).items():
            peak[name] = max(peak[name], size)
    process.join()
    if process.exitcode:
        raise SystemExit(process.exitcode)
    return found


def _run(sender: Connection, work: Callable[..., None], *given: Any) -> None:
    before = 0.0

    def report(phase: str) -> None:
        nonlocal before
        each = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        total = sum(usage.ru_utime + usage.ru_stime for usage in each)
        sender.send((phase, total - before))
        before = total

    work(report, *given)


def _tree_bytes(pid: int | None) -> dict[str, int]:
    """The memory and the mapped files of a process and its descendants."""
    sizes = {"memory": 0, "mapped": 0}
    try:
        tree = psutil.Process(pid)
        processes = [tree, *tree.children(recursive=True)]
    except psutil.Error:
        return sizes
    for each in processes:
        try:
            lines = Path(f"/proc/{each.pid}/smaps_rollup").read_text().splitlines()
        except OSError:  # it has just ended
            continue
        for line in lines:
            name, _, value = line.partition(":")
            if name in ("Pss_Anon", "Pss_Shmem", "Pss_File"):
                kind = "mapped" if name == "Pss_File" else "memory"
                sizes[kind] += int(value.split()[0]) * 1024
    return sizes


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints a table of phases for each case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="the folder of a tokenizer; default: the built-in one")
    parser.add_argument("--rows", type=int, default=20_000, help="rows to tokenise")
    parser.add_argument("--processes", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--planned-rows", type=int, default=1_000_000, help="rows to plan")
    parser.add_argument("--file", type=Path, help="a file of rows, instead of random ones")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="a file for all measurements")
    options = parser.parse_args(arguments)
    machine = machine_facts(torch.device("cpu"))
    model = ModelConfig(path=options.model) if options.model else ModelConfig(builtin="tiny")
    results: dict[str, Measured] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = options.file or Path(folder) / "rows.jsonl"
        if options.processes and not options.file:
            write_rows(path, options.rows, options.seed)
        for number in options.processes:
            scratch = Path(folder) / "scratch"
            scratch.mkdir()
            results[f"{number} processes"] = measured(tokenise_file, path, model, number, scratch)
            shutil.rmtree(scratch)
    if options.planned_rows:
        results[f"plan of {options.planned_rows:,}"] = measured(plan_rows, options.planned_rows)
    cells = [
        (f"{case}: {phase}", *_numbers(found))
        for case, phases in results.items()
        for phase, found in phases.items()
    ]
    print(markdown_table(["phase", "s", "CPU s", "memory MB", "mapped MB"], cells))
    print(machine_line(machine))
    write_json(options.json, "data", options, machine, {"results": results})


def _numbers(found: dict[str, float]) -> list[str]:
    seconds = [f"{found[name]:.1f}" for name in ("seconds", "cpu")]
    return [*seconds, *(f"{found[name] / 1e6:,.0f}" for name in ("memory", "mapped"))]


if __name__ == "__main__":
    main()
