"""Claims about the environment that workers get; Ray is not started."""

from __future__ import annotations

import json

import pytest

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
