"""The progress of a stage: a bar on a terminal, lines of text elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from smt_ray.reporting.text.visible import visible

_POLL_S = 0.3
_LINE_EVERY_S = 10.0

Poll = Callable[[], tuple[int, str]]
"""A function that returns the number of finished units and a short text."""


@contextmanager
def progress(title: str, total: int, poll: Poll) -> Iterator[None]:
    """Shows the progress of a stage while the body of the ``with`` statement runs.

    Args:
        total: The number of units; 0 if it is not known in advance.
        poll: The source of the progress. A thread calls it, and its exceptions are ignored.
    """
    console = Console(file=sys.stderr)
    stop = threading.Event()
    show = _show_bar if console.is_terminal else _print_lines
    thread = threading.Thread(target=show, args=(console, title, total, poll, stop), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(timeout=5)


def say(message: str) -> None:
    """Prints one line about the progress of a run to stderr."""
    Console(file=sys.stderr, highlight=False).print(visible(message), soft_wrap=True, markup=False)


def _show_bar(console: Console, title: str, total: int, poll: Poll, stop: threading.Event) -> None:
    columns = (
        TextColumn("{task.description:<12}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[text]}"),
    )
    with Progress(*columns, console=console) as bars:
        task = bars.add_task(title, total=total or None, text="starting")
        while not stop.wait(_POLL_S):
            done, text = _try_to_poll(poll)
            bars.update(task, completed=done, text=text or ("starting" if not done else ""))
        done, text = _try_to_poll(poll)
        bars.update(task, completed=done, text=text)


def _print_lines(
    console: Console, title: str, total: int, poll: Poll, stop: threading.Event
) -> None:
    began = shown = time.monotonic()
    while not stop.wait(_POLL_S):
        if time.monotonic() - shown >= _LINE_EVERY_S:
            shown = time.monotonic()
            done, text = _try_to_poll(poll)
            count = f" {done}/{total}" if total else ""  # some totals are not known in advance
            line = f"{title}:{count} after {shown - began:.0f} s {text}".rstrip()
            console.print(line, highlight=False, soft_wrap=True, markup=False)


def _try_to_poll(poll: Poll) -> tuple[int, str]:
    try:
        return poll()
    except Exception:  # an error of the progress must not end the run
        return 0, ""
