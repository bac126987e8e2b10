"""Text of others on a terminal: its control characters are shown and not obeyed."""

from __future__ import annotations

import re

# C0 and C1 except for tab and newline, marks that reverse the direction, and lone surrogates.
_CONTROLS = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


def visible(text: str) -> str:
    r"""The text with escapes such as ``\x1b`` in place of control characters."""
    return _CONTROLS.sub(lambda found: ascii(found.group())[1:-1], text)
