"""Imports of large libraries, kept from Python's garbage collector.

torch, transformers and deepspeed bring a million objects that stay as long as their process. Python
would look through them for cyclic garbage again and again while they are made, in every full
collection afterwards, and once more when the process ends: a quarter of the seconds of a process
that does little else than start and end.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def large_imports() -> Iterator[None]:
    """Imports in its body are not interrupted, and what they made is not looked at again.

    For a process of ours, before it has anything that it may want to be rid of: cycles of objects
    that are there when the body ends are never freed. A body that finds everything imported already
    changes nothing.
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
