"""The linear layer of which only chosen blocks are trained."""

from __future__ import annotations

import warnings
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smt_ray.smt.grid import BlockGrid
from smt_ray.smt.layers.compiled import compiled_linear
from smt_ray.smt.layers.functional import BlockLayout, SparseLinearFunction
from smt_ray.smt.layers.kept_input import KeptInput
from smt_ray.smt.layers.sharded import is_dtensor, is_whole, not_gathered, write_shard
from smt_ray.smt.layers.weight_state import WeightState
from smt_ray.smt.linears import Shell, as_dense


class SparseLinear(nn.Module):
    """A linear layer of which M blocks of the weight are trained (paper section 3.2, snippet 6).

    The dense ``weight`` holds the current blocks, so forward is the dense product. An optimizer
    only gets ``blocks``. Before a forward and before the state is saved, they are written into the
    weight if it may lack them: always while they are trained, and frozen ones after a change
    (:class:`~smt_ray.smt.layers.weight_state.WeightState`). So the layer also works with optimizers
    that write through ``.data``, and where FSDP or ZeRO-3 gathers the weight for each use.

    GPT-2's linear stores its weight transposed. The layer keeps that form, and its blocks and their
    indices are always those of the stored weight. So states are written and read, and shards are
    filled, without knowing of it. Selections and adapters speak of (O, I) weights only.

    A state that has ``weight`` and no ``blocks``, as a plain model saves, can be loaded too. Its
    blocks are then those of the weight.

    Attributes:
        weight: The frozen weight, (O, I), or (I, O) if it is transposed, which holds the blocks.
        bias: The frozen bias, (O,), or None.
        blocks: The trained blocks, (M, L, L), on the weight's device. The weight gets their values
            rounded to its dtype.
        grid: The grid of the stored weight.
        indices: The block indices (row, col) in that grid, (M, 2) int32. They are a buffer, which
            is saved with the state and compared when a state is loaded.
        layout: The places of the blocks among outputs and inputs, as plain numbers.
        original_blocks: The blocks before training, (M, L, L) on the CPU and in the weight's dtype;
            not a buffer.
        kept_input: The part of the input that is kept for backward; :meth:`share_input` sets it.
    """

    weight: Tensor
    bias: Tensor | None
    indices: Tensor

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        indices: Tensor,
        block_size: int,
        dtype: torch.dtype | None = None,
        shell: Shell | None = None,
    ) -> None:
        """Freezes a weight and a bias, and makes the blocks.

        Args:
            weight: The dense weight, a Parameter (O, I) or (I, O), which is not copied.
            bias: The bias, (O,), or None.
            indices: The distinct block indices (row, col) in the grid of the (O, I) weight, (M, 2)
                integers, on the CPU.
            block_size: The block size L, which divides both dimensions.
            dtype: The dtype of the blocks. By default it is float32, or the weight's if that is
                wider. An update at a usual learning rate is lost in the rounding of bfloat16.
            shell: The linear that the layer becomes again; by default an ``nn.Linear``.
        """
        super().__init__()
        self._shell = shell or Shell.of_linear(*weight.shape)
        transposed = self._shell.transposed
        self.out_features, self.in_features = as_dense(weight, transposed).shape
        dense_grid = BlockGrid(self.out_features, self.in_features, block_size)
        self.layout = BlockLayout.from_indices(dense_grid, indices, transposed=transposed)
        self.grid = self.layout.grid
        self.weight = weight.requires_grad_(False)
        self.bias = None if bias is None else bias.requires_grad_(False)
        stored = torch.tensor(self.layout.stored_indices, dtype=torch.int32, device=weight.device)
        self.register_buffer("indices", stored)
        blocks = self.grid.gather(weight.detach(), self.indices)
        self.original_blocks = blocks.clone() if blocks.is_meta else blocks.to("cpu", copy=True)
        self.blocks = nn.Parameter(
            blocks.to(dtype or torch.promote_types(blocks.dtype, torch.float32))
        )
        self.share_input(KeptInput(self.in_features, block_size, self.layout.cols))
        self._state = WeightState(self.weight, self.blocks)

    @classmethod
    def from_linear(
        cls,
        linear: nn.Module,
        indices: Tensor,
        block_size: int,
        dtype: torch.dtype | None = None,
    ) -> SparseLinear:
        """The sparse layer with the weight and the bias of a linear; see :meth:`__init__`.

        Args:
            linear: A plain linear (:func:`~smt_ray.smt.linears.is_plain_linear`).
            indices: The block indices.
            block_size: The block size L.
            dtype: The dtype of the blocks.
        """
        weight, bias = (getattr(linear, name) for name in ("weight", "bias"))
        layer = cls(weight, bias, indices, block_size, dtype, Shell.of(linear))
        return layer.train(linear.training)

    @property
    def transposed(self) -> bool:
        """Whether the weight is stored as (I, O)."""
        return self.layout.transposed

    @property
    def block_size(self) -> int:
        """The side L of a block in elements."""
        return self.grid.block_size

    def forward(self, x: Tensor) -> Tensor:
        """Maps x (..., I) to (..., O)."""
        if torch.compiler.is_compiling():
            return compiled_linear(
                x, self.weight, self.bias, self.blocks, self.indices, self.layout, self.kept_input
            )
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
        self._starts = [kept_input.start(col) for col in self.layout.cols]

    def refresh(self) -> None:
        """Writes the blocks into the weight, without autograd.

        A weight that is sharded as a ``DTensor`` (FSDP2) gets them in every shard, so all processes
        must call it. A weight that ZeRO-3 has partitioned cannot get them until it is gathered, and
        is left as it is.
        """
        if is_dtensor(self.weight) or is_whole(self.weight, self.grid):
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
            f"bias={self.bias is not None}, block_size={self.block_size}, "
            f"num_blocks={len(self.layout.rows)}"
        )

    def _write(self, blocks: Tensor) -> None:
        if is_dtensor(self.weight):
            write_shard(self.weight, self.indices, blocks, self.grid)
        elif is_whole(self.weight, self.grid):
            self.grid.scatter_(self.weight.data, self.indices, blocks.data)
        else:
            raise not_gathered(self.weight)

    def _as_linear(self) -> nn.Module:
        return self._shell.fill(self.weight, self.bias).train(self.training)

    def _apply(self, fn: Any, recurse: bool = True) -> SparseLinear:
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
        if stored is not None and stored.tolist() != self.layout.stored_indices:
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
        if not is_whole(self.weight, self.grid) or is_dtensor(self.blocks):
            raise not_gathered(self.weight)
        narrow = self.weight.dtype
        if torch.finfo(narrow).bits < torch.finfo(self.blocks.dtype).bits:
            warnings.warn(
                f"Blocks in {self.blocks.dtype} are read from weights in {narrow}, which lack the"
                " updates below its resolution. To resume a training exactly, load the state_dict"
                " of the model with sparse layers, or its adapter.",
                stacklevel=2,
            )
        self.blocks.data.copy_(self.grid.gather(self.weight.detach(), self.indices))
        self._state.mark_written(self.weight, self.blocks)
