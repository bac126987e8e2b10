r"""The loss over every position of a row: all logits at once, and some positions at a time.

    python -m benchmarks.logits --json benchmarks/results/logits.json

The model has one narrow layer and the vocabulary of Llama 3, so that nearly all work and memory are
those of the head and the loss. Each case is one forward and backward; only the layer is trained.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch

from benchmarks.measuring import (
    add_common_options,
    compare,
    comparison_table,
    machine_facts,
    machine_line,
    set_up,
    write_json,
)
from benchmarks.memory import peak_bytes
from smt_ray.data.batches import MicroBatch
from smt_ray.training.loss.logits import MAX_LOGITS
from smt_ray.training.loss.supervised import SupervisedLoss

FORMS: dict[str, int | None] = {"whole": None, "chunks": MAX_LOGITS}


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Measures, prints a table and writes the JSON; returns its ``summary``."""
    options = _parser().parse_args(arguments)
    device = set_up(options)
    machine = machine_facts(device)
    model = _model(options).to(device)
    summary: dict[str, Any] = {}
    for length in options.lengths:
        batch = _batch(length, options.vocabulary).to(device)
        peaks = {
            name: peak_bytes(partial(_step, model, batch, most), device)
            for name, most in FORMS.items()
        }
        cases = {name: partial(_step, model, batch, most) for name, most in FORMS.items()}
        found = compare(cases, "whole", options.rounds, device)
        summary[f"{length:,} positions"] = {
            name: {"peak_bytes": peaks[name], **values} for name, values in found.items()
        }
    print(comparison_table(summary, ["peak MB", "s", "times all at once"], _cells))
    print(f"\n{machine_line(machine)}")
    write_json(options.json, "logits", options, machine, {"summary": summary})
    return summary


def _model(options: argparse.Namespace) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=options.vocabulary,
        hidden_size=options.width,
        intermediate_size=options.width,
        num_hidden_layers=1,
        num_attention_heads=4,
    )
    model: Any = LlamaForCausalLM(config).requires_grad_(False)
    model.model.layers.requires_grad_(True)
    return model


def _batch(length: int, vocabulary: int) -> MicroBatch:
    places = torch.arange(length)
    ids = places % vocabulary
    return MicroBatch(ids[None], places, ids, torch.full((length,), 1 / length))


def _step(model: Any, batch: MicroBatch, max_logits: int | None) -> None:
    loss = SupervisedLoss(model, narrow=False, max_logits=max_logits)
    loss(batch).backward()
    loss.detach_from_model()
    model.zero_grad()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.logits", description=__doc__)
    add_common_options(parser, rounds=3)
    parser.add_argument("--lengths", type=int, nargs="+", default=[512, 1024, 2048])
    parser.add_argument("--vocabulary", type=int, default=128_256)
    parser.add_argument("--width", type=int, default=512, help="the hidden size")
    return parser


def _cells(values: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        f"{values['peak_bytes'] / 1e6:,.0f}",
        f"{values['seconds']['median']:,.2f}",
        f"{values['times_the_whole']['median']:.2f}",
    )


if __name__ == "__main__":
    main()
