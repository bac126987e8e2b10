"""What a rank holds for its parameters: DeepSpeed's own arithmetic, found by watching it.

Each figure below was read off real engines (tests/planning holds them to that): where a tensor is
partitioned, which copies there are while gradients are reduced, what a step needs for a moment.
"""

from __future__ import annotations

from dataclasses import dataclass

# DeepSpeed's defaults for ZeRO-3: elements that may be gathered, and that are fetched ahead.
_MAX_GATHERED = 1_000_000_000
_PREFETCHED = 50_000_000
_FP32 = 4


@dataclass(frozen=True)
class RankBytes:
    """Bytes on one GPU, activations apart.

    Attributes:
        weights: Of base and adapter; under ZeRO-3 this rank's part.
        gradients: Kept between micro-batches.
        optimizer: Master copies and Adam's moments.
        buffers: Beside activations: the buffers of reductions, and gathered weights.
        reduction: Instead of both, when backward has come to its end.
        step: Instead of all three, in the optimizer's step.
    """

    weights: int
    gradients: int
    optimizer: int
    buffers: int
    reduction: int
    step: int

    def peak(self, activations: int) -> int:
        """The most that is alive at once, with activations of one micro-batch."""
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
) -> RankBytes:
    """What a rank holds under a ZeRO stage.

    Args:
        zero_stage: 0 to 3.
        num_gpus: Ranks that share what the stage partitions.
        num_parameters: Of base and adapter, tied ones once.
        num_trainable: Those of them that are trained.
        bytes_per_value: 4 for float32, 2 for bfloat16: of weights and of what is computed.
        bucket: Elements of a reduction's buffer.
    """
    values, buffer = bytes_per_value * num_trainable, bytes_per_value * bucket
    whole = _FP32 * num_trainable
    part = -(-whole // num_gpus)
    weights = bytes_per_value * num_parameters
    low = bytes_per_value < _FP32
    if zero_stage == 0:
        # In bf16 a wrapper keeps fp32 masters, and makes fp32 gradients of the bf16 ones in a step.
        optimizer = (3 if low else 2) * whole
        return RankBytes(weights, values, optimizer, 0, 0, whole if low else buffer)
    optimizer = 3 * part
    if zero_stage == 1:
        # In bf16 gradients are added up in fp32 beside those of autograd; none is partitioned.
        if low:
            return RankBytes(weights, values + whole, optimizer, 0, 0, values)
        return RankBytes(weights, whole, optimizer, buffer, buffer, buffer)
    if zero_stage == 2:
        return RankBytes(weights, part, optimizer, buffer, 2 * buffer, part)
    gathered = 0
    if num_gpus > 1:  # alone, a rank's part is the weight
        gathered = bytes_per_value * (
            min(num_parameters, _MAX_GATHERED) + min(num_parameters, _PREFETCHED)
        )
    return RankBytes(
        weights=-(-weights // num_gpus),
        gradients=part,
        optimizer=optimizer,
        buffers=buffer + gathered,
        reduction=2 * _FP32 * bucket + gathered,
        step=buffer + part,
    )
