"""Waiting for a storage that does not answer: an object store or a network may be away for a while.

Local disks are not waited for.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from smt_ray.errors import UserError

VARIABLE = "SMT_RAY_STORAGE_TIMEOUT_S"
"""The environment variable with the most seconds that a storage may not answer."""
_TIMEOUT_S = 120.0
_FIRST_S, _LONGEST_S = 0.5, 10.0  # between two tries

_given_up: set[str] = set()  # roots that were waited for in vain: a run that ends waits once only

# What waiting does not change; pyarrow raises plain OSErrors for most of it.
_FINAL = (
    FileNotFoundError,
    FileExistsError,
    IsADirectoryError,
    NotADirectoryError,
    PermissionError,
)
_REFUSED = re.compile(
    r"ACCESS_DENIED|NO_SUCH_BUCKET|INVALID_ACCESS_KEY|SIGNATURE|UNAUTHORIZED|NoSuchBucket"
    r"|AccessDenied|Forbidden|HTTP status 40[0-4]"
)


class Kept(Protocol):
    """What has a root, which may be on this machine."""

    is_local: bool
    root: str


S = TypeVar("S", bound=Kept)
P = ParamSpec("P")
R = TypeVar("R")


def patient(method: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], R]:
    """Makes a method of a storage try again, ever more slowly, while a remote one does not answer.

    Raises:
        UserError: It has not answered in time.
    """

    @wraps(method)
    def tried(self: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
        if self.is_local:
            return method(self, *args, **kwargs)
        import tenacity

        timeout_s = 0.0 if self.root in _given_up else float(os.environ.get(VARIABLE, _TIMEOUT_S))
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(is_away),
            stop=tenacity.stop_after_delay(timeout_s),
            wait=tenacity.wait_exponential_jitter(_FIRST_S, _LONGEST_S),
            reraise=True,
        )
        try:
            found = retrying(method, self, *args, **kwargs)
            _given_up.discard(self.root)
            return found
        except OSError as error:
            if not is_away(error):
                raise
            _given_up.add(self.root)
            raise storage_is_away(self.root, error) from error

    return tried


def is_away(error: BaseException) -> bool:
    """Whether an error may pass: the storage does not answer, or is busy."""
    if not isinstance(error, OSError) or isinstance(error, _FINAL):
        return False
    return not _REFUSED.search(str(error))


def storage_is_away(root: str, error: BaseException) -> UserError:
    """The error for the user."""
    reason = " ".join(str(error).split())[:300]
    return UserError(
        "storage",
        f"must answer, and it did not ({reason})",
        got=root,
        fix=f"start the same run again when it does, or wait longer ({VARIABLE}, in seconds)",
    )
