"""The search for the cheapest setting that fits, among settings that change no result."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from smt_ray.config.run import RunConfig
from smt_ray.errors import UserError

_UNITS = {
    "": 1024**3, "B": 1,
    "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
    "KIB": 1024, "MIB": 1024**2, "GIB": 1024**3, "TIB": 1024**4,
}  # fmt: skip


@dataclass(frozen=True)
class Setting:
    """Settings that affect memory and time, but no result beyond rounding."""

    zero_stage: int
    checkpointing: bool
    max_tokens: int
    accumulate_on: str
    gpus_per_shard: int = 1


def configured_setting(config: RunConfig) -> Setting:
    """The setting of a run's configuration."""
    return Setting(
        config.deepspeed.zero_stage,
        config.training.activation_checkpointing,
        config.batching.max_tokens,
        config.warmup.accumulate_on,
        config.warmup.gpus_per_shard,
    )


def settings_by_cost(
    max_tokens: int,
    row_length: int,
    num_gpus: int,
    *,
    can_recompute: bool = True,
    zero_stages: Sequence[int] = (0, 1, 2, 3),
    gpus_per_shard: Sequence[int] = (1,),
) -> Iterator[Setting]:
    """All settings, the cheapest first.

    Each change is made only if all changes before it are not enough:

    1. the sums of the warm-up on the host, which costs next to nothing
    2. more GPUs for a shard of the warm-up, of which one computes at a time
    3. ZeRO stages 0, 1 and 2, which send the same gradients; a single rank has nothing to share
    4. smaller micro-batches, halved down to the longest row, which makes the products smaller
    5. activation checkpointing, which repeats the forward pass
    6. ZeRO stage 3, which gathers every weight at each use

    Args:
        row_length: The number of tokens of the longest row, which is the smallest micro-batch.
        zero_stages: The ZeRO stages that are possible.
        gpus_per_shard: The numbers of GPUs that a shard of the warm-up may have, ascending.
    """
    sizes = list(_halved(max_tokens, row_length))
    for stages in ((0, 1, 2), (3,)) if num_gpus > 1 else ((0,),):
        for checkpointing in (False, True)[: 1 + can_recompute]:
            for size in sizes:
                for stage in (stage for stage in stages if stage in zero_stages):
                    for number in gpus_per_shard:
                        for place in ("device", "host"):
                            yield Setting(stage, checkpointing, size, place, number)


def has_shards(config: RunConfig) -> bool:
    """Whether the warm-up is computed by shards, and not by the ranks of training."""
    return config.base_warmup and config.warmup.processes == "shards"


def shard_sizes(config: RunConfig, num_gpus: int, gpus_per_node: int) -> tuple[int, ...]:
    """The numbers of GPUs that a shard may have: the config's, and its doubles within a node."""
    is_whole = config.model.quantization != "none"  # layers are spread in full precision only
    if not has_shards(config) or is_whole:
        return (config.warmup.gpus_per_shard,)
    return tuple(_doubled(config.warmup.gpus_per_shard, min(num_gpus, gpus_per_node)))


def cheapest(
    settings: Iterable[Setting], needed: Callable[[Setting], int], available: int
) -> Setting | None:
    """The first setting that needs no more bytes than are available."""
    return next((setting for setting in settings if needed(setting) <= available), None)


def parse_memory(text: str) -> int:
    """The bytes of a size such as ``24GiB``, ``40GB`` or ``80``, which means GiB.

    Raises:
        UserError: The text is not a positive size.
    """
    letters = text.strip().lstrip("0123456789.").strip()
    number = text.strip()[: len(text.strip()) - len(letters)].strip()
    try:
        size = float(number) * _UNITS[letters.upper()]
    except (ValueError, KeyError):
        size = 0
    if size < 1:
        fix = "write it as 24GiB, 40GB or 80"
        raise UserError("--gpu-memory", "must be a size", got=text, fix=fix)
    return int(size)


def _halved(number: int, least: int) -> Iterator[int]:
    yield number
    while number > least:
        number = max(number // 2, least)
        yield number


def _doubled(number: int, most: int) -> Iterator[int]:
    yield number
    while 2 * number <= most:
        number *= 2
        yield number
