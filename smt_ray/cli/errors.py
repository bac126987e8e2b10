"""The end of a command: user errors and interrupts become one line."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

from smt_ray.errors import UserError

Result = TypeVar("Result")
Choice = TypeVar("Choice", bound=str)


def exit_with(command: Callable[[], Result], resumes: Callable[[], bool] = lambda: False) -> Result:
    """Runs a command.

    A user's error becomes one line on standard error and exit code 2; an interrupt becomes one line
    and exit code 130.

    Args:
        resumes: Whether the same command resumes after an interrupt; asked when one comes.
    """
    try:
        return command()
    except KeyboardInterrupt:
        advice = ": the same command resumes from here" if resumes() else ""
        print(f"interrupted{advice}", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        user_error = find_user_error(error)
        if user_error is None:
            raise
        print("error:", " ".join(str(user_error).splitlines()), file=sys.stderr)
        sys.exit(2)


def check_choice(option: str, value: str, choices: Sequence[Choice]) -> Choice:
    """The choice that the value of an option names.

    Raises:
        UserError: The value is none of the choices.
    """
    for choice in choices:
        if choice == value:
            return choice
    raise UserError(option, f"must be one of {', '.join(choices)}", got=value)


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
