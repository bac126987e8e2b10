"""The rows of ``smt-ray plan`` about time: seconds, tokens, gathered bytes, and what is assumed."""

from __future__ import annotations

from smt_ray.documents.memory import PlannedTime, SecondCopy

_UNITS = ((86400, "days"), (3600, "h"), (60, "min"))
_BYTES = ((10**12, "TB"), (10**9, "GB"), (10**6, "MB"))


def time_facts(time: PlannedTime) -> list[tuple[str, str]]:
    """(name, text) pairs; texts are empty where there is nothing to say."""
    return [
        ("time", _step(time)),
        ("gathering", _gathering(time)),
        ("total", _total(time)),
        ("assumed", _assumed(time)),
        ("second copy", _second_copy(time, time.second_copy) if time.second_copy else ""),
    ]


def format_seconds(seconds: float) -> str:
    """A duration for people.

    >>> [format_seconds(seconds) for seconds in (0.0421, 5.62, 125, 9000, 200000)]
    ['0.042 s', '5.6 s', '2.1 min', '2.5 h', '2.3 days']
    """
    for size, unit in _UNITS:
        if seconds >= 1.5 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds:.2g} s"


def format_rate_bytes(size: float) -> str:
    """A number of bytes in the units of links.

    >>> [format_rate_bytes(size) for size in (282e9, 4.5e11, 2e6, 3e12)]
    ['282.0 GB', '450.0 GB', '2.0 MB', '3.0 TB']
    """
    for unit, name in _BYTES:
        if size >= unit:
            return f"{size / unit:.1f} {name}"
    return f"{size / 1000:.1f} kB"


def _step(time: PlannedTime) -> str:
    parts = {
        "computing": time.compute_seconds,
        "gathering": time.gather_seconds,
        "reducing": time.reduce_seconds,
    }
    listed = ", ".join(f"{name} {format_seconds(s)}" for name, s in parts.items() if s)
    number = time.num_micro_batches
    return (
        f"{format_seconds(time.step_seconds)} a step of {number} micro-batch"
        f"{'es' if number > 1 else ''} on each rank ({listed}),"
        f" {time.tokens_per_second:,.0f} tokens/s in all, with ZeRO {time.zero_stage}"
    )


def _gathering(time: PlannedTime) -> str:
    if not time.gathered_bytes:
        return ""
    return f"{format_rate_bytes(time.gathered_bytes)} a step come to each GPU, for its weights"


def _total(time: PlannedTime) -> str:
    parts = []
    if time.warmup_seconds is not None:
        parts.append(
            f"warm-up of {time.warmup_steps:,} steps {format_seconds(time.warmup_seconds)}"
        )
    if time.training_seconds is not None:
        parts.append(
            f"training of {time.num_steps:,} steps {format_seconds(time.training_seconds)}"
        )
    else:
        parts.append("the number of training steps is not known, as the rows are not here")
    return "; ".join(parts)


def _assumed(time: PlannedTime) -> str:
    return (
        f"{time.mfu:.0%} of {time.peak_flops / 1e12:,.4g} TFLOP/s ({time.gpu_type}; --mfu);"
        f" nodes of {time.gpus_per_node} GPUs with {format_rate_bytes(time.link_bytes)}/s between"
        f" them (--gpus-per-node) and {time.network_gbps:,.4g} Gbit/s to each node"
        " (--network-gbps); start, loading and evaluation are not counted"
    )


def _second_copy(time: PlannedTime, copy: SecondCopy) -> str:
    fits = {None: "", True: ", which fits", False: ", which does not fit"}[copy.fits]
    size = copy.added_bytes / 2**30
    key = f"{{zero_optimization: {{zero_hpz_partition_size: {copy.partition_size}}}}}"
    return (
        f"gathering takes longer than computing; deepspeed.extra='{key}' gathers frozen weights"
        f" within each node: {format_seconds(copy.gather_seconds)} instead of"
        f" {format_seconds(time.gather_seconds)}, {format_seconds(copy.step_seconds)} a step,"
        f" for {size:.1f} GiB more per GPU ({copy.total_bytes / 2**30:.1f} GiB in all{fits})"
    )
