"""The memory that a rank needs for its parameters, gradients and optimizer with DeepSpeed.

The formulas come from measurements of real engines, and tests/planning compares them with such
engines: which tensors are partitioned, which copies exist while gradients are reduced, and what an
optimizer step needs for a moment.
"""

from __future__ import annotations

from dataclasses import dataclass

# DeepSpeed's defaults for ZeRO-3, in elements: the most that are gathered, and those prefetched.
_MAX_GATHERED = 1_000_000_000
_PREFETCHED = 50_000_000
_FP32 = 4


@dataclass(frozen=True)
class RankBytes:
    """The bytes on one GPU, without activations.

    Attributes:
        weights: The weights of base model and adapter; under ZeRO-3, this rank's part of them.
        gradients: The gradients that are kept between micro-batches.
        optimizer: The master copies and Adam's moments.
        buffers: What is needed beside activations: buffers of reductions, and gathered weights.
        reduction: What is needed at the end of the backward pass, when there are no activations.
        step: What is needed in the optimizer step, when there are no activations.
    """

    weights: int
    gradients: int
    optimizer: int
    buffers: int
    reduction: int
    step: int

    def peak(self, activations: int) -> int:
        """The largest number of bytes in use, given the activations of one micro-batch."""
        held = self.weights + self.gradients + self.optimizer
        return held + max(self.buffers + activations, self.reduction, self.step)


def rank_bytes(
    zero_stage: int,
    num_gpus: int,
    *,
    num_parameters: int,
    num_trainable: int,
    bytes_per_value: int,
    bucket: int,
    largest_module: int = 0,
    secondary_group: int = 1,
) -> RankBytes:
    """The memory of a rank under a ZeRO stage.

    Args:
        num_gpus: The number of ranks, which share what the stage partitions.
        num_parameters: The number of parameters of base model and adapter, tied ones once.
        bytes_per_value: The bytes of a weight: 4 for float32 and 2 for bfloat16.
        bucket: The number of elements of a reduction's buffer.
        largest_module: The largest number of parameters of one module, which are gathered together.
        secondary_group: The number of ranks that share a second copy of the weights; 1 for none.
            It is DeepSpeed's ``zero_hpz_partition_size``.
    """
    values, buffer = bytes_per_value * num_trainable, bytes_per_value * bucket
    whole = _FP32 * num_trainable
    part = -(-whole // num_gpus)
    weights = bytes_per_value * num_parameters
    low = bytes_per_value < _FP32
    if zero_stage == 0:
        # In bf16, a wrapper keeps fp32 master copies, and makes fp32 gradients in a step.
        optimizer = (3 if low else 2) * whole
        return RankBytes(weights, values, optimizer, 0, 0, whole if low else buffer)
    optimizer = 3 * part
    if zero_stage == 1:
        # In bf16, gradients are summed in fp32, in addition to those of autograd.
        if low:
            return RankBytes(weights, values + whole, optimizer, 0, 0, values)
        return RankBytes(weights, whole, optimizer, buffer, buffer, buffer)
    if zero_stage == 2:
        return RankBytes(weights, part, optimizer, buffer, 2 * buffer, part)
    # The part of a single rank is the whole weight.
    num_gathered = _num_gathered(num_parameters, largest_module) if num_gpus > 1 else 0
    gathered = bytes_per_value * num_gathered
    secondary = -(-weights // secondary_group) if secondary_group > 1 else 0
    weights, reduction = -(-weights // num_gpus) + secondary, 2 * _FP32 * bucket + gathered
    return RankBytes(weights, part, optimizer, buffer + gathered, reduction, buffer + part)


def _num_gathered(num_parameters: int, largest_module: int) -> int:
    most = max(_MAX_GATHERED, largest_module)
    return min(num_parameters, most) + min(num_parameters, _PREFETCHED)
