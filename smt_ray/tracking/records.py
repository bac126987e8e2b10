"""The wire form of metrics: written to ``metrics.jsonl`` and sent to MLflow, one and the same.

A record carries its own time, so sending it again changes nothing: MLflow keeps one row for each
(key, timestamp, step, value).
"""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Mapping
from typing import SupportsFloat, TypedDict

from smt_ray.errors import UserError


class Record(TypedDict):
    """Metrics of one moment.

    Attributes:
        time_ms: When, in milliseconds since the epoch.
        step: Optimizer steps done.
        metrics: Values by name, such as ``{"train/loss": 1.2}``.
    """

    time_ms: int
    step: int
    metrics: dict[str, float]


def make_record(
    step: int, metrics: Mapping[str, SupportsFloat], *, time_ms: int | None = None
) -> Record:
    """Make a record of now; values may be tensors or numpy scalars."""
    now = time.time_ns() // 1_000_000 if time_ms is None else int(time_ms)
    values = {name: float(value) for name, value in metrics.items()}
    return {"time_ms": now, "step": int(step), "metrics": values}


def encode_record(record: Record) -> str:
    """One line of JSON, without its newline.

    JSON has no NaN and no infinity: they are written as the strings ``nan``, ``inf``, ``-inf``.
    """
    metrics = {
        name: value if math.isfinite(value) else str(value)
        for name, value in record["metrics"].items()
    }
    return json.dumps({**record, "metrics": metrics}, allow_nan=False)


def decode_record(line: str) -> Record:
    """Read what :func:`encode_record` wrote.

    Raises:
        UserError: The line is no record.
    """
    try:
        raw = json.loads(line)
        return make_record(raw["step"], raw["metrics"], time_ms=raw["time_ms"])
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(
            "metrics.jsonl",
            "each line must be a JSON object with time_ms, step and metrics",
            got=line[:80],
            fix="remove the line or restore the file",
        ) from error


def parse_records(text: str) -> list[Record]:
    """Read the text of a ``metrics.jsonl``.

    A last line without its newline is what a killed writer leaves behind: it is read if it is
    whole and dropped if it is not. Any other bad line is an error.

    Raises:
        UserError: A finished line is no record.
    """
    *finished, tail = text.split("\n")
    records = [decode_record(line) for line in finished if line.strip()]
    if tail.strip():
        with contextlib.suppress(UserError):
            records.append(decode_record(tail))
    return records
