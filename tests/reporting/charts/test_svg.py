"""Claims about charts within a page."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from smt_ray.reporting.charts.svg import WHO, accuracy_chart, curves_chart

RECORDS = [{"step": i, "metrics": {"train/loss": 1 / i}} for i in range(1, 50)]
RECORDS += [{"step": i, "metrics": {"validation/loss": 2 / i}} for i in (20, 40)]
ROWS = {
    "boolq": {"majority": (0.6, 0.6, 0.6), "base": (0.5, 0.4, 0.6), "tuned": (0.7, 0.6, 0.8)},
    "cost < $1 & $2": {"base": (0.0, 0.0, 0.1), "tuned": (1.0, 0.9, 1.0)},
}


def texts(svg: str) -> list[str]:
    return [e.text or "" for e in ElementTree.fromstring(svg).iter() if e.tag.endswith("}text")]


def test_text_in_a_chart_is_text_and_axes_name_their_units() -> None:
    found = texts(curves_chart(RECORDS, "loss"))
    assert {"optimizer step", "loss per supervised token (nats)", "validation"} <= set(found)
    found = texts(accuracy_chart(ROWS, "accuracy"))
    assert {"accuracy: correct answers (%)", "boolq", "cost < $1 & $2"} <= set(found)
    assert {WHO[who].label for who in ("majority", "base", "tuned")} <= set(found)
    assert WHO["base_likelihood"].label not in found


def test_points_lie_where_the_accuracies_are() -> None:
    svg = accuracy_chart({"boolq": {"tuned": (0.75, 0.5, 1.0)}}, "one")
    uses = re.findall(r'<use [^>]*x="([\d.]+)"[^>]*>', svg)
    ticks = {0: float(uses[0]), 100: float(uses[5])}  # 0, 20, ..., 100
    expected = ticks[0] + 0.75 * (ticks[100] - ticks[0])
    assert min(abs(float(x) - expected) for x in uses) < 0.01


def test_series_differ_in_marker_or_filling_and_in_colour() -> None:
    assert len({(how.marker, how.filled) for how in WHO.values()}) == len(WHO)
    assert len({how.colour for how in WHO.values()}) == len(WHO)


@pytest.mark.parametrize("name", ["one", "two"])
def test_ids_bear_the_charts_name_and_every_one_is_needed(name: str) -> None:
    svg = curves_chart(RECORDS, name)
    ids = re.findall(r' id="([^"]+)"', svg)
    used = re.findall(r'(?:href="|url\()#([^")]+)', svg)
    assert set(ids) == set(used)
    assert len(ids) == len(set(ids))
    assert all(own.startswith(f"{name}-") for own in ids)


def test_a_chart_takes_its_size_from_the_page_and_leaves_the_pages_style_alone() -> None:
    svg = curves_chart(RECORDS, "loss")
    root = ElementTree.fromstring(svg)
    assert root.get("viewBox")
    assert root.get("width") is None
    assert "<style" not in svg
    assert (root.get("role"), bool(root.get("aria-label"))) == ("img", True)
