"""Predictions without a model."""

from __future__ import annotations

from typing import Any

from smt_ray.documents.prediction import Prediction


def prediction(
    index: int, extracted: str | None = "a", expected: str = "a", **others: Any
) -> Prediction:
    """A prediction that is correct if it equals what is expected."""
    return Prediction(
        index=index,
        prompt="?",
        output=extracted or "",
        extracted=extracted,
        expected=expected,
        correct=extracted == expected,
        **others,
    )
