"""Claims about the environment that workers get; Ray is not started."""

from __future__ import annotations

import json
import os

import pytest

from smt_ray.orchestration.credentials import carried_variables, setup_hook
from smt_ray.orchestration.session import worker_environment


def test_what_a_submitted_job_sets_is_left_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", "/cache")
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    alone = worker_environment()
    assert alone["HF_HOME"] == "/cache"
    job = {"runtime_env": {"env_vars": {"HF_HOME": "/other"}}, "metadata": {}}
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps(job))
    assert worker_environment() == {k: v for k, v in alone.items() if k != "HF_HOME"}
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps({"runtime_env": None}))
    assert worker_environment() == alone


def test_secrets_are_not_put_into_what_ray_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "canary")
    assert "canary" not in worker_environment().values()
    assert "canary" not in str(setup_hook())


def test_secrets_are_set_by_what_ray_calls_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    monkeypatch.setenv("HF_TOKEN", "canary")
    hook = setup_hook()["worker_process_setup_hook"]
    monkeypatch.setenv("HF_TOKEN", "of the node")
    hook()
    assert os.environ["HF_TOKEN"] == "canary"


def test_a_job_with_a_hook_of_its_own_keeps_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "canary")
    job = {"runtime_env": {"worker_process_setup_hook": "theirs.hook"}, "metadata": {}}
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps(job))
    assert setup_hook() == {}


def test_what_is_carried_names_no_credentials_that_are_a_nodes_own() -> None:
    carried = {
        "HF_TOKEN": "a",
        "AWS_SESSION_TOKEN": "b",
        "AWS_ENDPOINT_URL": "c",
        "MLFLOW_TRACKING_URI": "d",
        "AZURE_STORAGE_KEY": "e",
    }
    left = {"AWS_ROLE_ARN": "f", "AWS_PROFILE": "g", "PATH": "h", "MY_HF_TOKEN": "i"}
    assert carried_variables(carried | left) == carried
    assert carried_variables(left) == {}
