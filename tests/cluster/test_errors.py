"""A user error reaches the user as one line, however it was raised."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from smt_ray.cli import exit_with, find_user_error
from smt_ray.errors import UserError

MISTAKE = UserError("selection.block_size", "must divide", got=7, fix="use 8")


class WrappedError(Exception):
    """Like Ray's RayTaskError, which has the remote error as its cause."""

    def __init__(self, cause: BaseException) -> None:
        super().__init__("a remote traceback")
        self.cause = cause


class BothError(UserError, WrappedError):
    """Like Ray's RayTaskError(UserError), which has both types and shows the remote traceback."""

    def __init__(self, cause: BaseException) -> None:
        Exception.__init__(self, "a remote traceback")
        self.cause = cause


def raised_from(error: Exception, cause: BaseException) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    "error",
    [
        MISTAKE,
        WrappedError(MISTAKE),
        BothError(MISTAKE),
        WrappedError(WrappedError(MISTAKE)),
        raised_from(RuntimeError("outer"), MISTAKE),
        raised_from(RuntimeError("outer"), BothError(MISTAKE)),
        WrappedError(raised_from(RuntimeError("inner"), MISTAKE)),
        pickle.loads(pickle.dumps(MISTAKE)),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_users_error_is_one_line_and_exit_code_2_however_it_was_wrapped(
    error: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    def command() -> None:
        raise error

    with pytest.raises(SystemExit) as stop:
        exit_with(command)
    assert stop.value.code == 2
    assert capsys.readouterr().err == (
        "error: selection.block_size: must divide; got 7. Fix: use 8\n"
    )


@pytest.mark.parametrize(
    "error", [ValueError("a defect"), WrappedError(KeyError("x")), RuntimeError()]
)
def test_a_defect_of_ours_is_no_users_error(
    error: Exception,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def command() -> None:
        raise error

    assert find_user_error(error) is None
    with pytest.raises(SystemExit) as stop:
        exit_with(command)
    assert stop.value.code == 1
    (file,) = tmp_path.iterdir()
    assert "raise error" in file.read_text()
    assert f"error: unexpected {type(error).__name__}: " in capsys.readouterr().err


def test_an_error_can_be_pickled() -> None:
    for error in (MISTAKE, UserError("a", "b"), UserError("a", "b", got=None)):
        copy = pickle.loads(pickle.dumps(error))
        assert type(copy) is UserError
        assert str(copy) == str(error)
        assert (copy.field, copy.rule, copy.got, copy.fix) == (
            error.field, error.rule, error.got, error.fix
        )  # fmt: skip
