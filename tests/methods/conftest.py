"""Tests of LoRA also run with DoRA."""

from __future__ import annotations

import pytest


@pytest.fixture(params=["lora", "dora"])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)
