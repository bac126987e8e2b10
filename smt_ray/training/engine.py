"""DeepSpeed, and the only import of it: gradients, optimizer steps, and their state.

DeepSpeed partitions and reduces; everything that makes runs comparable and resumable is decided
here: fp32 gradient accumulation, a learning rate given anew at each step, and a state that does not
depend on the number of ranks.
"""

from __future__ import annotations

import logging
import math
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from smt_ray.data.batches import MicroBatch
from smt_ray.errors import UserError

_MOMENTS = ("exp_avg", "exp_avg_sq")
# Elements of the buffers in which gradients are reduced: DeepSpeed's default, which it allocates in
# full, be there as much to reduce or not.
LARGEST_BUCKET = 500_000_000


class Engine:
    """Data-parallel training of a module's trainable parameters.

    Every method is a collective: all ranks call it, in the same order. One engine a process, as
    DeepSpeed leaks memory otherwise; torch.distributed must be initialised.

    Args:
        loss: The module whose forward maps a micro-batch to its loss.
        device: This rank's device.
        zero_stage: 0 to 3.
        dtype: ``float32`` or ``bfloat16``, of weights and computation; the optimizer works in fp32.
            At stage 0 DeepSpeed accumulates bf16 gradients in bf16, elsewhere in fp32. LoRA's and
            DoRA's bf16 losses differ at stage 3 by about 1e-4: a module's gradients of one input
            are added up before they join other modules', in bf16 another rounding.
        betas: Of AdamW.
        epsilon: Of AdamW.
        weight_decay: Of AdamW, decoupled.
        max_grad_norm: Global norm that gradients are scaled down to; 0 for none.
        extra: Further keys of DeepSpeed's configuration, merged over ours.
        refresh: Called whenever trainable parameters changed behind autograd's back.
    """

    def __init__(
        self,
        loss: nn.Module,
        *,
        device: torch.device,
        zero_stage: int,
        dtype: str,
        betas: tuple[float, float],
        epsilon: float,
        weight_decay: float,
        max_grad_norm: float,
        extra: dict[str, Any] | None = None,
        refresh: Callable[[], None] = lambda: None,
    ) -> None:
        deepspeed = import_deepspeed(device)
        self.device, self.zero_stage = device, zero_stage
        self._refresh = refresh
        self._names = [n for n, p in loss.named_parameters() if p.requires_grad]
        parameters = [p for p in loss.parameters() if p.requires_grad]
        optimizer = _adamw(parameters, device, zero_stage, betas, epsilon, weight_decay)
        self.optimizer_name = (
            f"{type(optimizer).__module__.split('.')[0]}.{type(optimizer).__name__}"
        )
        bucket = min(sum(p.numel() for p in parameters), LARGEST_BUCKET)
        config = _merge(_config(zero_stage, dtype, max_grad_norm, bucket), extra or {})
        self._engine, *_ = deepspeed.initialize(
            model=loss, optimizer=optimizer, model_parameters=parameters, config=config
        )
        self._optimizer = optimizer
        self._norm: float | None = None
        if self._engine.optimizer is optimizer:
            # Stage 0 in fp32 has no wrapper that clips and keeps the norm.
            optimizer.register_step_pre_hook(
                lambda *_: self._clip(parameters, max_grad_norm or math.inf)
            )
        self._reset_step_counter(0)
        self._refresh()

    def train(self, mode: bool = True) -> None:
        """Training mode (dropout) or evaluation mode."""
        self._engine.train(mode)

    def loss(self, batch: MicroBatch) -> torch.Tensor:
        """A micro-batch's loss: a float32 scalar with its graph where gradients are enabled."""
        result: torch.Tensor = self._engine(batch.to(self.device))
        return result

    def backward(self, loss: torch.Tensor) -> None:
        """Adds a micro-batch's gradient to the step's, unscaled by their number."""
        self._engine.backward(loss, scale_wrt_gas=False)

    def step(self, learning_rate: float) -> float:
        """Averages the gradient over ranks, clips it and updates; its norm before clipping."""
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        self._engine.step()
        self._refresh()
        norm = self._norm if self._norm is not None else self._engine.get_global_grad_norm()
        assert norm is not None
        return float(norm)

    def export_state(self, *, keep: bool = True) -> dict[str, torch.Tensor]:
        """Parameters and Adam moments in fp32 on the CPU, whole.

        Keys are ``<parameter>/param``, ``/exp_avg``, ``/exp_avg_sq``, shaped like the parameter.

        Args:
            keep: Whether this rank wants them; one that does not takes part and gets nothing, as
                twelve bytes a parameter are much where all of them are trained.
        """
        state: dict[str, torch.Tensor] = {}
        for key in ("param", *_MOMENTS):
            for name, value in self._export(key, keep).items():
                state[f"{name}/{key}"] = value
        return state

    def export_parameters(self, *, keep: bool = True) -> dict[str, torch.Tensor]:
        """The trained parameters by name, as :meth:`export_state` gives them."""
        return self._export("param", keep)

    def _export(self, key: str, keep: bool) -> dict[str, torch.Tensor]:
        found: dict[str, torch.Tensor] = {}
        for name, parameter in self._trainable():
            value = self._read(parameter, key)
            if keep:
                found[name] = value.detach().float().cpu().clone()
        return found

    def import_state(self, state: dict[str, torch.Tensor], num_steps: int) -> None:
        """Goes on from an exported state after ``num_steps`` optimizer steps.

        Raises:
            UserError: The state is of other parameters.
        """
        expected = {f"{name}/{key}" for name in self._names for key in ("param", *_MOMENTS)}
        if set(state) != expected:
            raise UserError("checkpoint", "is of other trainable parameters", got=len(state))
        self._prime_optimizer()
        for name, parameter in self._trainable():
            for key in ("param", *_MOMENTS):
                self._write(parameter, key, state[f"{name}/{key}"])
        self._reset_step_counter(num_steps)
        self._refresh()

    def _clip(self, parameters: list[nn.Parameter], max_norm: float) -> None:
        self._norm = float(nn.utils.clip_grad_norm_(parameters, max_norm))

    def _trainable(self) -> Iterator[tuple[str, nn.Parameter]]:
        return (
            (name, parameter)
            for name, parameter in self._engine.module.named_parameters()
            if parameter.requires_grad
        )

    def _prime_optimizer(self) -> None:
        """Makes Adam's moments exist, by one step of zero gradients at learning rate zero."""
        self.backward(self.loss(MicroBatch.idle(packed=False)))
        self.step(0.0)

    def _reset_step_counter(self, num_steps: int) -> None:
        """Sets Adam's step count; DeepSpeed's own dummy steps must not count as the user's."""
        for group in self._optimizer.param_groups:
            if "step" in group:  # DeepSpeed's FusedAdam counts per group
                group["step"] = num_steps
        for state in self._optimizer.state.values():
            if torch.is_tensor(state.get("step")):
                state["step"].fill_(num_steps)
            elif "step" in state:
                state["step"] = num_steps

    def _read(self, parameter: nn.Parameter, key: str) -> torch.Tensor:
        from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

        if self.zero_stage == 0:
            master = self._master(parameter)
            return master if key == "param" else self._optimizer.state[master][key]
        if key == "param":
            return safe_get_full_fp32_param(parameter)
        return safe_get_full_optimizer_state(parameter, key)

    def _write(self, parameter: nn.Parameter, key: str, value: torch.Tensor) -> None:
        from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

        if self.zero_stage == 3:
            self._write_partition(parameter, key, value.to(self.device))
            return
        if self.zero_stage == 0:
            self._read(parameter, key).data.copy_(value)
        elif key == "param":
            safe_set_full_fp32_param(parameter, value.to(self.device))
        else:
            safe_set_full_optimizer_state(parameter, value.to(self.device), key)
        if key == "param":
            parameter.data.copy_(value)  # what the forward reads, perhaps in bf16

    def _write_partition(self, parameter: Any, key: str, value: torch.Tensor) -> None:
        """ZeRO-3: this rank's part, of the master copy and of what the forward reads."""
        from deepspeed.utils import safe_set_local_fp32_param, safe_set_local_optimizer_state

        size = parameter.ds_tensor.numel()
        padded = torch.zeros(size * dist.get_world_size(), device=value.device)
        padded[: value.numel()] = value.flatten()
        part = padded[size * dist.get_rank() :][:size]
        if key == "param":
            safe_set_local_fp32_param(parameter, part)
            parameter.ds_tensor.data.copy_(part)
        else:
            safe_set_local_optimizer_state(parameter, part, key)

    def _master(self, parameter: nn.Parameter) -> nn.Parameter:
        """At stage 0: what the optimizer updates for a parameter; itself unless it is bf16."""
        wrapper = self._engine.optimizer
        if wrapper is self._optimizer:
            return parameter
        for low, masters in zip(wrapper.fp16_groups, wrapper.fp32_groups, strict=True):
            for candidate, master in zip(low, masters, strict=True):
                if candidate is parameter:
                    return master
        raise AssertionError("a trainable parameter without a master copy")


