"""DeepSpeed, and the only import of it: gradients, optimizer steps, and their state.

DeepSpeed partitions and reduces. This file decides everything that makes runs comparable and
resumable: gradients are accumulated in fp32, every step sets its own learning rate, and the state
does not depend on the number of ranks.
"""

from __future__ import annotations

import logging
import math
import os
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from smt_ray.data.batches import MicroBatch
from smt_ray.errors import UserError
from smt_ray.imports import large_imports
from smt_ray.training.engine_settings import EngineSettings
from smt_ray.training.state import share_out

_MOMENTS = ("exp_avg", "exp_avg_sq")
# The number of elements that are reduced at once: DeepSpeed's default. It always allocates a buffer
# of the configured size, so fewer trainable parameters get a smaller one.
LARGEST_BUCKET = 500_000_000


class Engine:
    """Data-parallel training of a module's trainable parameters.

    Every method is a collective: all ranks call it, in the same order. torch.distributed must be
    initialised. A process makes one engine only, because DeepSpeed leaks memory otherwise.

    With LoRA and DoRA in bfloat16, the losses of stage 3 differ from those of other stages by about
    1e-4: stage 3 first sums the gradients that one module sends to its input, and then adds other
    modules' gradients, which rounds differently.

    Args:
        loss: The module whose forward maps a micro-batch to its loss.
        settings: See :class:`EngineSettings`.
        device: This rank's device.

    Attributes:
        device: As given.
        shares: The names of the trained parameters that each rank saves; see
            :func:`smt_ray.training.state.share_out`.
        zero_stage: The settings' ZeRO stage.
        optimizer_name: The optimizer's library and class.
    """

    def __init__(
        self,
        loss: nn.Module,
        settings: EngineSettings,
        *,
        device: torch.device,
    ) -> None:
        deepspeed = import_deepspeed(device)
        self.device, self.zero_stage = device, settings.zero_stage
        sizes = {n: p.numel() for n, p in loss.named_parameters() if p.requires_grad}
        self._names = list(sizes)
        self.shares = share_out(sizes, dist.get_world_size())
        parameters = [p for p in loss.parameters() if p.requires_grad]
        optimizer = _adamw(parameters, device, settings)
        self.optimizer_name = (
            f"{type(optimizer).__module__.split('.')[0]}.{type(optimizer).__name__}"
        )
        bucket = min(sum(p.numel() for p in parameters), LARGEST_BUCKET)
        self._engine = _start(
            deepspeed, settings, bucket,
            model=loss, optimizer=optimizer, model_parameters=parameters,
        )  # fmt: skip
        self._optimizer = optimizer
        self._norm: torch.Tensor | None = None
        if self._engine.optimizer is optimizer:
            # Stage 0 in fp32 has no wrapper that clips and keeps the norm.
            max_norm = settings.max_grad_norm or math.inf
            optimizer.register_step_pre_hook(lambda *_: self._clip(parameters, max_norm))
        self._reset_step_counter(0)

    def train(self, mode: bool = True) -> None:
        """Training mode (dropout) or evaluation mode."""
        self._engine.train(mode)

    def loss(self, batch: MicroBatch) -> torch.Tensor:
        """A micro-batch's loss: a float32 scalar, with its graph if gradients are enabled."""
        result: torch.Tensor = self._engine(batch.to(self.device))
        return result

    def backward(self, loss: torch.Tensor) -> None:
        """Adds a micro-batch's gradient to the step's; the sum is not divided by their number."""
        self._engine.backward(loss, scale_wrt_gas=False)

    def step(self, learning_rate: float) -> float:
        """Averages the gradient over ranks, clips it and updates; its norm before clipping."""
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        self._engine.step()
        norm = self._norm if self._norm is not None else self._engine.get_global_grad_norm()
        assert norm is not None
        return float(norm)

    def own_share(self) -> list[str]:
        """The names of the trained parameters that this rank saves."""
        rank = dist.get_rank()
        return self.shares[rank] if rank < len(self.shares) else []

    def export_state(self, keep: Collection[str] | None = None) -> dict[str, torch.Tensor]:
        """Whole parameters and Adam moments, in fp32 on the CPU.

        Keys are ``<parameter>/param``, ``/exp_avg``, ``/exp_avg_sq``, shaped like the parameter.

        Args:
            keep: The names of the parameters that this rank needs, by default all. It still takes
                part for the others, which saves twelve bytes for each of their elements.
        """
        state: dict[str, torch.Tensor] = {}
        for key in ("param", *_MOMENTS):
            for name, value in self._export(key, keep).items():
                state[f"{name}/{key}"] = value
        return state

    def export_parameters(self, keep: Collection[str] | None = None) -> dict[str, torch.Tensor]:
        """The trained parameters by name, in fp32 on the CPU; see :meth:`export_state`."""
        return self._export("param", keep)

    def _export(self, key: str, keep: Collection[str] | None) -> dict[str, torch.Tensor]:
        found: dict[str, torch.Tensor] = {}
        for name, parameter in self._trainable():
            value = self._read(parameter, key)
            if keep is None or name in keep:
                found[name] = value.detach().float().cpu().clone()
        return found

    def import_state(self, state: Mapping[str, torch.Tensor], num_steps: int) -> None:
        """Restores an exported state.

        Args:
            state: The state, as :meth:`export_state` returns it.
            num_steps: The number of optimizer steps that led to it.

        Raises:
            UserError: The state belongs to other parameters.
        """
        expected = {f"{name}/{key}" for name in self._names for key in ("param", *_MOMENTS)}
        if set(state) != expected:
            raise UserError("checkpoint", "belongs to other trainable parameters", got=len(state))
        self._prime_optimizer()
        for name, parameter in self._trainable():
            for key in ("param", *_MOMENTS):
                self._write(parameter, key, state[f"{name}/{key}"])
        self._reset_step_counter(num_steps)

    def _clip(self, parameters: list[nn.Parameter], max_norm: float) -> None:
        self._norm = nn.utils.clip_grad_norm_(parameters, max_norm)

    def _trainable(self) -> Iterator[tuple[str, nn.Parameter]]:
        return (
            (name, parameter)
            for name, parameter in self._engine.module.named_parameters()
            if parameter.requires_grad
        )

    def _prime_optimizer(self) -> None:
        """Creates Adam's moments by one step with zero gradients and learning rate zero."""
        self.backward(self.loss(MicroBatch.idle(packed=False)))
        self.step(0.0)

    def _reset_step_counter(self, num_steps: int) -> None:
        """Sets Adam's step count, so that DeepSpeed's own dummy steps are not counted."""
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
            found = master if key == "param" else self._optimizer.state[master][key]
        elif key == "param":
            found = safe_get_full_fp32_param(parameter)
        else:
            found = safe_get_full_optimizer_state(parameter, key)
        assert isinstance(found, torch.Tensor)
        return found

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
            parameter.data.copy_(value)  # the copy that the forward reads, perhaps in bf16

    def _write_partition(self, parameter: Any, key: str, value: torch.Tensor) -> None:
        """Writes this rank's part under ZeRO-3: the master copy and the one the forward reads."""
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

    def _master(self, parameter: nn.Parameter) -> torch.Tensor:
        """The tensor that the optimizer updates at stage 0: for bf16 parameters an fp32 copy."""
        wrapper = self._engine.optimizer
        if wrapper is self._optimizer:
            return parameter
        groups = zip(wrapper.fp16_groups, wrapper.fp32_groups, strict=True)
        pairs = (pair for low, masters in groups for pair in zip(low, masters, strict=True))
        found = next(master for candidate, master in pairs if candidate is parameter)
        assert isinstance(found, torch.Tensor)
        return found


