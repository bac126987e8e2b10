"""The tests of LoRA are carried out with DoRA, too."""

from __future__ import annotations

import pytest


@pytest.fixture(params=["lora", "dora"])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)
