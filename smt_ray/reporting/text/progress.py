"""One progress bar a stage: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

_POLL_S = 0.3
_LINE_EVERY_S = 10.0


@contextmanager
def progress(title: str, total: int, poll: Callable[[], tuple[int, str]]) -> Iterator[None]:
    """Shows how far a stage is while its body runs.

    Args:
        title: What is going on.
        total: Units in all.
        poll: Gives units done and a short text; called from a thread, its failures are ignored.
    """
    console = Console(file=sys.stderr)
    stop = threading.Event()
    show = _bar if console.is_terminal else _lines
    thread = threading.Thread(target=show, args=(console, title, total, poll, stop), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(timeout=5)


def say(message: str) -> None:
    """One line of progress."""
    Console(file=sys.stderr, highlight=False).print(message, soft_wrap=True, markup=False)


def _bar(
    console: Console,
    title: str,
    total: int,
    poll: Callable[[], tuple[int, str]],
    stop: threading.Event,
) -> None:
    columns = (
        TextColumn("{task.description:<12}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[text]}"),
    )
    with Progress(*columns, console=console) as bars:
        task = bars.add_task(title, total=total, text="starting")
        while not stop.wait(_POLL_S):
            done, text = _safely(poll)
            bars.update(task, completed=done, text=text or ("starting" if not done else ""))
        done, text = _safely(poll)
        bars.update(task, completed=done, text=text)


def _lines(
    console: Console,
    title: str,
    total: int,
    poll: Callable[[], tuple[int, str]],
    stop: threading.Event,
) -> None:
    began = shown = time.monotonic()
    while not stop.wait(_POLL_S):
        if time.monotonic() - shown >= _LINE_EVERY_S:
            shown = time.monotonic()
            done, text = _safely(poll)
            line = f"{title}: {done}/{total} after {shown - began:.0f} s {text}".rstrip()
            console.print(line, highlight=False, soft_wrap=True, markup=False)


def _safely(poll: Callable[[], tuple[int, str]]) -> tuple[int, str]:
    try:
        return poll()
    except Exception:  # progress must never end a run
        return 0, ""
