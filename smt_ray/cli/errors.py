"""The end of a command: user errors and interrupts become one line."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TypeVar

from smt_ray.errors import UserError

Result = TypeVar("Result")


def exit_with(command: Callable[[], Result]) -> Result:
    """Runs a command.

    A user's error becomes one line on standard error and exit code 2; an interrupt becomes one line
    and exit code 130.
    """
    try:
        return command()
    except KeyboardInterrupt:
        print("interrupted: the same command resumes from here", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        user_error = find_user_error(error)
        if user_error is None:
            raise
        print("error:", " ".join(str(user_error).splitlines()), file=sys.stderr)
        sys.exit(2)


def find_user_error(error: BaseException) -> UserError | None:
    """The user's error in an exception that Ray or Python may have wrapped."""
    cause = getattr(error, "cause", None)
    for candidate in (cause, error):
        if type(candidate) is UserError:
            return candidate
    for candidate in (cause, error.__cause__):
        if isinstance(candidate, BaseException) and (found := find_user_error(candidate)):
            return found
    return None
