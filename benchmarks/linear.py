"""Forward and backward of one layer: SMT in both forms, plain linears, and tuners of peft.

    python -m benchmarks.linear --json benchmarks/results/linear.json

Every layer is timed right after the frozen linear of the same weight, and its ratio is to that
time. Anything that slows the machine for longer than a few tenths of a second slows both.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from benchmarks.measuring import (
    Laps,
    add_common_options,
    interleave,
    machine_facts,
    machine_line,
    markdown_table,
    set_up,
    spread,
    write_json,
)
from smt_ray.places.layouts import Kind, PlacedLinear
from smt_ray.smt.grid import BlockGrid
from smt_ray.smt.layers.linear import SparseLinear

SHAPES = {  # name -> (O, I), block sizes
    "LLaMA-7B q, k, v": ((4096, 4096), (32, 64, 128, 256)),
    "LLaMA3-8B k, v": ((1024, 4096), (32, 64, 128, 256)),
    "SmolLM2-135M q": ((576, 576), (64, 192)),
    "SmolLM2-135M k, v": ((192, 576), (64, 192)),
}
TINY = {"tiny": ((64, 96), (16, 32))}
# Shares of the weight's elements. A 4096 x 4096 weight has 9, 26 and 64 such blocks of 256. Spread
# evenly over q, k and v, 9 and 26 blocks are 0.84% and 2.5% of LLaMA-7B.
SHARES = (0.035, 0.1, 0.25)
FROZEN = "frozen linear"
RANK = 32
DELTA_SHARE = 0.035  # of the weight's elements, for elements and columns: 9 blocks of 256

_ENOUGH, _MOST_TURNS = 4_000_000_000, 20  # limits of a timed pair: multiplications, turns


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Measures, prints tables and writes the JSON; returns its ``shapes``."""
    options = _parser().parse_args(arguments)
    device = set_up(options)
    machine = machine_facts(device)
    found: dict[str, Any] = {}
    for name, (shape, block_sizes) in (TINY if options.tiny else SHAPES).items():
        print(name, file=sys.stderr)
        layers = make_layers(shape, block_sizes, options, device)
        found[name] = {"shape": shape, **_measure(layers, options, device)}
        print(_report(name, found[name], options.tokens), flush=True)
    print(f"\n{machine_line(machine)}")
    write_json(options.json, "linear", options, machine, {"shapes": found})
    return found


