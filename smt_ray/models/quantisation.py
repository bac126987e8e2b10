"""Base models whose linears are stored in 4 or 8 bits, by bitsandbytes."""

from __future__ import annotations

import importlib.util
from functools import lru_cache
from typing import Any

import torch
from torch import nn

from smt_ray.errors import UserError
from smt_ray.smt.base_identity import remember_rows
from smt_ray.smt.model import find_ties

KINDS = ("nf4", "fp4", "int8")
_OUTLIERS = 6.0  # larger inputs of int8 products are not rounded; transformers' default, too


def check_quantisation(kind: str) -> None:
    """Checks that a model can be quantised here.

    Raises:
        UserError: The package bitsandbytes is missing.
    """
    if kind != "none" and importlib.util.find_spec("bitsandbytes") is None:
        raise UserError(
            "model.quantization",
            "needs the package bitsandbytes",
            got=kind,
            fix="pip install 'smt-ray[bitsandbytes]'",
        )


def quantise(
    model: nn.Module, kind: str, device: torch.device | str, compute_dtype: torch.dtype
) -> nn.Module:
    """Stores the linears of a model in 4 or 8 bits, in place, and moves the model to a device.

    As in transformers, these are all linears but the output embeddings. Linears with tied weights
    are left out, too. Each one is quantised on its own, so the device never holds another weight in
    full precision. 4-bit weights have their scales quantised again, as in QLoRA.

    Args:
        model: The model in full precision, on the CPU.
        kind: The kind, one of :data:`KINDS`.
        device: The device of the quantised model.
        compute_dtype: The dtype to which weights are dequantised, and in which products are made.

    Raises:
        UserError: The model has no linear that can be quantised.
    """
    wanted = quantisable(model)
    if not wanted:
        raise UserError(
            "model.quantization",
            "needs linears of class torch.nn.Linear, of which this model has none",
            got=kind,
            fix="set it to none",
        )
    make = _make_int8 if kind == "int8" else _make_4bit
    for name, linear in wanted.items():
        parent, _, last = name.rpartition(".")
        quantised = make(linear, kind, compute_dtype)
        remember_rows(quantised, linear)
        quantised = quantised.to(device)  # this quantises
        if kind == "int8":
            quantised.init_8bit_state()  # otherwise whatever reads the weight first must do it
        quantised.train(linear.training).requires_grad_(False)
        setattr(model.get_submodule(parent), last, quantised)
    return model.to(device)


def quantisable(model: nn.Module) -> dict[str, nn.Linear]:
    """The linears of a plain model that are quantised, by name."""
    linears = {name: m for name, m in model.named_modules() if type(m) is nn.Linear}
    output = getattr(model, "get_output_embeddings", lambda: None)()
    ties = find_ties(model, linears)
    return {name: m for name, m in linears.items() if m is not output and name not in ties}


def _make_4bit(linear: nn.Linear, kind: str, compute_dtype: torch.dtype) -> Any:
    import bitsandbytes as bnb

    made = bnb.nn.Linear4bit(
        linear.in_features, linear.out_features, bias=linear.bias is not None,
        compute_dtype=compute_dtype, compress_statistics=True, quant_type=kind, device="meta",
    )  # fmt: skip
    made.weight = bnb.nn.Params4bit(
        linear.weight.data, requires_grad=False, compress_statistics=True, quant_type=kind,
        module=made,
    )  # fmt: skip
    made.bias = linear.bias
    # On some CPUs it would otherwise round the scales in evaluation mode, so that a model would be
    # evaluated with other weights than it was trained with.
    made.support_avx512bf16_for_cpu = False
    return made


@lru_cache
def _int8_class() -> Any:
    """The linear of 8 bits of bitsandbytes, which keeps its scales if the model is moved again.

    Theirs loses them when DeepSpeed moves a model of which a weight was dequantised before.
    """
    import bitsandbytes as bnb

    class Linear8bit(bnb.nn.Linear8bitLt):  # type: ignore[misc]
        def init_8bit_state(self) -> None:
            scales = self.state.SCB
            super().init_8bit_state()
            if self.state.SCB is None:
                self.state.SCB = scales.to(self.weight.device)

    return Linear8bit


def _make_int8(linear: nn.Linear, _kind: str, _compute_dtype: torch.dtype) -> Any:
    import bitsandbytes as bnb

    made = _int8_class()(
        linear.in_features, linear.out_features, bias=linear.bias is not None,
        has_fp16_weights=False, threshold=_OUTLIERS, device="meta",
    )  # fmt: skip
    made.weight = bnb.nn.Int8Params(linear.weight.data, requires_grad=False, has_fp16_weights=False)
    made.bias = linear.bias
    return made
