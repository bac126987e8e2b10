"""Bytes: the peak of live tensors, and the tensors that autograd keeps for the backward."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from types import TracebackType

import torch
from torch import Tensor

from smt_ray.planning.live_bytes import LiveBytes


def peak_bytes(work: Callable[[], object], device: torch.device) -> int:
    """The peak of live tensor bytes during some work, without the bytes that were alive before.

    On the CPU every operation is watched, which slows the work: measure the time separately.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        return torch.cuda.max_memory_allocated(device) - before
    with LiveBytes() as live:
        work()
    return live.peak


def tensor_bytes(tensors: Iterable[Tensor]) -> int:
    """The bytes of the tensors' distinct storages."""
    storages = [tensor.untyped_storage() for tensor in tensors]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


class SavedBytes:
    """Counts the bytes that autograd keeps at the end of a forward: each storage once, no weights.

    Open it around one forward. A storage counts with all its bytes, even if only a part is saved.

    Args:
        held: The tensors that are alive in any case: parameters and buffers.

    Attributes:
        total: The bytes that are kept when the context closes, without tensors that were freed
            before.
    """

    def __init__(self, held: Iterable[Tensor]) -> None:
        self._held = {tensor.untyped_storage().data_ptr() for tensor in held}
        self._saved: weakref.WeakSet[_Saved] = weakref.WeakSet()
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda kept: kept.tensor)
        self.total = 0

    def __enter__(self) -> SavedBytes:
        self._hooks.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._hooks.__exit__(kind, error, traceback)
        storages = [kept.tensor.untyped_storage() for kept in self._saved]
        sizes = {storage.data_ptr(): storage.nbytes() for storage in storages}
        self.total = sum(size for place, size in sizes.items() if place not in self._held)

    def _pack(self, tensor: Tensor) -> _Saved:
        kept = _Saved(tensor)
        self._saved.add(kept)
        return kept


class _Saved:
    """The object that autograd keeps instead of a tensor, for as long as the graph needs it."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor
