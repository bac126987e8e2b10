"""Tracking URIs: which one a run uses, whether it can be one, and how to open what is behind it."""

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
# What MLflow's client and its artifact stores read; a Ray worker does not inherit the driver's.
_CLIENT_VARIABLES = re.compile(r"^(MLFLOW_|AWS_|AZURE_STORAGE_|GOOGLE_APPLICATION_|DATABRICKS_)")


def resolve_tracking_uri(uri: str | None, storage: str) -> str:
    """The URI that a run tracks to, the same from every process and working directory.

    Args:
        uri: What the user asked for; None takes ``MLFLOW_TRACKING_URI``, else ``mlflow.db`` in
            the storage.
        storage: Where the run's artifacts go: a local path or a URI.

    Raises:
        UserError: The scheme is none of MLflow's, or nothing was asked for and the storage is
            remote, where no sqlite file can live.
    """
    chosen = uri or os.environ.get("MLFLOW_TRACKING_URI") or ""
    if chosen:
        return _absolute(check_tracking_uri(chosen))
    path = storage.removeprefix("file://")
    if "://" in path:
        raise UserError(
            "tracking.uri",
            "must be given where the storage is remote, because sqlite needs a local file",
            got=None,
            fix="set tracking.uri to a server (http://...) or tracking.enabled=false",
        )
    return _absolute(f"{_SQLITE}{Path(path) / 'mlflow.db'}")


def check_tracking_uri(uri: str) -> str:
    """Return the URI if MLflow can use its scheme.

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
    """The file behind an sqlite URI; None for every other one."""
    scheme, separator, path = uri.partition(":///")
    if scheme.split("+", 1)[0] != "sqlite" or not separator or not path:
        return None
    return Path(path.split("?", 1)[0]).expanduser().absolute()


def default_artifact_location(uri: str) -> str | None:
    """Where artifacts go: beside an sqlite file, at an absolute URI; a server decides itself."""
    path = sqlite_path(uri)
    return None if path is None else (path.parent / "mlflow-artifacts").as_uri()


def redact(uri: str) -> str:
    """The URI without the password in it, fit for a terminal."""
    return re.sub(r"(://[^/@:]*):[^/@]*@", r"\1:***@", uri)


def run_url(uri: str, experiment_id: str, run_id: str) -> str:
    """The page of a run: on its server, or where ``mlflow ui`` shows a database."""
    server = redact(uri).rstrip("/") if urlsplit(uri).scheme in ("http", "https") else None
    page = f"{server or 'http://127.0.0.1:5000'}/#/experiments/{experiment_id}/runs/{run_id}"
    # MLflow shows every run as a GenAI application unless it is told otherwise.
    return f"{page}?workflowType=machine_learning"


def how_to_open(uri: str) -> str:
    """What to type, or where to look, to see the runs."""
    if uri.split(":", 1)[0] in _SERVERS:
        return redact(uri)
    return f"mlflow ui --backend-store-uri {redact(uri)}"


def tracking_environment(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """The driver's variables that MLflow's client reads (address, credentials, store options).

    They hold secrets: hand them to the writer as an argument, never to a log or a ``runtime_env``,
    which Ray's dashboard shows.
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
