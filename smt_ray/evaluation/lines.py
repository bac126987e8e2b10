"""Predictions as JSON lines: the text of ``generate/<task>.jsonl`` and ``likelihood/<task>.jsonl``.

Only a line feed ends a line. Generated texts may hold other characters that end lines in Unicode,
such as U+2028, and JSON leaves those as they are.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from smt_ray.documents.prediction import Prediction
from smt_ray.errors import UserError

_FIX = "delete the folder of this stage; the next run evaluates again"


def to_lines(predictions: Iterable[Prediction]) -> str:
    """One JSON object a line; fields that have their default value are left out."""
    return "".join(f"{p.model_dump_json(exclude_defaults=True)}\n" for p in predictions)


def from_lines(text: str, place: str) -> list[Prediction]:
    """Reads the lines that :func:`to_lines` wrote.

    Args:
        text: The lines.
        place: The name of their file, for the error.

    Raises:
        UserError: A line is not a prediction.
    """
    lines = text.removesuffix("\n").split("\n") if text else []
    return [_read_line(line, f"{place}, line {number}") for number, line in enumerate(lines, 1)]


def _read_line(line: str, place: str) -> Prediction:
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(place, f"is not JSON ({error})", got=line[:200], fix=_FIX) from None
    return Prediction.from_json(value, place=place, fix=_FIX)
