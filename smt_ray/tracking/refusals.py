"""Errors of MLflow: which of them are final, so that trying again would be useless."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from smt_ray.tracking.protocol import RejectedError

_FINAL_CODES = {
    "ALREADY_EXISTS",
    "BAD_REQUEST",
    "INVALID_PARAMETER_VALUE",
    "INVALID_STATE",
    "PERMISSION_DENIED",
    "RESOURCE_ALREADY_EXISTS",
    "RESOURCE_DOES_NOT_EXIST",
    "UNAUTHENTICATED",
}

P = ParamSpec("P")
T = TypeVar("T")


def error_code(error: Exception) -> str | None:
    """MLflow's code of an error; None for other errors."""
    return getattr(error, "error_code", None)


def final_errors(method: Callable[P, T]) -> Callable[P, T]:
    """Decorates a method so that it raises a :class:`RejectedError` if its call was refused."""

    @functools.wraps(method)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return method(*args, **kwargs)
        except (FileNotFoundError, ModuleNotFoundError, TypeError) as error:
            raise RejectedError(str(error)) from error
        except Exception as error:
            if error_code(error) in _FINAL_CODES:
                raise RejectedError(str(error)) from error
            raise

    return wrapped
