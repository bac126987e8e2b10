"""What becomes of processes that Ray ends because their node runs out of memory.

Ray starts them again. If memory is short, it is short again, so the second death ends the work.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import ray
import ray.train

from smt_ray.errors import UserError

MOST_DEATHS = 2
"""The number of processes of one work that may die for lack of memory; the last one ends it."""

_FIXES = {
    "warmup": "warmup.accumulate_on=cpu, a smaller batching.max_tokens, or fewer"
    " resources.num_workers",
    "training": "a smaller batching.max_tokens, training.activation_checkpointing=true, or fewer"
    " resources.num_workers",
    "evaluation": "a smaller evaluation.batch_tokens, or fewer resources.num_workers",
}
# The attributes of Ray's errors with the error behind them.
_PARTS = ("controller_failure", "health_check_failure", "cause", "__cause__")
_ALL = "a smaller batching.max_tokens, or fewer resources.num_workers"
_NODE = re.compile(r"was ([\d.]+)GB used / ([\d.]+)GB limit")
_PROCESS = re.compile(r"name=([^,]+),.*?pid=(\d+), actual memory used=([\d.]+)GB")


def errors_behind(error: BaseException) -> Iterator[BaseException]:
    """An error, and those that it stands for."""
    yield error
    parts = [getattr(error, name, None) for name in _PARTS]
    for part in (*parts, *getattr(error, "worker_failures", {}).values()):
        if isinstance(part, BaseException):
            yield from errors_behind(part)


def is_death_by_memory(error: BaseException) -> bool:
    """Whether Ray ended the process of a task or an actor because memory was short."""
    return isinstance(error, ray.exceptions.OutOfMemoryError) or "low on memory" in str(error)


def out_of_memory(kind: str, text: str) -> UserError:
    """The error for the user.

    Args:
        kind: The stage, such as ``warmup``.
        text: Ray's text about the deaths.
    """
    node, processes = _NODE.search(text), _PROCESS.findall(text)
    used = f"{node[1]} of {node[2]} GB of the node were used" if node else "the node had none left"
    each = [f"process {pid} ({name}) with {own} GB" for name, pid, own in processes]
    return UserError(
        kind,
        f"ran out of memory: {used}, and Ray ended {' and '.join(each) or 'its processes'}",
        fix=f"set {_FIXES.get(kind, _ALL)}; the same command resumes from what is finished",
    )


@contextmanager
def memory_explained(kind: str) -> Iterator[None]:
    """While it is open, a lack of memory becomes an error for the user; see there.

    Raises:
        UserError: Ray ended processes because memory was short.
    """
    try:
        yield
    except ray.exceptions.RayError as error:
        if not is_death_by_memory(error):
            raise
        raise out_of_memory(kind, str(error)) from error


class NoteDeaths(ray.train.UserCallback):  # type: ignore[misc]
    """Tells the board about ranks that died for lack of memory.

    Args:
        kind: The stage.
    """

    def __init__(self, kind: str, board: Any) -> None:
        self._kind, self._board = kind, board

    def after_exception(self, run_context: Any, worker_exceptions: Mapping[int, Exception]) -> None:
        """Called by Ray Train before it starts the ranks again."""
        errors = [e for found in worker_exceptions.values() for e in errors_behind(found)]
        texts = [str(error) for error in errors if is_death_by_memory(error)]
        if texts:  # each names all processes that Ray ended
            ray.get(self._board.died.remote(self._kind, texts[0]))


def check_memory(kind: str, board: Any) -> None:
    """Called by each rank at its start.

    Raises:
        UserError: Ranks have died for lack of memory too often.
    """
    deaths: list[str] = ray.get(board.deaths.remote(kind))
    if len(deaths) >= MOST_DEATHS:
        raise out_of_memory(kind, deaths[-1])
