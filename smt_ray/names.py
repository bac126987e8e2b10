"""The rule for names that become parts of paths: of runs, comparisons, searches, stages, tasks."""

from __future__ import annotations

import re

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,119}")

NAME_RULE = (
    "must be at most 120 letters, digits, '.', '_' and '-', beginning with a letter or a digit"
)


def is_name(value: str) -> bool:
    """Whether a value can be one part of a path on every file system and object store."""
    return bool(_NAME.fullmatch(value))
