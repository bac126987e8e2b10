"""How many bytes of tensors are alive, and their peak: of a real run, or of one on fake tensors."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_FRESH = torch.ops.aten.lift_fresh.default  # how torch.tensor and from_numpy show what they made


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of tensors while the context is open, above those alive when it opened.

    It sees the result of every operation that reaches torch's dispatcher, inside backward and
    custom autograd functions too, and counts a storage once however many views it has. A storage
    that was there before is not counted; where it dies meanwhile, what it held is taken off.
    What a kernel allocates and frees within one call is not seen, nor what is no tensor, and
    tensors on the meta device hold nothing.

    On CUDA ask ``torch.cuda.max_memory_allocated`` instead: its backward runs in other threads.

    >>> with LiveBytes() as live:
    ...     loss(batch).backward()
    >>> live.peak

    Attributes:
        now: Bytes alive, above those at entry; below zero where more was freed than made.
        peak: The highest ``now`` since entry, or since :meth:`reset_peak`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = 0
        self.peak = 0
        # id of a storage -> (reference that tells its end; bytes, None where they do not count).
        # The object stays the same one for as long as the storage lives.
        self._known: dict[int, tuple[weakref.ref[Any], int | None]] = {}
        self._open = False

    def __enter__(self) -> LiveBytes:
        self.now = self.peak = 0
        self._known.clear()
        gc.collect()  # else the end of what is garbage already would be taken off meanwhile
        for storage in _storages(o for o in gc.get_objects() if issubclass(type(o), torch.Tensor)):
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
        """Begins a new peak at what is alive now."""
        self.peak = self.now

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Runs one operation and counts what it made."""
        kwargs = kwargs or {}
        if func is not _FRESH:
            for storage in _storages(tree_leaves((args, kwargs))):
                if id(storage) not in self._known:
                    # Held by nobody but a graph since before, or made in a library's own thread:
                    # neither counted nor taken off.
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
    """The storages of the tensors among some values: strided ones alone, that hold bytes."""
    return [
        value.untyped_storage()
        for value in values
        if isinstance(value, torch.Tensor)
        and value.layout is torch.strided
        and value.device.type != "meta"  # a fake tensor has the device that it stands for
    ]
