"""Tracking URIs: which one a run uses, whether MLflow supports it, and how its runs are shown."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from smt_ray.errors import UserError

_SERVERS = ("http", "https", "databricks")
_DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
_SQLITE = "sqlite:///"
# The variables that MLflow's client and its artifact stores read.
_CLIENT_VARIABLES = re.compile(r"^(MLFLOW_|AWS_|AZURE_STORAGE_|GOOGLE_APPLICATION_|DATABRICKS_)")


def resolve_tracking_uri(uri: str | None, storage: str) -> str:
    """The tracking URI of a run, which is valid in every process and working directory.

    Args:
        uri: The configured URI; None for ``MLFLOW_TRACKING_URI``, else ``mlflow.db`` in the
            storage.

    Raises:
        UserError: MLflow does not support the scheme; or no URI is given and the storage is remote,
            where an sqlite file is impossible.
    """
    chosen = uri or os.environ.get("MLFLOW_TRACKING_URI") or ""
    if chosen:
        return _absolute(check_tracking_uri(chosen))
    path = storage.removeprefix("file://")
    if "://" in path:
        raise UserError(
            "tracking.uri",
            "must be given if the storage is remote, because sqlite needs a local file",
            got=None,
            fix="set tracking.uri to a server (http://...) or tracking.enabled=false",
        )
    return _absolute(f"{_SQLITE}{Path(path) / 'mlflow.db'}")


def check_tracking_uri(uri: str) -> str:
    """Returns the URI if MLflow supports its scheme.

    Raises:
        UserError: The scheme is unknown, or the URI is a plain path (MLflow 3 has no file store).
    """
    scheme = uri.split(":", 1)[0].split("+", 1)[0] if ":" in uri else uri
    if scheme in _SERVERS or (scheme in _DATABASES and "://" in uri):
        return uri
    if "://" not in uri or scheme == "file":
        rule, path = "must not be a folder: MLflow 3 keeps runs in a database", uri
        fix = f"use {_SQLITE}{path.removeprefix('file://').rstrip('/')}/mlflow.db"
    else:
        rule = f"must start with one of {', '.join((*_SERVERS, *_DATABASES))}"
        fix = "use a server (http://...) or a file (sqlite:////absolute/path/mlflow.db)"
    raise UserError("tracking.uri", rule, got=redact(uri), fix=fix)


def sqlite_path(uri: str) -> Path | None:
    """The file of an sqlite URI; None for other URIs."""
    scheme, separator, path = uri.partition(":///")
    if scheme.split("+", 1)[0] != "sqlite" or not separator or not path:
        return None
    return Path(path.split("?", 1)[0]).expanduser().absolute()


def default_artifact_location(uri: str) -> str | None:
    """The URI of the artifacts: a folder beside an sqlite file; None if the server decides."""
    path = sqlite_path(uri)
    return None if path is None else (path.parent / "mlflow-artifacts").as_uri()


def redact(uri: str) -> str:
    """A text without the passwords of the URIs in it."""
    return re.sub(r"(://[^/@:\s]*):[^/\s]*@", r"\1:***@", uri)


def run_url(uri: str, experiment_id: str, run_id: str) -> str:
    """The page of a run: on its server, or of ``mlflow ui`` for a database."""
    server = redact(uri).rstrip("/") if urlsplit(uri).scheme in ("http", "https") else None
    page = f"{server or 'http://127.0.0.1:5000'}/#/experiments/{experiment_id}/runs/{run_id}"
    # Without this setting, MLflow shows every run as a GenAI application.
    return f"{page}?workflowType=machine_learning"


def how_to_open(uri: str) -> str:
    """The address of the server, or the command that shows the runs of a database."""
    if uri.split(":", 1)[0] in _SERVERS:
        return redact(uri)
    return f"mlflow ui --backend-store-uri {redact(uri)}"


def tracking_environment(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """The variables that MLflow's client reads: address, credentials and options of the store.

    They contain secrets. Pass them to the writer as an argument, but never to a log or a
    ``runtime_env``, which Ray's dashboard shows.
    """
    source = os.environ if environ is None else environ
    return {name: value for name, value in source.items() if _CLIENT_VARIABLES.match(name)}


def _absolute(uri: str) -> str:
    path = sqlite_path(uri)
    if path is None:
        return uri
    scheme, _, rest = uri.partition(":///")
    query = rest.partition("?")[2]
    return f"{scheme}:///{path}" + (f"?{query}" if query else "")
