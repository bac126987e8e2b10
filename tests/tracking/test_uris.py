"""The tracking URI of a run is chosen, checked and shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from smt_ray.errors import UserError
from smt_ray.tracking import uris


@pytest.fixture(autouse=True)
def _no_variable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)


def test_config_wins_over_the_variable_and_the_variable_over_the_storage(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    storage = str(tmp_path / "store")
    assert uris.resolve_tracking_uri(None, storage) == f"sqlite:///{storage}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://there:5000")
    assert uris.resolve_tracking_uri(None, storage) == "http://there:5000"
    assert uris.resolve_tracking_uri("http://here:5000", storage) == "http://here:5000"


def test_a_relative_sqlite_file_becomes_absolute(tmp_path: Path) -> None:
    assert uris.resolve_tracking_uri("sqlite:///a/b.db", "s3://x") == f"sqlite:///{tmp_path}/a/b.db"
    assert uris.resolve_tracking_uri(None, "out") == f"sqlite:///{tmp_path}/out/mlflow.db"
    assert uris.default_artifact_location("sqlite:////abs/m.db") == "file:///abs/mlflow-artifacts"
    assert uris.default_artifact_location("http://there") is None


@pytest.mark.parametrize(
    "uri",
    ["http://h:5000", "https://h", "databricks", "databricks://p", "mysql+pymysql://u:p@h/d"],
)
def test_every_scheme_of_mlflow_passes_unchanged(uri: str) -> None:
    assert uris.resolve_tracking_uri(uri, "s3://bucket") == uri


@pytest.mark.parametrize(
    ("uri", "hint"),
    [
        ("ftp://u:secret@h", "must start with one of http"),
        ("mlruns", "use sqlite:///mlruns/mlflow.db"),
        ("file:///runs/", "use sqlite:////runs/mlflow.db"),
    ],
)
def test_a_uri_that_mlflow_cannot_use_is_refused_with_what_to_write(uri: str, hint: str) -> None:
    with pytest.raises(UserError) as error:
        uris.resolve_tracking_uri(uri, "out")
    assert hint in str(error.value)
    assert "secret" not in str(error.value)


def test_remote_storage_needs_a_uri() -> None:
    with pytest.raises(UserError, match=r"tracking\.uri: must be given if the storage is remote"):
        uris.resolve_tracking_uri(None, "s3://bucket/runs")


def test_how_to_open_is_a_command_for_a_file_and_an_address_for_a_server() -> None:
    assert (
        uris.how_to_open("sqlite:////a/m.db") == "mlflow ui --backend-store-uri sqlite:////a/m.db"
    )
    assert uris.how_to_open("https://u:secret@host:5000") == "https://u:***@host:5000"
    page = "http://h:5000/#/experiments/3/runs/abc?workflowType=machine_learning"
    assert uris.run_url("http://h:5000/", "3", "abc") == page


def test_only_the_variables_of_mlflows_client_are_passed_on() -> None:
    environ = {"MLFLOW_TRACKING_TOKEN": "t", "AWS_PROFILE": "p", "HOME": "/root", "MY_MLFLOW_": "x"}
    assert uris.tracking_environment(environ) == {"MLFLOW_TRACKING_TOKEN": "t", "AWS_PROFILE": "p"}


def test_passwords_are_removed_wherever_a_uri_stands_in_a_text() -> None:
    assert uris.redact("no http://me:p@ss@host/x, or sqlite:///m.db at 10:30") == (
        "no http://me:***@host/x, or sqlite:///m.db at 10:30"
    )
    assert uris.redact("https://me@host:5000") == "https://me@host:5000"
