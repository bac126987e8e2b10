"""The gradient sums of the warm-up: signed sums in fp32 (paper section 3.2)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from smt_ray.smt.linears import as_dense, is_transposed, linear_shape
from smt_ray.smt.quantised import is_quantised
from smt_ray.smt.scores import step_statistics

_ROWS = 1024  # the rows of a tapped weight whose gradient is computed at once


class GradientAccumulator:
    """Sums the gradients of the eligible weights over any number of backward calls.

    While the context is open, only the eligible weights require gradients. Each gradient is added
    to its sum and freed during backward, so besides the sums there is one weight's gradient at a
    time. The gradient of a quantised weight, that of the dequantised one, is added to its sum by
    rows, so neither it nor the dequantised weight is ever whole. When the context closes,
    ``requires_grad`` and ``grad`` of all parameters are restored.
    The sums remain until they are popped.

    Weights that ZeRO-3 partitions cannot have gradients of their own either. They stay frozen if
    ``tapped`` is set, and dy^T x is added for every call of a linear.

    With a block size, the gradient of each step is summed apart until :meth:`end_step` reduces it
    to the statistics of its blocks. This takes the memory of a second sum.

    >>> with GradientAccumulator(model, modules) as accumulator:
    ...     for batch in batches:
    ...         loss(model, batch).backward()
    >>> for name in accumulator.names:
    ...     gradient = accumulator.pop(name)
    """

    def __init__(
        self,
        model: nn.Module,
        modules: Mapping[str, nn.Module],
        device: torch.device | str | None = None,
        step_block_size: int | None = None,
        *,
        tapped: bool = False,
    ) -> None:
        """Prepares the sums; hooks are set when the context opens. The weights must be whole.

        Args:
            model: The model, whose other parameters are frozen while the context is open.
            modules: The eligible linears of the model by name. A tied weight has the first of its
                names.
            device: The device of the sums, or ``"host"`` for the CPU, which saves memory of the
                accelerator but transfers every gradient; by default each weight's own device.
            step_block_size: The size of the blocks whose gradients of single steps are summed up;
                None for no such statistics.
            tapped: Whether all weights stay frozen.
        """
        self._model = model
        self._device = torch.device("cpu") if device == "host" else device
        self._linears: dict[str, nn.Module] = {}
        self._tapped: list[tuple[str, nn.Module]] = []
        names: dict[int, str] = {}
        for name, module in modules.items():
            weight = module.get_parameter("weight")
            first = names.setdefault(id(weight), name)
            if first == name:
                self._linears[name] = module
            if tapped or is_quantised(module):
                self._tapped.append((first, module))
        self._empty = {name: self._zeros(linear) for name, linear in self._linears.items()}
        self._sums: dict[str, Tensor] = {}
        self._step_block_size = step_block_size
        # The sums that gradients are added to: those of all steps, or of the present step.
        self._open: dict[str, Tensor] = self._sums if step_block_size is None else {}
        self._statistics: dict[str, Tensor] = {}
        self._handles: list[RemovableHandle] = []
        self._before: list[tuple[nn.Parameter, bool, Tensor | None]] = []

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the sums that have not been popped yet, in the given order."""
        return tuple(self._linears)

    @property
    def sums_steps(self) -> bool:
        """Whether the gradients of single steps are summed up, too."""
        return self._step_block_size is not None

    def __enter__(self) -> GradientAccumulator:
        self._before = [(p, p.requires_grad, p.grad) for p in self._model.parameters()]
        for parameter, _, _ in self._before:
            parameter.requires_grad_(False)
        for name, linear in self._tapped:
            self._handles.append(linear.register_forward_hook(partial(self._tap, name)))
        tapped = {name for name, _ in self._tapped}
        for name, linear in self._linears.items():
            if name in tapped:
                continue
            weight = linear.get_parameter("weight")
            weight.grad = None
            weight.requires_grad_(True)
            hook = partial(self._fold, name, is_transposed(linear))
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
        """Returns a sum, (O, I) in fp32, and removes it; zeros if there was no gradient."""
        del self._linears[name]
        empty = self._empty.pop(name)
        total = self._sums.pop(name, None)
        return empty() if total is None else total

    def totals(self, name: str) -> dict[str, Tensor]:
        """The sums of a module at the end of a step, which may be changed in place.

        They are the summed ``gradient``, (O, I) float32, and, with a block size, the statistics of
        single ``steps``, (2, R, C) float64.
        """
        if name not in self._sums:
            self._sums[name] = self._empty[name]()
        gradient = self._sums[name]
        if self._step_block_size is None:
            return {"gradient": gradient}
        if name not in self._statistics:
            self._statistics[name] = step_statistics(gradient, self._step_block_size)
        return {"gradient": gradient, "steps": self._statistics[name]}

    def end_step(self) -> None:
        """Ends a step: adds its gradients and their statistics to the sums over the steps."""
        if self._step_block_size is None:
            return
        for name, gradient in self._open.items():
            found = step_statistics(gradient, self._step_block_size)
            for sums, value in ((self._sums, gradient), (self._statistics, found)):
                sums[name] = sums[name].add_(value) if name in sums else value
        self._open.clear()

    def pop_statistics(self, name: str, total: Tensor) -> Tensor:
        """Returns a module's statistics of single steps, (2, R, C) float64, and removes them.

        Args:
            name: The name of the module.
            total: Its popped sum.

        See :func:`smt_ray.smt.scores.step_statistics`.
        """
        assert self._step_block_size is not None
        if name in self._statistics:
            return self._statistics.pop(name)
        return step_statistics(total, self._step_block_size)  # no step had a gradient: all zero

    def _fold(self, name: str, transposed: bool, parameter: Tensor) -> None:
        assert parameter.grad is not None  # the hook runs after the gradient is accumulated
        gradient = as_dense(parameter.grad, transposed)
        parameter.grad = None
        if name in self._open:
            self._open[name].add_(gradient.to(self._open[name].device))
        else:
            # Nothing else uses the gradient now, so if it is in fp32 it becomes the sum itself.
            self._open[name] = gradient.to(self._device or gradient.device, torch.float32)

    def _zeros(self, linear: nn.Module) -> Callable[[], Tensor]:
        """A function that makes an empty sum, also when the weight has been partitioned."""
        device = self._device or linear.get_parameter("weight").device
        return partial(torch.zeros, linear_shape(linear), dtype=torch.float32, device=device)

    def _tap(self, name: str, linear: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Any:
        """A forward hook of a linear whose weight cannot have a gradient itself."""
        x = inputs[0].detach()
        anchor = torch.zeros((), device=output.device, requires_grad=torch.is_grad_enabled())
        # That of another weight is rounded to the dtype of the computation, as autograd does it.
        dtype = torch.float32 if is_quantised(linear) else output.dtype
        show = partial(self._add, name, dtype)
        return _Tap.apply(output, x, anchor, show)  # type: ignore[no-untyped-call]

    def _add(self, name: str, dtype: torch.dtype, x: Tensor, grad_y: Tensor) -> None:
        """Adds dy^T x to the sum, for x (..., I) and dy (..., O), multiplied in a dtype."""
        if name not in self._open:
            self._open[name] = self._empty[name]()
        total = self._open[name]
        x = x.reshape(-1, x.shape[-1]).to(dtype)
        grad_y = grad_y.reshape(-1, grad_y.shape[-1]).to(dtype)
        for start in range(0, len(total), _ROWS):
            rows = total[start : start + _ROWS]
            outputs = grad_y[:, start : start + _ROWS].t()
            if rows.device == x.device and rows.dtype == dtype:
                rows.addmm_(outputs, x)
            else:
                rows.add_((outputs @ x).to(rows.device))


class _Tap(torch.autograd.Function):
    """The identity of y, which shows the input of a linear and the gradient of y to a function.

    The anchor requires a gradient, so backward reaches y even if nothing before it is trained.
    """

    @staticmethod
    def forward(
        ctx: Any, y: Tensor, x: Tensor, anchor: Tensor, show: Callable[[Tensor, Tensor], None]
    ) -> Tensor:
        ctx.save_for_backward(x)
        ctx.show = show
        return y.view_as(y)

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        ctx.show(x, grad_y)
        return grad_y, None, None, None
