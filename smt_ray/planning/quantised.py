"""The memory of a base model whose linears bitsandbytes has quantised."""

from __future__ import annotations

from torch import nn

from smt_ray.models.quantisation import quantisable

_FP32 = 4
# QLoRA's two levels of scales: a byte for 64 weights, and a float32 for 256 of these bytes.
_BYTES_OF_4_BITS = 1 / 2 + 1 / 64 + _FP32 / (64 * 256)


class QuantisedWeights:
    """The bytes that quantisation saves, and those that it needs while it computes.

    Attributes:
        saved: The bytes that the stored weights need less than in the model's dtype.
        dequantised: The bytes of the largest weight in the model's dtype. It exists while its
            linear computes, in the forward and in the backward pass.
    """

    def __init__(self, model: nn.Module, kind: str, value_bytes: int) -> None:
        """Counts the linears of a plain model.

        Args:
            model: The base model, perhaps on the meta device.
            kind: ``model.quantization``.
            value_bytes: The bytes of a value in the model's dtype.
        """
        self.saved = self.dequantised = 0
        for linear in quantisable(model).values() if kind != "none" else ():
            num_values = linear.weight.numel()
            stored = _BYTES_OF_4_BITS if kind != "int8" else 1 + _FP32 / linear.in_features
            self.saved += int(num_values * (value_bytes - stored))
            self.dequantised = max(self.dequantised, num_values * value_bytes)
