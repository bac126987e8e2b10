"""What MLflow takes as names and values: flat keys of few characters, values of bounded length.

Pure functions; the limits are those of MLflow's own validation.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

MAX_KEY_CHARS = 250
MAX_PARAM_CHARS = 6000
MAX_TAG_CHARS = 8000
_FORBIDDEN = re.compile(r"[^\w\-. :/]", flags=re.ASCII)


def clean_key(name: str) -> str:
    """A name that MLflow takes: forbidden characters become ``_``; at most 250 characters."""
    return _FORBIDDEN.sub("_", name)[:MAX_KEY_CHARS]


def as_text(value: Any) -> str:
    """A parameter's value as text: strings as they are, everything else as JSON."""
    if isinstance(value, str):
        return value
    return json.dumps(value, sort_keys=True, default=str)


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one flat one with dotted keys; lists stay whole.

    >>> flatten({"selection": {"budget": 0.0084}, "name": "a"})
    {'selection.budget': 0.0084, 'name': 'a'}
    """
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping) and value:
            flat.update(flatten(value, f"{prefix}{name}."))
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def shorten(text: str, max_chars: int) -> str:
    """Text of at most ``max_chars`` characters; a cut one says how long it was."""
    if len(text) <= max_chars:
        return text
    note = f"... (cut, {len(text)} characters)"
    return text[: max_chars - len(note)] + note
