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
_CUT = "The rest is among the artifacts."
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


def config_params(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration as parameters, without what a run's page says by itself.

    A name that differs from run to run would be the first axis of every comparison.
    """
    said = ("name", "storage", "run.storage")
    return {key: value for key, value in flatten(config).items() if key not in said}


def as_description(markdown: str) -> str:
    """Markdown as the tag that a run's page shows: without its title, which stands above already,
    and pictures, which it would not find.

    Where a tag does not hold all of it, whole paragraphs and tables are left out at the end.
    """
    parts = [part for part in markdown.strip().split("\n\n") if not part.startswith(("# ", "!["))]
    if sum(len(part) + 2 for part in parts) <= MAX_TAG_CHARS:
        return "\n\n".join(parts)
    kept, room = [], MAX_TAG_CHARS - len(_CUT)
    for part in parts:
        room -= len(part) + 2
        if room < 0:
            break
        kept.append(part)
    while kept and kept[-1].startswith("#"):  # the heading of what is left out
        kept.pop()
    return "\n\n".join([*kept, _CUT])


def shorten(text: str, max_chars: int) -> str:
    """Text of at most ``max_chars`` characters; a cut one says how long it was."""
    if len(text) <= max_chars:
        return text
    note = f"... (cut, {len(text)} characters)"
    return text[: max_chars - len(note)] + note
