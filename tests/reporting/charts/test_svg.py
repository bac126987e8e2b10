"""Claims about charts inside a page."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from smt_ray.reporting.charts.svg import ACCURACY_SERIES, accuracy_chart, curves_chart
from smt_ray.tracking.records import make_record

RECORDS = [make_record(i, {"train/loss": 1 / i}, time_ms=0) for i in range(1, 50)]
RECORDS += [make_record(i, {"validation/loss": 2 / i}, time_ms=0) for i in (20, 40)]
ROWS = {
    "boolq": {"majority": (0.6, 0.6, 0.6), "base": (0.5, 0.4, 0.6), "tuned": (0.7, 0.6, 0.8)},
    "cost < $1 & $2": {"base": (0.0, 0.0, 0.1), "tuned": (1.0, 0.9, 1.0)},
}


@pytest.fixture(scope="module")
def curves() -> str:
    return curves_chart(RECORDS, "loss")


def texts(svg: str) -> list[str]:
    return [e.text or "" for e in ElementTree.fromstring(svg).iter() if e.tag.endswith("}text")]


def test_text_in_a_chart_is_text_and_axes_name_their_units(curves: str) -> None:
    found = texts(curves)
    assert {"optimizer step", "loss per supervised token (nats)", "validation"} <= set(found)
    found = texts(accuracy_chart(ROWS, "accuracy"))
    assert {"accuracy: correct answers (%)", "boolq", "cost < $1 & $2"} <= set(found)
    assert {ACCURACY_SERIES[who].label for who in ("majority", "base", "tuned")} <= set(found)
    assert ACCURACY_SERIES["base_likelihood"].label not in found


def test_points_are_drawn_at_their_accuracies() -> None:
    svg = accuracy_chart({"boolq": {"tuned": (0.75, 0.5, 1.0)}}, "one")
    uses = re.findall(r'<use [^>]*x="([\d.]+)"[^>]*>', svg)
    ticks = {0: float(uses[0]), 100: float(uses[5])}  # 0, 20, ..., 100
    expected = ticks[0] + 0.75 * (ticks[100] - ticks[0])
    assert min(abs(float(x) - expected) for x in uses) < 0.01


def test_series_differ_in_marker_or_filling_and_in_colour() -> None:
    series = ACCURACY_SERIES.values()
    assert len({(how.marker, how.filled) for how in series}) == len(series)
    assert len({how.colour for how in series}) == len(series)


def test_every_id_begins_with_the_name_of_the_chart_and_is_used(curves: str) -> None:
    ids = re.findall(r' id="([^"]+)"', curves)
    used = re.findall(r'(?:href="|url\()#([^")]+)', curves)
    assert set(ids) == set(used)
    assert len(ids) == len(set(ids))
    assert all(own.startswith("loss-") for own in ids)
    assert curves_chart(RECORDS, "other").count(' id="other-') == len(ids)


def test_a_chart_has_no_size_and_no_style_sheet_of_its_own(curves: str) -> None:
    root = ElementTree.fromstring(curves)
    assert root.get("viewBox")
    assert root.get("width") is None
    assert "<style" not in curves
    assert (root.get("role"), bool(root.get("aria-label"))) == ("img", True)
