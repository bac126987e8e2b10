"""Imports of large libraries, whose objects Python's garbage collector then skips.

torch, transformers and deepspeed create a million objects that live as long as their process.
Python would search them for cyclic garbage many times during the imports, in every full collection
afterwards, and once more at exit. In a process that does little else than start and end, this takes
a quarter of the time.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def large_imports() -> Iterator[None]:
    """Turns off the collector during imports, and excludes their objects from later collections.

    Use it early in a process of our own, because cycles of objects that exist at the end of the
    body are never freed. If the body imports nothing new, nothing is excluded.
    """
    if not gc.isenabled():
        yield
        return
    num_before = len(sys.modules)
    gc.disable()
    try:
        yield
    finally:
        if len(sys.modules) > num_before:
            gc.freeze()
        gc.enable()
