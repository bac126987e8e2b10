"""The settings of an engine, and the DeepSpeed configuration that they stand for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass(frozen=True)
class EngineSettings:
    """Settings of the engine; names and meanings are those of the run's configuration.

    Attributes:
        zero_stage: DeepSpeed's ZeRO stage, 0 to 3.
        dtype: ``float32`` or ``bfloat16``, of weights and computation. The optimizer works in fp32.
            DeepSpeed accumulates bf16 gradients in bf16 at stage 0, and in fp32 at other stages.
        betas: AdamW's betas.
        epsilon: AdamW's epsilon.
        weight_decay: AdamW's decoupled weight decay.
        max_grad_norm: The global norm that gradients are clipped to; 0 for no clipping.
        extra: Further keys of DeepSpeed's configuration, which take precedence.
    """

    zero_stage: int
    dtype: str
    betas: tuple[float, float]
    epsilon: float
    weight_decay: float
    max_grad_norm: float
    extra: Mapping[str, Any] = field(default_factory=dict)

    def loading_device(self, device: torch.device) -> torch.device:
        """The device that the base model is loaded onto, for an engine on ``device``.

        Under ZeRO-3 the engine itself distributes the weights over the ranks, from the CPU.
        """
        return torch.device("cpu") if self.zero_stage == 3 else device

    def deepspeed_config(self, bucket: int) -> dict[str, Any]:
        """DeepSpeed's configuration.

        Args:
            bucket: The number of elements that are reduced at once.
        """
        bf16 = self.dtype == "bfloat16"
        clips_itself = self.zero_stage > 0 or bf16  # otherwise the engine clips
        ours = {
            "train_micro_batch_size_per_gpu": 1,  # not used: the engine calls step() when it is due
            "managed_gradient_accumulation": False,
            "gradient_clipping": self.max_grad_norm if clips_itself else 0.0,
            "bf16": {"enabled": bf16},
            "data_types": {"grad_accum_dtype": "bf16" if bf16 and self.zero_stage == 0 else "fp32"},
            "zero_optimization": {
                "stage": self.zero_stage,
                "overlap_comm": False,
                "reduce_bucket_size": bucket,
            },
            "zero_allow_untested_optimizer": True,
            "steps_per_print": 2**31,
        }
        return _merge(ours, self.extra)


def _merge(ours: Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(ours)
    for key, value in extra.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merge(merged[key], value) if both else value
    return merged
