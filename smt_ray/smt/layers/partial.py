"""A linear layer of which some values of the weight are trained, wherever they are."""

from __future__ import annotations

import warnings
from functools import partial
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smt_ray.smt.layers.functional import SparseLinearFunction
from smt_ray.smt.layers.kept_input import KeptInput
from smt_ray.smt.layers.layout import Layout
from smt_ray.smt.layers.sharded import is_dtensor, is_whole, not_gathered
from smt_ray.smt.layers.weight_state import WeightState
from smt_ray.smt.linears import Shell, as_dense


class PartialLinear(nn.Module):
    """A linear layer of which some values of the weight are trained, in place.

    The dense ``weight`` holds the current values, so forward is the dense product. An optimizer
    only gets ``blocks``. Before a forward and before the state is saved, they are written into the
    weight if it may lack them: always while they are trained, and frozen ones after a change
    (:class:`~smt_ray.smt.layers.weight_state.WeightState`). So the layer also works with optimizers
    that write through ``.data``, and where FSDP or ZeRO-3 gathers the weight for each use.

    GPT-2's linear stores its weight transposed. The layer keeps that form, and its indices are
    those of the stored weight. So states are written and read, and shards are filled, without
    knowing of it. Selections and adapters speak of (O, I) weights only.

    A state that has ``weight`` and no ``blocks``, as a plain model saves, can be loaded too. Its
    blocks are then those of the weight.

    Attributes:
        weight: The frozen weight, (O, I), or (I, O) if it is transposed, which holds the values.
        bias: The frozen bias, (O,), or None.
        blocks: The trained values, on the weight's device. Their shape is that of the layout: (M,
            L, L) for square blocks, (k,) for single elements. The weight gets them rounded to its
            dtype.
        indices: Their places in the stored weight, a buffer, which is saved with the state and
            compared when a state is loaded.
        layout: The same places as the layout describes them.
        original_blocks: The values before training, on the CPU and in the weight's dtype; not a
            buffer.
        kept_input: The part of the input that is kept for backward; :meth:`share_input` sets it.
    """

    weight: Tensor
    bias: Tensor | None
    indices: Tensor

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        layout: Layout,
        shell: Shell,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Freezes a weight and a bias, and makes the trained values.

        Args:
            weight: The dense weight, a Parameter (O, I) or (I, O), which is not copied.
            bias: The bias, (O,), or None.
            layout: The places of the values in that weight.
            shell: The linear that the layer becomes again.
            dtype: The dtype of the values. By default it is float32, or the weight's if that is
                wider. An update at a usual learning rate is lost in the rounding of bfloat16.
        """
        super().__init__()
        self._shell, self.layout = shell, layout
        self.out_features, self.in_features = as_dense(weight, layout.transposed).shape
        self.weight = weight.requires_grad_(False)
        self.bias = None if bias is None else bias.requires_grad_(False)
        self.register_buffer("indices", layout.make_indices().to(weight.device))
        blocks = layout.gather(weight.detach(), self.indices)
        self.original_blocks = blocks.clone() if blocks.is_meta else blocks.to("cpu", copy=True)
        self.blocks = nn.Parameter(
            blocks.to(dtype or torch.promote_types(blocks.dtype, torch.float32))
        )
        self.share_input(layout.make_kept_input())
        self._state = WeightState(self.weight, self.blocks)

    @property
    def transposed(self) -> bool:
        """Whether the weight is stored as (I, O)."""
        return self.layout.transposed

    def forward(self, x: Tensor) -> Tensor:
        """Maps x (..., I) to (..., O)."""
        is_managed = self._state.is_managed(self.weight)
        # Blocks that are trained are always written, as an optimizer may leave no trace in them.
        if (
            self.blocks.requires_grad
            or is_managed
            or self._state.has_changed(self.weight, self.blocks)
        ):
            if is_dtensor(self.weight):
                raise not_gathered(self.weight)
            self._write(self.blocks)
            self._state.mark_written(self.weight, self.blocks)
        recording = torch.is_grad_enabled() and (x.requires_grad or self.blocks.requires_grad)
        if not recording:
            return F.linear(x, as_dense(self.weight, self.transposed), self.bias)
        y: Tensor = SparseLinearFunction.apply(  # type: ignore[no-untyped-call]
            x.reshape(-1, self.in_features),
            self.weight,
            self.bias,
            self.blocks,
            self.indices,
            self.layout,
            partial(self.kept_input.of, x),
            self._starts,
            is_managed,
        )
        return y.view(*x.shape[:-1], self.out_features)

    def share_input(self, kept_input: KeptInput) -> None:
        """Makes layers with the same input share what they keep of it.

        Args:
            kept_input: The shared object, which has the columns of this layer's blocks too.
        """
        self.kept_input = kept_input
        self._starts = self.layout.starts(kept_input)

    def refresh(self) -> None:
        """Writes the blocks into the weight, without autograd.

        A weight that is sharded as a ``DTensor`` (FSDP2) gets them in every shard, so all processes
        must call it. A weight that ZeRO-3 has partitioned cannot get them until it is gathered, and
        is left as it is.
        """
        if is_dtensor(self.weight) or is_whole(self.weight, self.layout.stored_shape):
            self._write(self.blocks)
        self._state.mark_written(self.weight, self.blocks)

    def merge(self) -> nn.Module:
        """The tuned linear, of the original class; this layer cannot be used afterwards.

        Raises:
            UserError: ZeRO-3 has partitioned the weight.
        """
        self._write(self.blocks)
        return self._as_linear()

    def unmerge(self) -> nn.Module:
        """The original linear, bit for bit; this layer cannot be used afterwards.

        Raises:
            UserError: ZeRO-3 has partitioned the weight.
        """
        self._write(self.original_blocks.to(self.weight.device))
        return self._as_linear()

    def extra_repr(self) -> str:
        """The text that ``print(model)`` shows."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"bias={self.bias is not None}, num_trained={self.blocks.numel()}"
        )

    def _write(self, blocks: Tensor) -> None:
        if is_dtensor(self.weight):
            self.layout.scatter_shard_(self.weight, self.indices, blocks)
        elif is_whole(self.weight, self.layout.stored_shape):
            self.layout.scatter_(self.weight.data, self.indices, blocks.data)
        else:
            raise not_gathered(self.weight)

    def _as_linear(self) -> nn.Module:
        return self._shell.fill(self.weight, self.bias).train(self.training)

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        # The layer itself is moved (to, half, share_memory), and the weight with the blocks in it.
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._state.claim(self.weight)
        return self

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._state.claim(self.weight)  # a copy has a weight of its own

    def _save_to_state_dict(self, *args: Any, **kwargs: Any) -> None:
        # The shards of a DTensor are only written if something changed, as all processes take part.
        if not is_dtensor(self.weight) or self._state.has_changed(self.weight, self.blocks):
            self.refresh()
        super()._save_to_state_dict(*args, **kwargs)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        # Loading blocks to other places than those they were trained at would be a silent error.
        stored = state_dict.get(f"{prefix}indices")
        if stored is not None and stored.tolist() != self.layout.make_indices().tolist():
            error_messages: list[str] = args[-1]
            error_messages.append(
                f"{prefix}indices: the state belongs to another selection of blocks"
            )
            return
        keys = [prefix + name for name in ("weight", "blocks", "indices")]
        is_plain = keys[0] in state_dict and not any(key in state_dict for key in keys[1:])
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        self._state.claim(self.weight)
        if is_plain:
            self._take_blocks()
            missing_keys: list[str] = args[2]
            missing_keys[:] = [key for key in missing_keys if key not in keys]

    def _take_blocks(self) -> None:
        """Sets the blocks to the values that the weight has at their places."""
        if not is_whole(self.weight, self.layout.stored_shape) or is_dtensor(self.blocks):
            raise not_gathered(self.weight)
        narrow = self.weight.dtype
        if torch.finfo(narrow).bits < torch.finfo(self.blocks.dtype).bits:
            warnings.warn(
                f"Blocks in {self.blocks.dtype} are read from weights in {narrow}, which lack the"
                " updates below its resolution. To resume a training exactly, load the state_dict"
                " of the model with sparse layers, or its adapter.",
                stacklevel=2,
            )
        self.blocks.data.copy_(self.layout.gather(self.weight.detach(), self.indices))
        self._state.mark_written(self.weight, self.blocks)
