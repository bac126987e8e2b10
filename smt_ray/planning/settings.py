"""The cheapest setting that fits: what may change without changing a result, in order of cost."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from smt_ray.errors import UserError

_UNITS = {
    "": 1024**3, "B": 1,
    "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
    "KIB": 1024, "MIB": 1024**2, "GIB": 1024**3, "TIB": 1024**4,
}  # fmt: skip


@dataclass(frozen=True)
class Setting:
    """How a training may be carried out; no choice changes its result beyond rounding.

    Attributes:
        zero_stage: 0 to 3.
        checkpointing: Whether activations are computed once more rather than kept.
        max_tokens: Of a micro-batch.
        accumulate_on: Where the warm-up's sums are kept, ``device`` or ``host``.
    """

    zero_stage: int
    checkpointing: bool
    max_tokens: int
    accumulate_on: str


def settings_by_cost(
    max_tokens: int, row_length: int, num_gpus: int, *, can_recompute: bool = True
) -> Iterator[Setting]:
    """All settings, the cheapest first.

    What is left out of account costs next to nothing: the warm-up's sums on the host (one transfer
    a weight and micro-batch, in the warm-up alone). Then, each only where all before it do not fit:

    1. ZeRO stages 0, 1, 2 (the same gradients travel; a rank alone has nobody to share with)
    2. half the micro-batch, again and again down to the longest row (the same products, smaller)
    3. activation checkpointing (the forward once more)
    4. ZeRO stage 3 (every weight gathered at each use)

    Args:
        max_tokens: Of a micro-batch, at most.
        row_length: Tokens of the longest row, which a micro-batch cannot be smaller than.
        num_gpus: Ranks of the training.
        can_recompute: Whether the model supports activation checkpointing.
    """
    sizes = list(_halved(max_tokens, row_length))
    for stages in ((0, 1, 2), (3,)) if num_gpus > 1 else ((0,),):
        for checkpointing in (False, True)[: 1 + can_recompute]:
            for size in sizes:
                for stage in stages:
                    for place in ("device", "host"):
                        yield Setting(stage, checkpointing, size, place)


def cheapest(
    settings: Iterable[Setting], needed: Callable[[Setting], int], available: int
) -> Setting | None:
    """The first setting that needs no more than there is."""
    return next((setting for setting in settings if needed(setting) <= available), None)


def parse_memory(text: str, field: str = "--gpu-memory") -> int:
    """Bytes of a size such as ``24GiB``, ``40GB`` or ``80``, which are GiB.

    Raises:
        UserError: It is no positive size.
    """
    letters = text.strip().lstrip("0123456789.").strip()
    number = text.strip()[: len(text.strip()) - len(letters)].strip()
    try:
        size = float(number) * _UNITS[letters.upper()]
    except (ValueError, KeyError):
        size = 0
    if size < 1:
        raise UserError(field, "must be a size", got=text, fix="write it as 24GiB, 40GB or 80")
    return int(size)


def _halved(number: int, least: int) -> Iterator[int]:
    yield number
    while number > least:
        number = max(number // 2, least)
        yield number
