"""The summary of step.py's measurements: spreads, ratios of paired rounds, tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.configurations import PEERS, PHASES
from benchmarks.measuring import markdown_table, spread

OURS = "smt packed"
REFERENCE = "reference_seconds"  # our step, just before and after


def summarise(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Summarises the rounds of one suite.

    Args:
        raw: The measurements: ``rounds`` (name -> the seconds of each phase, the GEMM rate and the
            seconds of our step), ``num_rows``, ``num_tokens``, ``needed_flops`` and ``memory``.

    Returns:
        A dict with ``configurations`` (name -> spreads of the seconds, the rates, and the ratio to
        the arithmetic limit), ``comparisons`` (smt's samples per second over those of a peer, as
        users run it today and with the same batching) and ``gemm_gflops_per_second``.
    """
    rounds = raw["rounds"]
    seconds = {
        name: [sum(found[name][phase] for phase in PHASES) for found in rounds]
        for name in rounds[0]
    }
    configurations = {}
    for name, steps in seconds.items():
        # Rates are measured just before and after a step: the load may change within a round.
        rates = [found[name]["gemm_flops_per_second"] for found in rounds]
        limits = _quotients(raw["needed_flops"][name], rates)
        configurations[name] = {
            "step_seconds": spread(steps),
            **{f"{p}_seconds": spread(found[name][p] for found in rounds) for p in PHASES},
            "samples_per_second": spread(_quotients(raw["num_rows"], steps)),
            "tokens_per_second": spread(_quotients(raw["num_tokens"], steps)),
            "limit_seconds": spread(limits),
            "over_limit": spread(_quotients(steps, limits)),
            **raw["memory"][name],
        }
    return {
        "configurations": configurations,
        "comparisons": {
            title: {
                peer: spread(
                    _quotients(
                        seconds[f"{peer} {way}"],
                        [found[f"{peer} {way}"][REFERENCE] for found in rounds],
                    )
                )
                for peer in PEERS[way]
                if OURS in seconds and f"{peer} {way}" in seconds
            }
            for title, way in (("as users run it today", "padded"), ("same batching", "packed"))
        },
        "gemm_gflops_per_second": spread(
            one["gemm_flops_per_second"] / 1e9 for found in rounds for one in found.values()
        ),
    }


def report(suite: str, found: Mapping[str, Any]) -> str:
    """The tables of one suite, in Markdown."""
    summary = found["summary"]
    num_tokens, num_packed = sum(found["num_tokens"]), sum(found["num_packed_tokens"])
    selection, rate = found["selection"], summary["gemm_gflops_per_second"]
    lines = [
        f"\n## {suite}\n",
        f"{len(found['rounds'])} rounds of {found['num_rows'][0]} rows, {num_tokens} tokens"
        f" ({num_packed} after packing, {num_packed / num_tokens:.0%}); smt:"
        f" {selection['num_blocks']} blocks of {selection['block_size']}"
        f" ({selection['budget']:.2%}); GEMM {' x '.join(map(str, found['gemm_shape']))}:"
        f" {rate['median']:.0f} GFLOP/s ({rate['min']:.0f} to {rate['max']:.0f})\n",
        markdown_table(
            ["configuration", "s a step (min to max)", "batching", "forward", "backward",
             "optimizer", "samples/s", "tokens/s", "limit s", "step / limit", "peak MB",
             "saved MB"],
            [_row(name, one) for name, one in summary["configurations"].items()],
        ),
        "",
        markdown_table(
            ["smt packed's samples/s over", *PEERS["packed"]],
            [
                [title, *(_ratio(found_.get(peer)) for peer in PEERS["packed"])]
                for title, found_ in summary["comparisons"].items()
                if found_  # nothing, if no configuration of this batching was measured
            ],
        ),
    ]  # fmt: skip
    return "\n".join(lines)


def _row(name: str, one: Mapping[str, Any]) -> list[str]:
    step, over = one["step_seconds"], one["over_limit"]
    return [
        name,
        f"{step['median']:.2f} ({step['min']:.2f} to {step['max']:.2f})",
        *(f"{one[f'{phase}_seconds']['median']:.2f}" for phase in PHASES),
        f"{one['samples_per_second']['median']:.2f}",
        f"{one['tokens_per_second']['median']:.0f}",
        f"{one['limit_seconds']['median']:.2f}",
        f"{over['median']:.2f} ({over['min']:.2f} to {over['max']:.2f})",
        f"{one['peak_bytes'] / 1e6:.0f}",
        f"{one['saved_bytes'] / 1e6:.0f}",
    ]


def _ratio(found: Mapping[str, float] | None) -> str:
    if found is None:
        return "-"
    return f"{found['median']:.2f}x ({found['min']:.2f} to {found['max']:.2f})"


def _quotients(over: list[float], under: list[float]) -> list[float]:
    return [a / b for a, b in zip(over, under, strict=True)]
