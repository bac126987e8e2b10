"""One example, in LLM-Adapters' layout, checked by file, row and field."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from smt_ray.errors import UserError


@dataclass(frozen=True, slots=True)
class Row:
    """An instruction and the text that answers it.

    Attributes:
        instruction: What is asked.
        input: Further context, or "".
        output: The text that training completes the prompt with.
        answer: The short gold answer that evaluation compares with, or "" where a row has none.
        position: Where the row stands in ``data.train``, from 0; no part of what it says.
    """

    instruction: str
    output: str
    input: str = ""
    answer: str = ""
    position: int = field(default=0, compare=False)


def parse_row(record: Any, *, source: str, index: int) -> Row:
    """Reads one record, naming its source, position and field where it is bad.

    Args:
        record: A mapping with ``instruction`` and ``output``, perhaps ``input`` and ``answer``.
        source: The file (or dataset) that the record came from.
        index: Its position there, from 0.

    Raises:
        UserError: The record is no mapping, or a field is missing or is no string.
    """
    place = f"{source}, row {index}"
    if not isinstance(record, dict):
        raise UserError(place, "a row must be an object with instruction and output", got=record)
    for name in ("instruction", "output"):
        if name not in record:
            raise UserError(
                f"{place}, field {name!r}",
                "is missing",
                got=sorted(record),
                fix="give every row instruction and output (input and answer are optional)",
            )
    values: dict[str, str] = {}
    for name in ("instruction", "input", "output", "answer"):
        value = record.get(name)
        if name == "answer" and isinstance(value, (int, float)) and not isinstance(value, bool):
            value = str(value)
        if value is None and name in ("input", "answer"):
            value = ""
        if not isinstance(value, str):
            raise UserError(f"{place}, field {name!r}", "must be a string", got=value)
        values[name] = value
    if not values["instruction"].strip():
        raise UserError(
            f"{place}, field 'instruction'", "must not be empty", got=values["instruction"]
        )
    return Row(**values)