def import_deepspeed(device: torch.device) -> Any:
    """The deepspeed module, set up for a device; the first call imports it, which takes seconds."""
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if device.type == "cuda" else "cpu")
    # DeepSpeed's autotuner would import mlflow: 800 modules and seconds for every rank.
    with large_imports(), _pretend_missing("mlflow"):
        import deepspeed
        from deepspeed.ops import __compatible_ops__

    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    if device.type == "cpu":
        # DeepSpeed would compile a shared-memory all-reduce on first use; gloo is used instead.
        __compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


@contextmanager
def _pretend_missing(name: str) -> Iterator[None]:
    """Within its block, importing a library fails, unless it is imported already."""
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]  # Python raises ImportError for None
    try:
        yield
    finally:
        del sys.modules[name]


def _start(deepspeed: Any, settings: EngineSettings, bucket: int, **parts: Any) -> Any:
    try:
        return deepspeed.initialize(config=settings.deepspeed_config(bucket), **parts)[0]
    except Exception as error:
        if not settings.extra:
            raise
        raise UserError(
            "deepspeed.extra",
            f"must be keys that DeepSpeed can use here ({' '.join(str(error).split())[:300]})",
            got=dict(settings.extra),
            fix="see DeepSpeed's documentation of its configuration",
        ) from error


def _adamw(
    parameters: list[nn.Parameter],
    device: torch.device,
    settings: EngineSettings,
) -> torch.optim.Optimizer:
    """AdamW with learning rate 0, so that DeepSpeed's dummy steps change nothing."""
    options: dict[str, Any] = {
        "lr": 0.0,
        "betas": settings.betas,
        "eps": settings.epsilon,
        "weight_decay": settings.weight_decay,
    }
    if device.type == "cuda" and settings.zero_stage > 0:
        from deepspeed.ops.adam import FusedAdam

        optimizer: torch.optim.Optimizer = FusedAdam(parameters, adam_w_mode=True, **options)
        return optimizer
    return torch.optim.AdamW(parameters, fused=True, **options)
