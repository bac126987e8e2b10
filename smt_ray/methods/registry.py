"""Methods by their config name."""

from __future__ import annotations

from pathlib import Path

from smt_ray.methods.protocol import Method
from smt_ray.methods.smt import SmtMethod
from smt_ray.smt.selection import Selection


def make_method(name: str, selection: Path | None = None) -> Method:
    """The method of a config.

    Args:
        name: The config's ``method``.
        selection: The selection file, for training with smt.
    """
    assert name == "smt", name  # the config allows nothing else
    return SmtMethod(None if selection is None else Selection.load(selection))
