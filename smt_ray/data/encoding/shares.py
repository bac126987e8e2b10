"""Many rows as token ids: in several processes, and on disk.

Each process gets a share of whole chunks, so that the tokens, the counts and the first error are
those of a single process. One process is started afresh, because a copy of this one could wait for
ever for a lock of its threads. It imports the libraries and then copies itself, so that the copies
share their memory.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from smt_ray.data.encoding.rows import CHUNK, Encoding, Found, encode_into
from smt_ray.data.encoding.stored import EncodedRows, TokenFiles
from smt_ray.data.prompts import Prompts
from smt_ray.data.rows import Row
from smt_ray.documents.rows import RowCounts
from smt_ray.errors import UserError

_FEWEST_CHUNKS = 16  # that a process must have to be worth its start of some seconds
_MOST_PROCESSES = 32
_PERIOD_S = 0.5
_DONE = "done"


@dataclass(frozen=True)
class RowsJob:
    """Rows to tokenise.

    Attributes:
        rows: The rows.
        encoding: How they become tokens.
        make_prompts: A function that another process can import, which makes their prompts.
        folder: An empty folder for the tokens.
    """

    rows: Sequence[Row]
    encoding: Encoding
    make_prompts: Callable[[], Prompts]
    folder: Path

    def share(self, number: int, num_shares: int) -> Sequence[Row]:
        """The rows of a share, which begins with a chunk."""
        num_chunks = -(-len(self.rows) // CHUNK)
        start, end = (num_chunks * i // num_shares * CHUNK for i in (number, number + 1))
        return self.rows[start:end]

    def part(self, number: int) -> Path:
        """The folder of a share."""
        return self.folder / str(number)


def num_processes(num_rows: int, wanted: int | None) -> int:
    """The number of processes that tokenise some rows; few rows need no other process.

    Args:
        wanted: The largest number; None for the CPUs that this process may use.
    """
    most = wanted or min(len(os.sched_getaffinity(0)), _MOST_PROCESSES)
    return max(1, min(most, num_rows // (CHUNK * _FEWEST_CHUNKS)))


def encode_on_disk(
    job: RowsJob, prompts: Prompts, number: int, on_rows: Callable[[int], object]
) -> tuple[EncodedRows, RowCounts]:
    """Tokenises rows; their tokens are mapped into memory.

    Args:
        prompts: What ``make_prompts`` makes, for this process.
        number: The number of processes; with 1, this process tokenises them.
        on_rows: A function that takes the number of finished rows, from time to time.

    Raises:
        UserError: The tokenizer has no EOS token, a row cannot be used, or no row is left.
    """
    job.part(0).mkdir()
    tokens = TokenFiles(job.part(0))
    if number == 1:
        found = encode_into(tokens.append, prompts, job.rows, job.encoding, on_rows)
    else:
        for share in range(1, number):
            job.part(share).mkdir()
        found = _encode_elsewhere(job, number, on_rows)
    counts = found.counts(job.encoding.max_length)
    for share in range(1, number):
        tokens.take(TokenFiles(job.part(share)))
    return tokens.mapped(), counts


def _encode_elsewhere(job: RowsJob, number: int, on_rows: Callable[[int], object]) -> Found:
    done = np.memmap(job.folder / _DONE, np.int64, "w+", shape=(number,))
    with _without_main():
        worker = _Worker("spawn", _encode_shares, job, number)
    try:
        while not worker.receiver.poll(_PERIOD_S):
            on_rows(int(done.sum()))
        return worker.result()
    finally:
        worker.end()


class _Worker:
    """A process that returns what it found about rows.

    Args:
        method: How it is started: ``spawn`` or ``fork``.
        work: Its work, which is given ``given``.
    """

    def __init__(self, method: str, work: Callable[..., Found], *given: Any) -> None:
        context: Any = multiprocessing.get_context(method)
        self.receiver, sender = context.Pipe(duplex=False)
        self._process = context.Process(target=_work, args=(sender, work, *given))
        self._process.start()
        sender.close()  # so that the end of the process is noticed

    def result(self) -> Found:
        """What it found, when it has ended its work.

        Raises:
            UserError: What its work raised.
        """
        try:
            result: Found | UserError = self.receiver.recv()
        except EOFError:
            raise UserError(
                "data.num_proc", "a process that tokenised rows ended before its work was done",
                fix="set data.num_proc to a smaller number, which needs less memory",
            ) from None  # fmt: skip
        if isinstance(result, UserError):
            raise result
        return result

    def end(self) -> None:
        """Ends the process."""
        self._process.terminate()
        self._process.join()


def _work(sender: Connection, work: Callable[..., Found], *given: Any) -> None:
    signal.signal(signal.SIGTERM, _leave)  # after which it ends its own processes, too
    try:
        sender.send(work(*given))
    except UserError as error:
        sender.send(error)


def _leave(_signal: int, _frame: object) -> None:
    sys.exit(1)


@contextmanager
def _without_main() -> Iterator[None]:
    """Hides the script that runs, which a new process would run again to know its names."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _encode_shares(job: RowsJob, number: int) -> Found:
    """Tokenises all rows in copies of this process, which has no threads yet."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the copies are the threads
    prompts = job.make_prompts()
    gc.collect()
    gc.freeze()  # the collector would write to the memory that the copies share
    workers: list[_Worker] = []
    found = Found()
    try:
        for share in range(number):
            workers.append(_Worker("fork", _encode_share, job, prompts, share, number))
        for worker in workers:
            found.add(worker.result())
    finally:
        for worker in workers:
            worker.end()
    return found


def _encode_share(job: RowsJob, prompts: Prompts, share: int, number: int) -> Found:
    torch.set_num_threads(1)
    done = np.memmap(job.folder / _DONE, np.int64, "r+", shape=(number,))
    tokens, rows = TokenFiles(job.part(share)), job.share(share, number)

    def report(finished: int) -> None:
        done[share] = finished

    return encode_into(tokens.append, prompts, rows, job.encoding, report)
