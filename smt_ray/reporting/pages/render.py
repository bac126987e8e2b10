"""Pages: each is one file that needs nothing else, made from the templates beside this module.

Everything that a template shows is escaped, so text written by a model stays text.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from smt_ray.reporting.text.run import format_seconds

if TYPE_CHECKING:
    from markupsafe import Markup


def render_page(template: str, **contents: Any) -> str:
    """The page as HTML, from a file in ``templates/``; see :func:`drawing` for SVG."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("smt_ray.reporting.pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    numbers = {"count": "{:,}".format, "percent": "{:.1%}".format}
    environment.filters |= {**numbers, "seconds": format_seconds}
    return environment.get_template(template).render(**contents)


def drawing(svg: str | None) -> Markup | None:
    """An SVG chart of this package, which the page shows without escaping it."""
    from markupsafe import Markup

    return None if svg is None else Markup(svg)


def moment(ms: int | None) -> str | None:
    """A time for people, from milliseconds since the epoch."""
    return None if ms is None else f"{datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%d %H:%M} UTC"
