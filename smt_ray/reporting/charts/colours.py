"""Colours of the pictures."""

from __future__ import annotations

from typing import NamedTuple

MAP = "YlGnBu"
"""The colour map of heat maps, by its name in matplotlib.

Its order is visible to colour-blind readers and in grey. Light colours are low values.
"""

# The colours of Okabe and Ito, which colour-blind readers can tell apart.
_SERIES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


class Colour(NamedTuple):
    """A colour for style sheets.

    Attributes:
        fill: The colour itself, such as ``#ffffd9``.
        ink: The colour of text on it: black or white, whichever has more contrast.
    """

    fill: str
    ink: str


def map_colour(value: float) -> Colour:
    """The colour of a value in [0, 1] on a heat map."""
    from matplotlib import colormaps

    red, green, blue, _ = colormaps[MAP](value)
    fill = "#" + "".join(f"{round(255 * part):02x}" for part in (red, green, blue))
    return Colour(fill, _ink(red, green, blue))


def series_colour(index: int) -> Colour:
    """The colour of a series by its number; colours repeat after the last one."""
    fill = _SERIES[index % len(_SERIES)]
    return Colour(fill, _ink(*(int(fill[i : i + 2], 16) / 255 for i in (1, 3, 5))))


def _ink(red: float, green: float, blue: float) -> str:
    linear = [
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (red, green, blue)
    ]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    # At this luminance, black and white have the same contrast by WCAG 2.
    return "#ffffff" if luminance < 0.179 else "#111111"
