r"""Attention over a pack: time and kept bytes against one mask of all pairs.

    python -m benchmarks.attention --json benchmarks/results/attention.json

``mask`` is PyTorch's attention with a boolean mask for each segment. ``causal`` is
PyTorch's own causal attention, which only single rows can use. Each case is one call of one layer,
forward and backward, by default with the heads of SmolLM2.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.measuring import (
    add_common_options,
    compare,
    comparison_table,
    machine_facts,
    machine_line,
    set_up,
    write_json,
)
from benchmarks.memory import SavedBytes
from smt_ray.data.packing import PackedRows, Segment
from smt_ray.training.attention.packed import KEYWORD, packed_attention
from smt_ray.training.attention.parts import path

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]

NUM_BRANCHES = 4
"""The number of rows that share the first half of a pack's rows."""


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Measures, prints a table and writes the JSON; returns its ``summary``."""
    options = _parser().parse_args(arguments)
    device = set_up(options)
    machine = machine_facts(device)
    summary: dict[str, Any] = {}
    for length in options.lengths:
        for shape, (rows, window) in layouts(length, options.window).items():
            forms = make_forms(rows, window)
            states = _states(rows, options, device)
            kept = {name: kept_bytes(form, states) for name, form in forms.items()}
            cases = {name: partial(_run, form, states) for name, form in forms.items()}
            found = compare(cases, "mask", options.rounds, device)
            summary[f"{shape}, {length:,} tokens"] = {
                name: {"kept_bytes": kept[name], **values} for name, values in found.items()
            }
    print(comparison_table(summary, ["kept MB", "ms", "times the mask"], _cells))
    print(f"\n{machine_line(machine)}")
    write_json(options.json, "attention", options, machine, {"summary": summary})
    return summary


def layouts(length: int, window: int) -> dict[str, tuple[PackedRows, int | None]]:
    """The packs of a length by name, each with its sliding window.

    Args:
        length: The number of tokens of the longest row.
        window: The sliding window of the last pack.
    """
    half = length // 2
    branches = [Segment(0, half, length - half) for _ in range(NUM_BRANCHES)]
    return {
        "one row": (PackedRows.whole([length]), None),
        f"{NUM_BRANCHES} rows that share half": (
            PackedRows((Segment(-1, 0, half), *branches)),
            None,
        ),
        f"one row, window of {window:,}": (PackedRows.whole([length]), window),
    }


def make_forms(rows: PackedRows, window: int | None) -> dict[str, Attend]:
    """The ways to compute a pack's attention, from (1, H, N, D) to (1, N, H, D), by name."""
    forms: dict[str, Attend] = {
        "mask": partial(masked, rows, window),
        "smt_ray": partial(_ours, rows, window),
    }
    if len(rows.segments) == 1 and window is None:
        forms["causal"] = _causal
    return forms


def masked(
    rows: PackedRows, window: int | None, query: Tensor, key: Tensor, value: Tensor
) -> Tensor:
    """One call for each segment, with a boolean mask and the keys of its whole path."""
    offsets, groups, outputs = rows.offsets(), query.shape[1] // key.shape[1], []
    for index, segment in enumerate(rows.segments):
        spans = [range(offsets[i], offsets[i + 1]) for i in path(rows, index)]
        seen = torch.tensor([place for span in spans for place in span], device=query.device)
        own = query[:, :, offsets[index] : offsets[index + 1]]
        place = torch.arange(len(seen), device=query.device)
        first = segment.start + torch.arange(segment.length, device=query.device)[:, None]
        mask = place <= first
        if window is not None:
            mask &= place > first - window
        keys, values = key[:, :, seen], value[:, :, seen]
        folded = own.unflatten(1, (-1, groups)).flatten(2, 3)
        mask = mask.repeat(groups, 1)
        output = F.scaled_dot_product_attention(folded, keys, values, attn_mask=mask)
        outputs.append(output.unflatten(2, (groups, -1)).flatten(1, 2))
    return torch.cat(outputs, 2).transpose(1, 2)


def kept_bytes(form: Attend, states: Sequence[Tensor]) -> int:
    """The bytes that autograd keeps of one call."""
    with SavedBytes(()) as saved:
        output = form(*states)
    del output
    return saved.total


def _ours(
    rows: PackedRows, window: int | None, query: Tensor, key: Tensor, value: Tensor
) -> Tensor:
    keywords: dict[str, Any] = {KEYWORD: rows, "sliding_window": window}
    return packed_attention(nn.Module(), query, key, value, None, **keywords)[0]


def _causal(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    output = F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
    return output.transpose(1, 2)


def _states(rows: PackedRows, options: argparse.Namespace, device: torch.device) -> list[Tensor]:
    num_tokens = rows.offsets()[-1]
    return [
        torch.randn(1, num_tokens, heads, options.head_size, device=device)
        .transpose(1, 2)
        .requires_grad_()
        for heads in (options.heads, options.key_heads, options.key_heads)
    ]


def _run(form: Attend, states: Sequence[Tensor]) -> None:
    output = form(*states)
    torch.autograd.grad(output, states, torch.ones_like(output))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.attention", description=__doc__)
    add_common_options(parser, rounds=5)
    parser.add_argument("--lengths", type=int, nargs="+", default=[1024, 2048, 4096])
    parser.add_argument("--window", type=int, default=512)
    parser.add_argument("--heads", type=int, default=9, help="the heads of queries")
    parser.add_argument("--key-heads", type=int, default=3, help="the heads of keys and values")
    parser.add_argument("--head-size", type=int, default=64)
    return parser


def _cells(values: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        f"{values['kept_bytes'] / 1e6:,.1f}",
        f"{values['seconds']['median'] * 1e3:,.0f}",
        f"{values['times_the_mask']['median']:.2f}",
    )


if __name__ == "__main__":
    main()
