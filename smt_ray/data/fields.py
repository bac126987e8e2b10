"""The values of a row's fields: texts, JSON values, and errors that name file, row and field."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from smt_ray.errors import UserError


class UnknownKeysError(Exception):
    """A row has keys that no form knows, which is an error even where bad rows are left out."""

    def __init__(self, place: str, keys: Sequence[str]) -> None:
        self.place, self.keys = place, keys

    def for_user(self) -> UserError:
        """The error for the user."""
        keys = ", ".join(self.keys)
        return UserError(
            self.place,
            f"has keys that no form of rows knows: {keys}",
            fix=f"leave them out with data.ignore_columns: [{keys}], or name them in columns of the"
            " source",
        )


def bad_row(place: str, rule: str, got: Any, fix: str = "mend the row") -> UserError:
    """The error for a row that cannot be used, and that may be left out."""
    return UserError(place, rule, got=got, fix=f"{fix}, or set data.bad_rows to skip")


def text(value: Any, place: str) -> str:
    """The text of a field; numbers are written as in JSON.

    Args:
        value: The value.
        place: The place of the field, for errors.

    Raises:
        UserError: The value is neither a text nor a number, or it is not valid Unicode.
    """
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return json.dumps(value)
    if not isinstance(value, str):
        raise bad_row(place, "must be a string", value, "write the value as text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        rule = f"must be valid Unicode, and character {error.start} is half of a surrogate pair"
        raise bad_row(place, rule, value) from None
    return value


def some_text(value: Any, place: str) -> str:
    """A text that is not blank; see :func:`text`.

    Raises:
        UserError: It is blank, too.
    """
    found = text(value, place)
    if not found.strip():
        raise bad_row(place, "must not be empty", found, "give it a text")
    return found


def parsed(value: Any) -> Any:
    """A JSON value, also if it is stored as a JSON text, as in tables; else the text as it is."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        return value
