"""Predictions as JSON lines: the text of ``generate/<task>.jsonl`` and ``likelihood/<task>.jsonl``.

Only a line feed ends a line. Generated texts may hold other characters that end lines in Unicode,
such as U+2028, and JSON leaves those as they are.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from smt_ray.documents.base import Document
from smt_ray.errors import UserError

_FIX = "delete the folder of this stage; the next run evaluates again"


class Prediction(Document):
    """A model's answer to one row."""

    index: int
    """The position of the row in its task."""
    prompt: str
    output: str
    """The generated text, or the most likely candidate."""
    extracted: str | None
    """The answer that was read from the output; None if none could be read."""
    expected: str
    correct: bool
    has_corrected: bool = False
    """Whether the output was also read by the task's corrected rule."""
    corrected: str | None = None
    """The answer by the corrected rule."""
    scores: dict[str, float] | None = None
    """Candidate -> mean log-likelihood in nats, by the likelihood protocol."""
    num_prompt_tokens: int = 0
    num_new_tokens: int = 0
    num_candidate_tokens: int = 0


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
    except (ValueError, RecursionError) as error:
        raise UserError(place, f"is not JSON ({error})", got=line[:200], fix=_FIX) from None
    return Prediction.from_json(value, place=place, fix=_FIX)
