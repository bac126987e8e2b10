"""Colours of the pictures."""

from __future__ import annotations

from typing import NamedTuple

MAP = "YlGnBu"
"""Matplotlib's name of the colours of maps.

They are ordered for colour-blind eyes and in grey; light is few, so print stays light.
"""

# Okabe and Ito's, apart for colour-blind eyes.
_SERIES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


class Colour(NamedTuple):
    """A colour for style sheets.

    Attributes:
        fill: Such as ``#ffffd9``.
        ink: Of text on it: black or white, whichever has more contrast.
    """

    fill: str
    ink: str


def map_colour(value: float) -> Colour:
    """The maps' colour of a value in [0, 1]."""
    from matplotlib import colormaps

    red, green, blue, _ = colormaps[MAP](value)
    fill = "#" + "".join(f"{round(255 * part):02x}" for part in (red, green, blue))
    return Colour(fill, _ink(red, green, blue))


def series_colour(index: int) -> Colour:
    """The colour of a chart's series by its number; after the last, they begin again."""
    fill = _SERIES[index % len(_SERIES)]
    return Colour(fill, _ink(*(int(fill[i : i + 2], 16) / 255 for i in (1, 3, 5))))


def _ink(red: float, green: float, blue: float) -> str:
    linear = [
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (red, green, blue)
    ]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    # WCAG 2: at this luminance the contrasts with black and with white are equal.
    return "#ffffff" if luminance < 0.179 else "#111111"
