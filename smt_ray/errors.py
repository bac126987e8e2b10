"""The one error that users see: bad input, said in one line.

Everything a user can get wrong is raised as :class:`UserError`; the command line prints it without
a traceback and exits with code 2. Anything else that escapes is a defect of ours and keeps its
traceback.
"""

from __future__ import annotations

from typing import Any


class UserError(ValueError):
    """Bad input: the field, the rule it breaks, the value got and the fix.

    Args:
        field: What is wrong: a config key (``selection.block_size``), a file, a command-line flag.
        rule: What must hold, in plain words.
        got: The value that breaks the rule; left out of the message when omitted.
        fix: What to do about it, as an imperative.
    """

    _MISSING = "\0missing"

    def __init__(self, field: str, rule: str, *, got: Any = _MISSING, fix: str = "") -> None:
        self.field, self.rule, self.got, self.fix = field, rule, got, fix
        message = f"{field}: {rule}"
        if not (isinstance(got, str) and got == self._MISSING):
            message += f"; got {got!r}"
        if fix:
            message += f". Fix: {fix}"
        super().__init__(message)

    def within(self, place: str) -> UserError:
        """The same error, with the place where it was found before its field.

        Args:
            place: A run of a grid, a cell of a table, a point of a search.
        """
        return UserError(f"{place}: {self.field}", self.rule, got=self.got, fix=self.fix)

    def __reduce__(self) -> tuple[Any, ...]:
        # Exceptions with keyword arguments do not survive pickling by themselves, and these cross
        # process borders.
        return _rebuild, (self.field, self.rule, self.got, self.fix)


def _rebuild(field: str, rule: str, got: Any, fix: str) -> UserError:
    return UserError(field, rule, got=got, fix=fix)
