"""A counter of the bytes of live tensors, in runs on real or on fake tensors."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_FRESH = torch.ops.aten.lift_fresh.default  # called on the results of torch.tensor and from_numpy


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of tensors that are made while the context is open.

    It sees the result of every operation of torch's dispatcher, also in the backward pass and in
    custom autograd functions, and counts a storage once even if it has several views. Storages from
    before the context are not counted, but their bytes are subtracted if they are freed in it.
    Memory that a kernel allocates and frees within one call is not seen. Tensors on the meta device
    have no bytes.

    On CUDA, use ``torch.cuda.max_memory_allocated`` instead, as the backward pass runs in other
    threads there.

    >>> with LiveBytes() as live:
    ...     loss(batch).backward()
    >>> live.peak

    Args:
        earlier: Whether to look for the storages from before the context, which takes up to a
            second. Without it, their bytes are not subtracted.

    Attributes:
        now: The live bytes, less those at entry; negative if more were freed than made.
        peak: The highest ``now`` since entry, or since :meth:`reset_peak`.
    """

    def __init__(self, *, earlier: bool = True) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._earlier = earlier
        self.now = 0
        self.peak = 0
        # The id of a storage -> a reference that reports its end, and its bytes, or None if they do
        # not count. The id is valid as long as the storage lives.
        self._known: dict[int, tuple[weakref.ref[Any], int | None]] = {}
        self._open = False

    def __enter__(self) -> LiveBytes:
        self.now = self.peak = 0
        self._known.clear()
        if self._earlier:
            gc.collect()  # otherwise the bytes of earlier garbage would be subtracted later
            tensors = (o for o in gc.get_objects() if issubclass(type(o), torch.Tensor))
            for storage in _storages(tensors):
                self._watch(storage, storage.nbytes())
        self._open = True
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        super().__exit__(kind, error, traceback)  # type: ignore[no-untyped-call]
        self._open = False

    def reset_peak(self) -> None:
        """Starts a new peak at the bytes that are live now."""
        self.peak = self.now

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Runs one operation and counts the bytes of its results."""
        kwargs = kwargs or {}
        if func is not _FRESH:
            for storage in _storages(tree_leaves((args, kwargs))):
                if id(storage) not in self._known:
                    # It is from before the context, only an earlier autograd graph held it, or a
                    # thread of a library made it. It is neither counted nor subtracted.
                    self._watch(storage, None)
        result = func(*args, **kwargs)
        for storage in _storages(tree_leaves(result)):
            _, size = self._known.get(id(storage), (None, 0))
            if size is not None and size != storage.nbytes():  # new, or resized in place
                self._watch(storage, storage.nbytes())
                self.now += storage.nbytes() - size
        self.peak = max(self.peak, self.now)
        return result

    def _watch(self, storage: torch.UntypedStorage, size: int | None) -> None:
        key = id(storage)

        def end(_: Any) -> None:
            self._known.pop(key, None)
            if self._open:
                self.now -= size or 0

        self._known[key] = (weakref.ref(storage, end), size)


def _storages(values: Iterable[Any]) -> list[torch.UntypedStorage]:
    """The storages of the strided tensors among some values, without those of meta tensors."""
    return [
        value.untyped_storage()
        for value in values
        if isinstance(value, torch.Tensor)
        and value.layout is torch.strided
        and value.device.type != "meta"  # a fake tensor has the device that it stands for
    ]
