"""Pages: one file each that needs nothing else, from the templates beside this one.

Everything that a template is given is escaped: what a model wrote is text, whatever it wrote.
"""

from __future__ import annotations

from typing import Any

from smt_ray.reporting.table import format_seconds


def render_page(template: str, **contents: Any) -> str:
    """The page as HTML.

    Args:
        template: A file in ``templates/``.
        contents: What it shows; drawings of ours are given as ``markupsafe.Markup``.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("smt_ray.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"count": "{:,}".format, "percent": _percent, "seconds": format_seconds}
    return environment.get_template(template).render(**contents)


def _percent(share: float) -> str:
    return f"{share:.1%}"
