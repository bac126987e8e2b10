"""The end of a command: user errors and interrupts become one line."""

from __future__ import annotations

import errno
import platform
import sys
import traceback
from collections.abc import Callable, Sequence
from tempfile import NamedTemporaryFile
from typing import TypeVar

import typer
from typer.exceptions import TyperException

import smt_ray
from smt_ray.errors import UserError
from smt_ray.reporting.text.visible import visible

Result = TypeVar("Result")
Choice = TypeVar("Choice", bound=str)

_LONGEST = 200  # characters of an unexpected error

_PATH, _RIGHTS = "check the path", "change its permissions, or choose another place"
_ROOM = "free some space, or choose another place; the same command resumes from here"
# The errors that a file system or a disk can raise at any time, and what to do about each.
_FIXES = {
    errno.EACCES: _RIGHTS,
    errno.EPERM: _RIGHTS,
    errno.EROFS: _RIGHTS,
    errno.ELOOP: _PATH,
    errno.EISDIR: _PATH,
    errno.ENOTDIR: _PATH,
    errno.ENAMETOOLONG: "choose a shorter path",
    errno.ENOSPC: _ROOM,
    errno.EDQUOT: _ROOM,
    errno.EIO: "check the disk or the network",
    errno.EMFILE: "raise the number of open files (ulimit -n)",
}


def exit_with(command: Callable[[], Result], resumes: Callable[[], bool] = lambda: False) -> Result:
    """Runs a command.

    A user's error becomes one line on standard error and exit code 2; an interrupt becomes one line
    and exit code 130. Any other error is a defect: it becomes one line that names a file with the
    traceback, and exit code 1.

    Args:
        resumes: Whether the same command resumes after an interrupt; asked when one comes.
    """
    try:
        return command()
    except KeyboardInterrupt:
        advice = ": the same command resumes from here" if resumes() else ""
        print(f"interrupted{advice}", file=sys.stderr)
        sys.exit(130)
    except (typer.Exit, typer.Abort, TyperException):  # of the command line itself
        raise
    except Exception as error:
        user_error = find_user_error(error) or _of_the_machine(error)
        if user_error is None:
            print("error:", visible(_explain_defect(error)), file=sys.stderr)
            sys.exit(1)
        print("error:", visible(" ".join(str(user_error).splitlines())), file=sys.stderr)
        sys.exit(2)


def _of_the_machine(error: BaseException) -> UserError | None:
    """What a file system or a disk refused; None for other errors."""
    cause = getattr(error, "cause", None)
    found = cause if isinstance(cause, OSError) else error
    if not isinstance(found, OSError) or found.errno not in _FIXES:
        return None
    reason = " ".join(str(found.strerror).split())
    place = str(found.filename or "storage")
    return UserError(place, f"cannot be used ({reason})", fix=_FIXES[found.errno])


def _explain_defect(error: Exception) -> str:
    """One line about an error that nothing foresaw; its traceback is written into a new file."""
    text = "".join(traceback.format_exception(error))
    with NamedTemporaryFile(
        "w", prefix="smt_ray_error_", suffix=".txt", delete=False, encoding="utf-8",
        errors="backslashreplace",
    ) as file:  # fmt: skip
        file.write(f"smt-ray {smt_ray.__version__}, {platform.platform()}\n{sys.argv}\n\n{text}")
    first = (str(error).splitlines() or [""])[0][:_LONGEST]
    return (
        f"unexpected {type(error).__name__}: {first}. What is finished is kept, and the traceback"
        f" is in {file.name}; please report it"
    )


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
