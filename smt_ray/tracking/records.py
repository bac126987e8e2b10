"""Records of metrics, in the form that is written to ``metrics.jsonl`` and sent to MLflow.

A record has its own time. Sending it again therefore changes nothing, since MLflow keeps one row
for each (key, timestamp, step, value).
"""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Mapping
from typing import SupportsFloat

from smt_ray.documents.run import Record
from smt_ray.errors import UserError

_NOT_A_RECORD = (
    ArithmeticError, AttributeError, KeyError, RecursionError, TypeError, ValueError
)  # fmt: skip


def make_record(
    step: int, metrics: Mapping[str, SupportsFloat], *, time_ms: int | None = None
) -> Record:
    """Makes a record, by default of now; values may be tensors or numpy scalars."""
    now = time.time_ns() // 1_000_000 if time_ms is None else int(time_ms)
    values = {name: float(value) for name, value in metrics.items()}
    return {"time_ms": now, "step": int(step), "metrics": values}


def encode_record(record: Record) -> str:
    """One line of JSON, without its newline.

    JSON has neither NaN nor infinity, so they are written as ``"nan"``, ``"inf"`` and ``"-inf"``.
    """
    metrics = {
        name: value if math.isfinite(value) else str(value)
        for name, value in record["metrics"].items()
    }
    return json.dumps({**record, "metrics": metrics}, allow_nan=False)


def decode_record(line: str) -> Record:
    """Reads a line that :func:`encode_record` made.

    Raises:
        UserError: The line is not a record.
    """
    try:
        raw = json.loads(line)
        return make_record(raw["step"], raw["metrics"], time_ms=raw["time_ms"])
    except _NOT_A_RECORD as error:
        raise UserError(
            "metrics.jsonl",
            "each line must be a JSON object with time_ms, step and metrics",
            got=line[:80],
            fix="remove the line or restore the file",
        ) from error


def parse_records(text: str) -> list[Record]:
    """Reads the text of a ``metrics.jsonl``.

    A writer that is killed leaves a last line without a newline, which is dropped if it is not
    whole. Any other bad line is an error.

    Raises:
        UserError: A finished line is not a record.
    """
    *finished, tail = text.split("\n")
    records = [decode_record(line) for line in finished if line.strip()]
    if tail.strip():
        with contextlib.suppress(UserError):
            records.append(decode_record(tail))
    return records