def import_deepspeed(device: torch.device) -> Any:
    """The library, set up for a device; imported on first use, as it takes seconds."""
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if device.type == "cuda" else "cpu")
    with _not_imported("mlflow"):  # its autotuner would: 800 modules and seconds for every rank
        import deepspeed
    from deepspeed.ops import __compatible_ops__

    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    if device.type == "cpu":
        # A shared-memory all-reduce that would be compiled on first use; gloo serves here.
        __compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


@contextmanager
def _not_imported(name: str) -> Iterator[None]:
    """Has a library that can do without another one do so, unless it is imported already."""
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]  # what Python raises ImportError for
    try:
        yield
    finally:
        del sys.modules[name]


def _adamw(
    parameters: list[nn.Parameter],
    device: torch.device,
    zero_stage: int,
    betas: tuple[float, float],
    epsilon: float,
    weight_decay: float,
) -> torch.optim.Optimizer:
    """AdamW at learning rate 0, which every step sets: DeepSpeed's dummy steps change nothing."""
    options: dict[str, Any] = {
        "lr": 0.0,
        "betas": betas,
        "eps": epsilon,
        "weight_decay": weight_decay,
    }
    if device.type == "cuda" and zero_stage > 0:
        from deepspeed.ops.adam import FusedAdam

        optimizer: torch.optim.Optimizer = FusedAdam(parameters, adam_w_mode=True, **options)
        return optimizer
    return torch.optim.AdamW(parameters, fused=True, **options)


def _config(zero_stage: int, dtype: str, max_grad_norm: float, bucket: int) -> dict[str, Any]:
    bf16 = dtype == "bfloat16"
    accumulate = "bf16" if bf16 and zero_stage == 0 else "fp32"
    return {
        "train_micro_batch_size_per_gpu": 1,  # ours to count: step() is the boundary
        "managed_gradient_accumulation": False,
        "gradient_clipping": 0.0 if zero_stage == 0 and not bf16 else max_grad_norm,
        "bf16": {"enabled": bf16},
        "data_types": {"grad_accum_dtype": accumulate},
        "zero_optimization": {
            "stage": zero_stage,
            "overlap_comm": False,
            "reduce_bucket_size": bucket,
        },
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 2**31,
    }


def _merge(ours: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
    merged = dict(ours)
    for key, value in extra.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged
