"""Pages: one file each that needs nothing else, from the templates beside this one.

Everything that a template is given is escaped: what a model wrote is text, whatever it wrote.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from smt_ray.reporting.text.run import format_seconds


def render_page(template: str, **contents: Any) -> str:
    """The page as HTML.

    Args:
        template: A file in ``templates/``.
        contents: What it shows; drawings of ours are given as ``markupsafe.Markup``.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("smt_ray.reporting.pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"count": "{:,}".format, "percent": _percent, "seconds": format_seconds}
    return environment.get_template(template).render(**contents)


def drawing(svg: str | None) -> Any:
    """A drawing of ours, which the page takes as it is."""
    from markupsafe import Markup

    return None if svg is None else Markup(svg)


def moment(ms: int | None) -> str | None:
    """A time for people, from milliseconds since the epoch."""
    return None if ms is None else f"{datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%d %H:%M} UTC"


def _percent(share: float) -> str:
    return f"{share:.1%}"
