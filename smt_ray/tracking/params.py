"""Names and values in the form that MLflow accepts: flat keys, and texts of limited length.

The functions are pure, and the limits are those of MLflow's own validation.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from smt_ray.config.fields import flatten

MAX_KEY_CHARS = 250
MAX_PARAM_CHARS = 6000
MAX_TAG_CHARS = 8000
_CUT = "The rest is among the artifacts."
_SHOWN_TAGS = {
    "user": "mlflow.user",
    "source": "mlflow.source.name",
    "description": "mlflow.note.content",
}
_FORBIDDEN = re.compile(r"[^\w\-. :/]", flags=re.ASCII)


def clean_key(name: str) -> str:
    """A name that MLflow accepts: forbidden characters become ``_``, and a long name is cut."""
    return _FORBIDDEN.sub("_", name)[:MAX_KEY_CHARS]


def tag_key(name: str) -> str:
    """The name of a tag in MLflow, whose pages show some tags in places of their own."""
    return clean_key(_SHOWN_TAGS.get(name, name))


def param_value(value: Any) -> str:
    """A value as the text of a parameter."""
    return shorten(as_text(value), MAX_PARAM_CHARS)


def tag_value(value: Any) -> str:
    """A value as the text of a tag."""
    return shorten(as_text(value), MAX_TAG_CHARS)


def as_text(value: Any) -> str:
    """The value of a parameter as text: a string as it is, everything else as JSON."""
    if isinstance(value, str):
        return value
    return json.dumps(value, sort_keys=True, default=str)


def config_params(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration as flat parameters, without the names of the run and of its storage.

    MLflow shows both on the page of the run. As parameters, they would differ between all runs of a
    comparison and hide what was compared.
    """
    left_out = ("name", "storage", "run.storage")
    return {key: value for key, value in flatten(config).items() if key not in left_out}


def as_description(markdown: str) -> str:
    """Markdown as the description of a run, which MLflow keeps as a tag.

    The title is left out because the page has one, and pictures because MLflow would not find them.
    If the text is too long for a tag, whole paragraphs and tables at its end are left out.
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
    while kept and kept[-1].startswith("#"):  # the heading of a paragraph that is left out
        kept.pop()
    return "\n\n".join([*kept, _CUT])


def shorten(text: str, max_chars: int) -> str:
    """A text of at most ``max_chars`` characters; if it is cut, it says how long it was."""
    if len(text) <= max_chars:
        return text
    note = f"... (cut, {len(text)} characters)"
    return text[: max_chars - len(note)] + note
