"""The warm-up's gradient sums: signed, in fp32, and nothing else kept (paper section 3.2)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from types import TracebackType

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle


class GradientAccumulator:
    """Sums the gradients of the eligible weights over any number of backward calls.

    While the context is open only the eligible weights require gradients, and each gradient is
    folded into its sum and freed inside backward, so that beside the sums one weight's gradient is
    alive at a time, and no other parameter gets one. ``requires_grad`` and ``grad`` of every
    parameter are put back when the context closes; the sums stay until they are popped.

    >>> with GradientAccumulator(model, modules) as accumulator:
    ...     for batch in batches:
    ...         loss(model, batch).backward()
    >>> for name in accumulator.names:
    ...     gradient = accumulator.pop(name)
    """

    def __init__(
        self,
        model: nn.Module,
        modules: Mapping[str, nn.Linear],
        device: torch.device | str | None = None,
    ) -> None:
        """Prepares the sums; hooks are set when the context opens.

        Args:
            model: The model whose other parameters are frozen meanwhile.
            modules: Eligible linears of the model by name. Of several names for one tied weight
                the first counts.
            device: Where sums are kept: ``"host"`` for the CPU, which leaves the accelerator free
                at the price of a transfer a weight; by default beside each weight.
        """
        self._model = model
        self._device = torch.device("cpu") if device == "host" else device
        self._weights: dict[str, Tensor] = {}
        seen: set[int] = set()
        for name, module in modules.items():
            if id(module.weight) not in seen:
                seen.add(id(module.weight))
                self._weights[name] = module.weight
        self._sums: dict[str, Tensor] = {}
        self._handles: list[RemovableHandle] = []
        self._before: list[tuple[nn.Parameter, bool, Tensor | None]] = []

    @property
    def names(self) -> tuple[str, ...]:
        """Names whose sums have not been popped yet, in the order given, tied weights once."""
        return tuple(self._weights)

    def __enter__(self) -> GradientAccumulator:
        self._before = [(p, p.requires_grad, p.grad) for p in self._model.parameters()]
        for parameter, _, _ in self._before:
            parameter.requires_grad_(False)
        for name, weight in self._weights.items():
            weight.grad = None
            weight.requires_grad_(True)
            hook = partial(self._fold, name)
            handle = weight.register_post_accumulate_grad_hook(hook)
            self._handles.append(handle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        for parameter, requires_grad, grad in self._before:
            parameter.requires_grad_(requires_grad)
            parameter.grad = grad
        self._before.clear()

    def pop(self, name: str) -> Tensor:
        """Gives a sum away and forgets it: (O, I) in fp32, zeros where no gradient arrived."""
        weight = self._weights.pop(name)
        total = self._sums.pop(name, None)
        if total is None:
            device = self._device or weight.device
            total = torch.zeros(weight.shape, dtype=torch.float32, device=device)
        return total

    def _fold(self, name: str, parameter: Tensor) -> None:
        gradient = parameter.grad
        assert gradient is not None  # the hook runs after the gradient was accumulated
        parameter.grad = None
        if name in self._sums:
            self._sums[name].add_(gradient.to(self._sums[name].device))
        else:
            # The gradient is nobody else's by now: in fp32 and in place it becomes the sum.
            self._sums[name] = gradient.to(self._device or gradient.device, torch.float32)
