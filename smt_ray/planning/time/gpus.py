"""The stated peaks of GPUs, from the data sheets of their vendor."""

from __future__ import annotations

from dataclasses import dataclass

from smt_ray.errors import UserError

_GIB, _TERA, _GIGA = 2**30, 10**12, 10**9


@dataclass(frozen=True)
class GpuType:
    """A type of GPU.

    Attributes:
        memory: The bytes that CUDA reports, which are fewer than those of its name.
        bfloat16: The FLOP/s of dense products in bfloat16 that are summed in float32.
        float32: The FLOP/s of products in float32 without TF32, as PyTorch computes them.
        bandwidth: The bytes per second of its memory.
        link: The bytes per second that it receives from the other GPUs of its node: over NVLink, or
            else over PCIe.
    """

    name: str
    memory: int
    bfloat16: float
    float32: float
    bandwidth: float
    link: float

    def peak(self, dtype: str) -> float:
        """The FLOP/s of products in a dtype."""
        return self.float32 if dtype == "float32" else self.bfloat16


# Name, GiB, TFLOP/s in bfloat16 and in float32, GB/s of the memory and of the link.
_TABLE = (
    ("a10", 22.0, 125, 31.2, 600, 32),
    ("a10g", 22.0, 70, 31.5, 600, 32),
    ("a100-40gb", 39.4, 312, 19.5, 1555, 300),
    ("a100-80gb", 79.1, 312, 19.5, 2039, 300),
    ("a6000", 47.4, 155, 38.7, 768, 32),
    ("b200", 178.3, 2250, 75, 8000, 900),
    ("h100-80gb", 79.1, 989, 67, 3350, 450),
    ("h200", 139.8, 989, 67, 4800, 450),
    ("l4", 22.0, 121, 30.3, 300, 32),
    ("l40s", 44.4, 362, 91.6, 864, 32),
    ("rtx-3090", 23.6, 71, 35.6, 936, 32),
    ("rtx-4090", 23.6, 165, 82.6, 1008, 32),
)

GPU_TYPES = {
    name: GpuType(
        name, int(memory * _GIB), low * _TERA, high * _TERA, bandwidth * _GIGA, link * _GIGA
    )
    for name, memory, low, high, bandwidth, link in _TABLE
}
"""The types of GPU by name."""


def find_gpu_type(name: str) -> GpuType:
    """The type of GPU of a name, in any case.

    Raises:
        UserError: The name is none of the types.
    """
    found = GPU_TYPES.get(name.lower())
    if found is None:
        raise UserError("--gpu-type", f"must be one of {', '.join(GPU_TYPES)}", got=name)
    return found
