"""Claims about the only error that users see."""

from __future__ import annotations

import pickle

import pytest

from smt_ray.errors import UserError


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (UserError("seed", "must be a number"), "seed: must be a number"),
        (UserError("seed", "must be a number", got="x"), "seed: must be a number; got 'x'"),
        (UserError("model", "must be a folder", got=None), "model: must be a folder; got None"),
        (
            UserError("seed", "must be a number", got="x", fix="set seed=1"),
            "seed: must be a number; got 'x'. Fix: set seed=1",
        ),
    ],
)
def test_the_message_gives_only_what_is_known(error: UserError, message: str) -> None:
    assert str(error) == message
    assert str(pickle.loads(pickle.dumps(error))) == message
    assert str(error.within("run 3")) == f"run 3: {message}"
