"""The only error that users see: bad input, described in one line.

Every mistake of a user is raised as :class:`UserError`. The command line prints it without a
traceback and exits with code 2. Any other exception is a defect of ours and keeps its traceback.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_LONGEST = 200  # characters of a value in a message


class UserError(ValueError):
    """Bad input: the field, the rule it breaks, the value got and the fix.

    Args:
        field: The wrong input: a config key (``selection.block_size``), a file, or an option.
        rule: The rule for the input, in plain words.
        got: The value that breaks the rule; without it, the message names no value.
        fix: The advice to the user, as an imperative.
    """

    _MISSING = "\0missing"

    def __init__(self, field: str, rule: str, *, got: Any = _MISSING, fix: str = "") -> None:
        self.field, self.rule, self.got, self.fix = field, rule, got, fix
        message = f"{field}: {rule}"
        if not (isinstance(got, str) and got == self._MISSING):
            message += f"; got {_shown(got)}"
        if fix:
            message += f". Fix: {fix}"
        super().__init__(message)

    def within(self, place: str) -> UserError:
        """The same error, with a place before its field.

        Args:
            place: A run of a grid, a cell of a table, a point of a search.
        """
        return UserError(f"{place}: {self.field}", self.rule, got=self.got, fix=self.fix)

    def renamed(self, names: Mapping[str, str]) -> UserError:
        """The same error with another name of its field, such as the option that sets a key.

        Args:
            names: Field -> its other name; other fields keep theirs.
        """
        field = names.get(self.field, self.field)
        return UserError(field, self.rule, got=self.got, fix=self.fix)

    def __reduce__(self) -> tuple[Any, ...]:
        # These errors are sent between processes, and by default an exception with keyword
        # arguments cannot be unpickled.
        return _rebuild, (self.field, self.rule, self.got, self.fix)


def _shown(value: Any) -> str:
    """A value as messages show it, cut to :data:`_LONGEST` characters."""
    try:
        text = repr(value)
    except RecursionError:
        return f"a {type(value).__name__} that is nested too deeply"
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}... ({len(text)} characters)"


def _rebuild(field: str, rule: str, got: Any, fix: str) -> UserError:
    return UserError(field, rule, got=got, fix=fix)
