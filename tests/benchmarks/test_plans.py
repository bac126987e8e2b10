"""The rows of docs/planning.md are those that the planner prints."""

from __future__ import annotations

import pytest

from benchmarks import plans
from benchmarks.measuring import ROOT


@pytest.mark.slow
@pytest.mark.parametrize("case", plans.CASES, ids=lambda case: f"{case[0]}-{case[2]}")
def test_the_page_has_the_rows_of_the_planner(case: tuple[str, str, int]) -> None:
    page = (ROOT / "docs" / "planning.md").read_text(encoding="utf-8")
    assert f"| {' | '.join(plans.row(*case))} |" in page
