"""The layer of the tuner: a frozen linear, and the blocks of one or more adapters."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from peft.tuners.tuners_utils import (
    BaseTunerLayer,
    _get_in_out_features,
    check_adapters_to_merge,
)
from peft.utils import resolve_quantization_backend
from peft.utils.integrations import gather_params_ctx
from torch import Tensor, nn

from smt_ray.errors import UserError
from smt_ray.smt.grid import BlockGrid
from smt_ray.smt.layers.delta import BlockDelta
from smt_ray.smt.linears import as_dense, is_transposed


class SmtLayer(nn.Module, BaseTunerLayer):
    """A linear of any precision, to whose output adapters add what their blocks change.

    Attributes:
        base_layer: The frozen linear, plain or quantised.
        smt_delta: Adapter name -> its blocks.
    """

    adapter_layer_names = ("smt_delta",)
    other_param_names = ()

    def __init__(self, base_layer: nn.Module) -> None:
        """Wraps a linear, without an adapter yet.

        Args:
            base_layer: A plain linear, or a quantised one that peft can dequantise.
        """
        super().__init__()
        self.base_layer = base_layer
        self.smt_delta = nn.ModuleDict()
        self.quantization_backend = resolve_quantization_backend(base_layer)
        self.merged_adapters: list[str] = []
        self._disable_adapters = False
        self._active_adapter: list[str] = []

    def add_adapter(
        self, adapter_name: str, base_blocks: Tensor, indices: Tensor, dtype: torch.dtype | None
    ) -> None:
        """Adds blocks, with the values of the base weight; an adapter of that name is replaced.

        Args:
            adapter_name: The name of the adapter.
            base_blocks: The base weight's values there, (M, L, L), from :meth:`read_blocks`.
            indices: The block indices (row, col) of the (O, I) weight, (M, 2).
            dtype: The dtype of the blocks; see :class:`~smt_ray.smt.layers.delta.BlockDelta`.
        """
        self.smt_delta[adapter_name] = BlockDelta(base_blocks, indices, self.shape, dtype)

    def delta(self, adapter_name: str) -> BlockDelta:
        """The blocks of an adapter."""
        found = self.smt_delta[adapter_name]
        assert isinstance(found, BlockDelta)
        return found

    @property
    def shape(self) -> tuple[int, int]:
        """The (out_features, in_features) of the weight, also if it is quantised or partitioned."""
        in_features, out_features = _get_in_out_features(self.base_layer)
        assert in_features is not None
        assert out_features is not None
        return out_features, in_features

    def read_blocks(self, indices: Tensor, block_size: int) -> Tensor:
        """The base weight's values at some blocks, (M, L, L).

        A quantised weight is dequantised, and one that ZeRO-3 has partitioned is gathered.

        Args:
            indices: The block indices (row, col), (M, 2).
            block_size: The block size L.

        Raises:
            UserError: Adapters are merged into the weight, or the weight cannot be read.
        """
        if self.merged:
            raise UserError(
                "model", "must have no merged adapters when one is added",
                got=self.merged_adapters, fix="call unmerge_adapter first",
            )  # fmt: skip
        state = getattr(getattr(self.base_layer, "weight", None), "quant_state", None)
        if getattr(state, "packing_format_for_cpu", False):
            raise UserError(
                "model",
                "must get its adapters before it computes in evaluation mode, in which bitsandbytes"
                " packs and rounds 4-bit weights on a CPU",
                fix="load the model again and add the adapter first",
            )
        with gather_params_ctx(list(self.base_layer.parameters())):
            weight = as_dense(self.get_base_weight(), is_transposed(self.base_layer)).detach()
            if weight.shape != self.shape:
                raise UserError(
                    "model", f"must have whole weights, here of shape {self.shape}",
                    got=tuple(weight.shape), fix="add the adapter before the model is sharded",
                )  # fmt: skip
            out_features, in_features = self.shape
            grid = BlockGrid(out_features, in_features, block_size)
            return grid.gather(weight, indices.to(weight.device))

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Maps x (..., I) to (..., O) with the active adapters."""
        if self.disable_adapters and self.merged:
            self.unmerge()
        y: Tensor = self.base_layer(x, *args, **kwargs)
        if self.disable_adapters or self.merged:
            return y
        for name in self.active_adapters:
            if name in self.smt_delta:
                y = self.smt_delta[name](x, y)
        return y

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Writes the blocks of adapters into the base weight.

        Where the blocks of several adapters overlap, their differences are added.

        Args:
            safe_merge: Whether blocks that are not finite are an error.
            adapter_names: The adapters; the active ones by default.

        Raises:
            UserError: The weight is quantised, or blocks are not finite.
        """
        wanted = check_adapters_to_merge(self, adapter_names)
        names = [name for name in wanted if name in self.smt_delta]
        if not names:
            return
        self._check_mergeable(names, safe_merge)
        is_first = not self.merged_adapters
        with gather_params_ctx(list(self.base_layer.parameters())):
            for name in names:
                delta, grid, weight = self._parts(name)
                if is_first and len(names) == 1:
                    new: Tensor = delta.blocks  # exactly, without the rounding of a sum
                else:
                    new = grid.gather(weight, delta.indices) + delta.difference
                grid.scatter_(weight, delta.indices, new.detach())
                self.merged_adapters.append(name)

    def unmerge(self) -> None:
        """Restores the base weight, bit for bit."""
        if not self.merged:
            warnings.warn("Already unmerged. Nothing to do.", stacklevel=2)
            return
        with gather_params_ctx(list(self.base_layer.parameters())):
            while self.merged_adapters:
                delta, grid, weight = self._parts(self.merged_adapters.pop())
                grid.scatter_(weight, delta.indices, delta.base_blocks)

    def get_delta_weight(self, adapter: str) -> Tensor:
        """What an adapter adds to the (O, I) weight, as a dense matrix in the blocks' dtype."""
        delta, grid, _ = self._parts(adapter)
        dense = delta.difference.new_zeros(grid.out_features, grid.in_features)
        grid.scatter_(dense, delta.indices, delta.difference.detach())
        return dense

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:
        """False: blocks have no low rank."""
        return False

    def __repr__(self) -> str:
        return "smt." + super().__repr__()

    def _parts(self, adapter: str) -> tuple[BlockDelta, BlockGrid, Tensor]:
        """The blocks of an adapter, their grid, and the base weight, (O, I)."""
        delta = self.delta(adapter)
        weight = as_dense(self.get_base_weight(), is_transposed(self.base_layer))
        return delta, delta.layout.grid, weight

    def _check_mergeable(self, names: list[str], safe_merge: bool) -> None:
        if self.quantization_backend is not None:
            raise UserError(
                "model",
                "must have weights in full precision when adapters are merged",
                got=type(self.base_layer).__name__,
                fix="load the base model without quantization_config, put the adapter on it with"
                " PeftModel.from_pretrained, and merge there",
            )
        for name in names if safe_merge else ():
            if not bool(torch.isfinite(self.delta(name).blocks).all()):
                raise UserError(f"adapter {name}", "must be finite to be merged")
