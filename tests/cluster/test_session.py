"""The start of Ray, and the environment of workers; Ray itself is replaced."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from subprocess import PIPE
from typing import Any

import pytest
from ray.tune.execution import class_cache

from smt_ray.cluster import session
from smt_ray.cluster.credentials import (
    carried_variables,
    setup_hook,
    trials_without_secrets,
)
from smt_ray.cluster.session import worker_environment
from smt_ray.errors import UserError


def test_variables_of_a_submitted_job_are_not_set_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", "/cache")
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    alone = worker_environment()
    assert alone["HF_HOME"] == "/cache"
    job = {"runtime_env": {"env_vars": {"HF_HOME": "/other"}}, "metadata": {}}
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps(job))
    assert worker_environment() == {k: v for k, v in alone.items() if k != "HF_HOME"}
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps({"runtime_env": None}))
    assert worker_environment() == alone


class Ray:
    """Stands in for ray; each start has a given outcome."""

    def __init__(self, *outcomes: Exception | None) -> None:
        self.outcomes = list(outcomes)
        self.ports: list[int] = []
        self.started: list[subprocess.Popen[bytes]] = []

    def is_initialized(self) -> bool:
        return False

    def init(self, *, dashboard_port: int, **_: Any) -> None:
        self.ports.append(dashboard_port)
        self.started.append(subprocess.Popen([sys.executable, "-c", "input()"], stdin=PIPE))
        outcome = self.outcomes.pop(0)
        if outcome:
            raise outcome

    def shutdown(self) -> None:
        self.started[-1].kill()


TOO_LATE = Exception("The current node timed out during startup. This could happen because ...")


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ray]:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(session, "_quieten", lambda: None)  # it would set variables for later tests
    monkeypatch.setattr(session, "early_imports", lambda: nullcontext(sys.executable))

    def start(*outcomes: Exception | None) -> Ray:
        ray = Ray(*outcomes)
        monkeypatch.setattr(session, "ray", ray)
        with session.ray_session(dashboard=True):
            return ray

    return start


def test_a_ray_that_started_too_slowly_is_started_again(start: Callable[..., Ray]) -> None:
    ray = start(TOO_LATE, None)
    assert len(set(ray.ports)) == 2
    assert ray.started[0].wait(timeout=10) < 0, "the processes of the first try are ended"
    with pytest.raises(UserError, match="very busy"):
        start(TOO_LATE, TOO_LATE, TOO_LATE, None)


def test_other_errors_at_the_start_are_not_user_errors(start: Callable[..., Ray]) -> None:
    with pytest.raises(ValueError, match="a defect"):
        start(ValueError("a defect"), None)


def test_a_cluster_that_does_not_answer_is_named(
    start: Callable[..., Ray], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    with pytest.raises(UserError, match="no such cluster") as raised:
        start(ConnectionError("no such\ncluster"))
    assert (raised.value.field, raised.value.got) == ("RAY_ADDRESS", "10.0.0.1:6379")


def test_secrets_are_not_in_the_environment_that_ray_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "canary")
    assert "canary" not in worker_environment().values()
    assert "canary" not in str(setup_hook())


def test_secrets_are_set_by_the_setup_hook(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    monkeypatch.setenv("HF_TOKEN", "canary")
    hook = setup_hook()["worker_process_setup_hook"]
    monkeypatch.setenv("HF_TOKEN", "of the node")
    hook()
    assert os.environ["HF_TOKEN"] == "canary"


def environment_of_a_trial() -> dict[str, str]:
    """The variables that Ray Tune makes Ray set, and log, for each trial of a search."""

    class Trainable: ...

    options = class_cache._ActorClassCache().get(Trainable)._default_options
    variables: dict[str, str] = options["runtime_env"]["env_vars"]
    return variables


def test_secrets_are_not_in_the_environment_of_a_trial(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in class_cache.ENV_VARS_TO_PROPAGATE:
        monkeypatch.setenv(name, "canary" if name.startswith("AWS_") else "1")
    before = environment_of_a_trial()
    assert "canary" in before.values(), (
        "Ray Tune does not do it any more: remove trials_without_secrets"
    )
    with trials_without_secrets():
        inside = environment_of_a_trial()
    assert inside == {name: value for name, value in before.items() if value != "canary"}
    assert "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S" in inside
    assert environment_of_a_trial() == before, "other users of Ray Tune are not affected"


def test_a_job_with_a_hook_of_its_own_keeps_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "canary")
    job = {"runtime_env": {"worker_process_setup_hook": "theirs.hook"}, "metadata": {}}
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps(job))
    assert setup_hook() == {}


def test_credentials_of_a_node_itself_are_not_carried() -> None:
    carried = {
        "HF_TOKEN": "a",
        "AWS_SESSION_TOKEN": "b",
        "AWS_SECURITY_TOKEN": "b",
        "AWS_ENDPOINT_URL": "c",
        "MLFLOW_TRACKING_URI": "d",
        "AZURE_STORAGE_KEY": "e",
    }
    left = {"AWS_ROLE_ARN": "f", "AWS_PROFILE": "g", "PATH": "h", "MY_HF_TOKEN": "i"}
    assert carried_variables(carried | left) == carried
    assert carried_variables(left) == {}