def make_layers(
    shape: tuple[int, int],
    block_sizes: Sequence[int],
    options: argparse.Namespace,
    device: torch.device,
) -> dict[str, nn.Module]:
    """All layers of a shape, by their names in the tables; the frozen linear is first.

    No layer writes to its weight here, so all layers with a frozen weight share it.
    """
    dtype = getattr(torch, options.dtype)
    frozen = nn.Linear(shape[1], shape[0], bias=False, device=device, dtype=dtype)
    trainable = nn.Linear(shape[1], shape[0], bias=False, device=device, dtype=dtype)
    layers: dict[str, nn.Module] = {
        FROZEN: frozen.requires_grad_(False),
        "trainable linear": trainable,
        **_peft_layers(frozen),
    }
    generator = torch.Generator().manual_seed(options.seed)
    layers |= _placed_layers(frozen, generator)
    for size in block_sizes:
        grid = BlockGrid(*shape, size)
        for count in sorted({max(1, round(share * grid.num_blocks)) for share in SHARES}):
            chosen = torch.randperm(grid.num_blocks, generator=generator)[:count].sort().values
            indices = torch.stack([chosen // grid.num_cols, chosen % grid.num_cols], dim=1)
            blocks = f"{count} block{'s' if count > 1 else ''} of {size}"
            layers[f"SMT, {blocks}"] = SparseLinear.from_linear(frozen, indices, size)
            if size == max(block_sizes):
                layers[f"SMT delta, {blocks}"] = _delta_layer(frozen, indices, size)
    return layers


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.linear", description=__doc__)
    add_common_options(parser, rounds=12)
    parser.add_argument("--tokens", type=int, default=512, help="T, the rows of the layer's input")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--tiny", action="store_true", help="measure only one tiny shape")
    return parser


def _peft_layer(linear: nn.Linear, config: Any) -> nn.Module:
    from peft import inject_adapter_in_model

    around = nn.Module()
    around.linear = linear
    return inject_adapter_in_model(config, around, low_cpu_mem_usage=False).linear.train()


def _peft_layers(linear: nn.Linear) -> dict[str, nn.Module]:
    """Layers of peft; its sparse tuners train single elements, as many as DELTA_SHARE says."""
    from peft import LoraConfig, ShiraConfig, SupertuningConfig

    layers: dict[str, nn.Module] = {}
    for name, use_dora in (("LoRA", False), ("DoRA", True)):
        for dropout in (0.0, 0.05):
            config: Any = LoraConfig(
                r=RANK, lora_alpha=2 * RANK, lora_dropout=dropout, use_dora=use_dora,
                target_modules=["linear"],
            )  # fmt: skip
            layers[f"{name}, dropout {dropout}" if dropout else name] = _peft_layer(linear, config)
    rank = max(1, round(DELTA_SHARE * linear.weight.numel() / sum(linear.weight.shape)))
    config = ShiraConfig(r=rank, target_modules=["linear"], random_seed=0)
    layers["SHiRA"] = _peft_layer(linear, config)
    config = SupertuningConfig(sparsity=1 - DELTA_SHARE, target_modules=["linear"])
    layers["Super-Tuning"] = _peft_layer(linear, config)
    return layers


def _placed_layers(linear: nn.Linear, generator: torch.Generator) -> dict[str, nn.Module]:
    """Layers of SIFT and of columns, with DELTA_SHARE of the weight's elements at random places."""
    out_features, in_features = linear.weight.shape
    kinds: dict[Kind, int] = {"element": out_features * in_features, "column": in_features}
    layers: dict[str, nn.Module] = {}
    for kind, number in kinds.items():
        count = max(1, round(DELTA_SHARE * number))
        places = torch.randperm(number, generator=generator)[:count].sort().values.to(torch.int32)
        name = "SIFT" if kind == "element" else "SMT"
        layers[f"{name}, {DELTA_SHARE:.1%} of the {kind}s"] = PlacedLinear.from_linear(
            linear, kind, (out_features, in_features), places
        )
    return layers


def _delta_layer(linear: nn.Linear, indices: torch.Tensor, block_size: int) -> nn.Module:
    """The layer that ``smt_ray.peft`` puts into a model."""
    from smt_ray.peft import SmtLayer

    layer = SmtLayer(linear)
    layer.add_adapter("default", layer.read_blocks(indices, block_size), indices, None)
    layer.set_adapter("default")
    return layer.train()


def _measure(
    layers: dict[str, Any], options: argparse.Namespace, device: torch.device
) -> dict[str, Any]:
    """Times pairs in rounds: forward and backward of the frozen linear, then of the layer."""
    frozen = layers[FROZEN].weight
    num_tokens, (out_features, in_features) = options.tokens, frozen.shape
    x = torch.randn(num_tokens, in_features, device=device, dtype=frozen.dtype)
    grad_y = torch.randn(num_tokens, out_features, device=device, dtype=frozen.dtype)
    # Small layers are repeated, so that each pair lasts long enough for the timer.
    num_turns = max(1, min(_MOST_TURNS, _ENOUGH // (num_tokens * frozen.numel())))

    def case(layer: nn.Module) -> Callable[[int], dict[str, float]]:
        def pair(_round: int) -> dict[str, float]:
            laps = Laps(device)
            for _ in range(num_turns):
                for name, one in (("frozen", layers[FROZEN]), ("layer", layer)):
                    one.zero_grad(set_to_none=True)
                    leaf = x.detach().requires_grad_()
                    laps.lap("between")
                    one(leaf).backward(grad_y)
                    laps.lap(name)
            seconds = laps.seconds()
            return {name: seconds[name] / num_turns for name in ("frozen", "layer")}

        return pair

    cases = {name: case(layer) for name, layer in layers.items()}
    for run in cases.values():
        run(-1)
    rounds = interleave(cases, options.rounds)
    return {
        "rounds": rounds,
        "summary": {
            name: {
                "seconds": spread(found[name]["layer"] for found in rounds),
                "over_frozen": spread(
                    found[name]["layer"] / found[name]["frozen"] for found in rounds
                ),
            }
            for name in layers
        },
    }


def _report(name: str, found: dict[str, Any], num_tokens: int) -> str:
    rows = []
    for layer, one in found["summary"].items():
        ratio = one["over_frozen"]
        rows.append(
            [
                layer,
                f"{1e3 * one['seconds']['median']:.2f}",
                f"{ratio['median']:.3f}",
                f"{ratio['min']:.3f}",
                f"{ratio['max']:.3f}",
            ]
        )
    title = f"\n## {name}: {' x '.join(map(str, found['shape']))}, {num_tokens} tokens\n"
    return f"{title}\n" + markdown_table(["layer", "ms", "over frozen", "min", "max"], rows)


if __name__ == "__main__":
    main()
