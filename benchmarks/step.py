r"""A training step of every method, as users run it today and on our code.

    python -m benchmarks.step --model FOLDER --gguf-file FILE --data LLM-Adapters \
        --json benchmarks/results/step.json --chart benchmarks/results/step.png

README.md in this folder describes the comparison.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.configurations import FLOOR, NAMES, Batching, Configuration, make_configurations
from benchmarks.configurations import select as select_by_warmup
from benchmarks.flops import read_decoder, read_work, step_flops
from benchmarks.measuring import (
    add_common_options,
    add_model_options,
    gemm_rate,
    interleave,
    machine_facts,
    machine_line,
    model_of,
    set_up,
    write_json,
)
from benchmarks.memory import SavedBytes, peak_bytes, tensor_bytes
from benchmarks.step_summary import OURS, REFERENCE, report, summarise
from smt_ray.config.running import BatchingConfig
from smt_ray.data.batches import StepPlan
from smt_ray.data.encoding.rows import Encoding, encode_rows
from smt_ray.data.sources import Reading, read_sources
from smt_ray.data.splits import hold_out
from smt_ray.models.load import load_model, load_tokenizer

SUITES = {
    "commonsense": "ft-training_set/commonsense_15k.json",
    "math": "ft-training_set/math_10k.json",
}
BUILTIN_SUITES = ("builtin:tiny_commonsense", "builtin:tiny_arithmetic")

_MAX_LENGTH = 256  # the published baselines' cutoff


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Measures, prints tables and writes files; returns the ``suites`` of the JSON."""
    options = _parser().parse_args(arguments)
    device = set_up(options)
    machine = machine_facts(device)
    spec = model_of(options)
    base = _first_layers(load_model(spec, device), options.layers).requires_grad_(False)
    tokenizer = load_tokenizer(spec)
    suites = options.suites or (BUILTIN_SUITES if options.model == "builtin" else tuple(SUITES))
    found: dict[str, Any] = {}
    for named in suites:
        suite, _, file = named.partition("=")
        source = file or SUITES.get(suite, suite)
        found[suite] = _measure(base, _rows(source, tokenizer, options), options, device)
        print(report(suite, found[suite]), flush=True)
    print(f"\n{machine_line(machine)}")
    write_json(options.json, "step", options, machine, {"suites": found})
    if options.chart:
        from benchmarks.charts import step_chart

        step_chart(found, machine_line(machine), options.chart)
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.step", description=__doc__)
    add_common_options(parser, rounds=3)
    add_model_options(parser)
    parser.add_argument("--layers", type=int, help="use only the model's first layers")
    parser.add_argument(
        "--suites", nargs="+", help=f"any of {', '.join(SUITES)}, NAME=FILE, builtin:TASK"
    )
    parser.add_argument("--configurations", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--batch-size", type=int, default=16, help="rows of a step")
    parser.add_argument(
        "--micro-batch-rows", type=int, default=4, help="rows of a padded micro-batch"
    )
    parser.add_argument(
        "--max-tokens",
        type=int,
        default=BatchingConfig().max_tokens,
        help="tokens of a packed micro-batch",
    )
    parser.add_argument("--gemm-tokens", type=int, default=512, help="T of the GEMM that is timed")
    parser.add_argument(
        "--warmup-steps", type=int, default=2, help="warm-up steps that select smt's blocks"
    )
    parser.add_argument("--chart", type=Path, help="a PNG file for the chart")
    return parser


def _first_layers(model: Any, num_layers: int | None) -> nn.Module:
    if num_layers is not None:
        model.model.layers = model.model.layers[:num_layers]
        model.config.num_hidden_layers = num_layers
    return model


def _rows(source: str, tokenizer: Any, options: argparse.Namespace) -> Batching:
    """Draws the rows of all steps by the seed, and tokenises them."""
    num_steps = options.warmup_steps + 1 + options.rounds
    rows, _, _ = hold_out(
        read_sources([source], Reading(options.data), "data.train").rows,
        max_rows=num_steps * options.batch_size, validation_rows=0, seed=options.seed,
    )  # fmt: skip
    encoded, _ = encode_rows(tokenizer, rows, Encoding(_MAX_LENGTH))
    return Batching(encoded, tokenizer, options.micro_batch_rows, options.max_tokens)


def _measure(
    base: nn.Module, batching: Batching, options: argparse.Namespace, device: torch.device
) -> dict[str, Any]:
    """Measures a suite: the selection, the memory and the timed rounds, each on its own rows."""
    plan = StepPlan(len(batching.encoded), options.batch_size, options.seed)
    steps = [plan.rows(step) for step in range(options.warmup_steps + 1 + options.rounds)]
    watched, timed = steps[options.warmup_steps], steps[options.warmup_steps + 1 :]
    selected = select_by_warmup(base, batching, steps[: options.warmup_steps])
    made = make_configurations(base, batching, selected, options.configurations)
    selection = selected.blocks
    base_bytes = tensor_bytes([*base.parameters(), *base.buffers()])
    memory = {name: _memory(one, watched, base_bytes, device) for name, one in made.items()}
    shape = (options.gemm_tokens, base.config.hidden_size, base.config.intermediate_size)
    dtype = next(base.parameters()).dtype

    reference = _Reference(made.get(OURS), timed)

    def timed_step(one: Configuration, number: int) -> dict[str, float]:
        reference.before(number)
        before = gemm_rate(shape, device, dtype)
        seconds = one.step(timed[number])
        rate = (before + gemm_rate(shape, device, dtype)) / 2
        beside = {REFERENCE: reference.beside(number)} if reference.taken else {}
        return {**seconds, "gemm_flops_per_second": rate, **beside}

    rounds = interleave(
        {name: partial(timed_step, one) for name, one in made.items()}, options.rounds
    )
    works = [[read_work(batch) for batch in batching.packed(rows)] for rows in timed]
    decoders = {
        name: read_decoder(one.trainee.model, through_embeddings=name == FLOOR)
        for name, one in made.items()
    }
    raw = {
        "num_rows": [len(rows) for rows in timed],
        "num_tokens": [int(batching.encoded.lengths[rows].sum()) for rows in timed],
        "num_packed_tokens": [sum(work.num_tokens for work in step) for step in works],
        "needed_flops": {
            name: [step_flops(decoder, step) for step in works]
            for name, decoder in decoders.items()
        },
        "rounds": rounds,
        "memory": memory,
        "gemm_shape": shape,
        "selection": {
            "num_blocks": selection.num_blocks,
            "block_size": selection.block_size,
            "budget": selection.budget,
            "modules": {name: count for name, count in selection.counts().items() if count},
        },
    }
    return {**raw, "summary": summarise(raw)}


class _Reference:
    """Measures smt's packed step before and after each step of another configuration.

    Ratios are to the mean of the two measurements, because the machine's speed may change by half
    within a round, but changes less within three steps. Without the configuration of smt's packed
    step, nothing is measured.
    """

    def __init__(self, one: Configuration | None, timed: Sequence[Sequence[int]]) -> None:
        self.taken = one is not None
        self._one, self._timed = one, timed
        self._last: tuple[int, float] | None = None

    def before(self, number: int) -> None:
        """Takes a step, unless this round already has one after the last configuration."""
        if self._one is not None and (self._last is None or self._last[0] != number):
            self._last = number, self._seconds(number)

    def beside(self, number: int) -> float:
        """Takes a step; returns the mean seconds of this step and the one before."""
        assert self._last is not None
        earlier = self._last[1]
        self._last = number, self._seconds(number)
        return (earlier + self._last[1]) / 2

    def _seconds(self, number: int) -> float:
        assert self._one is not None
        return sum(self._one.step(self._timed[number]).values())


def _memory(
    one: Configuration, rows: Sequence[int], base_bytes: int, device: torch.device
) -> Mapping[str, int]:
    """The bytes of a step beyond the base model's weights, and those that one forward saves."""
    print(".", end="", file=sys.stderr, flush=True)
    trainee = one.trainee
    one.step(rows[:1])  # creates the optimizer's state
    saved: list[int] = []

    def counted_loss(batch: Any, num_batches: int) -> torch.Tensor:
        with SavedBytes(trainee.held()) as counter:
            loss = one.loss(batch, num_batches)
        saved.append(counter.total)
        return loss

    counted = replace(one, loss=counted_loss)
    peak = peak_bytes(lambda: counted.step(rows), device)
    state, held = tensor_bytes(trainee.state()), tensor_bytes(trainee.held())
    return {
        "peak_bytes": peak + state + held - base_bytes,
        "of_it_optimizer_state": state,
        "saved_bytes": max(saved),
    }


if __name__ == "__main__":
    main()
