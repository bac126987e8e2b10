"""Sends the driver's credentials to every worker process, without writing them into logs.

A worker on another node has the environment of its node instead of the driver's. The variables of
a ``runtime_env`` would reach it, but Ray writes them into its logs and shows them in its dashboard.
Arguments would come too late, since Ray Train's controller reads the storage before it calls our
code. The credentials are therefore part of a function that Ray calls first in each worker process.
Ray keeps the pickled function in the cluster's key-value store, and its logs only show a hash.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

# The variables that the clients of the hub, of object stores and of MLflow read. Variables that
# point to a node's own credentials (AWS_ROLE_ARN, AWS_WEB_IDENTITY_TOKEN_FILE, AWS_PROFILE, ...)
# are not sent.
_CARRIED = re.compile(
    r"HF_TOKEN|HUGGING_FACE_HUB_TOKEN|MLFLOW_\w+|DATABRICKS_\w+|AZURE_STORAGE_\w+"
    r"|AWS_(ACCESS_KEY_ID|SECRET_ACCESS_KEY|SESSION_TOKEN|SECURITY_TOKEN|REGION|DEFAULT_REGION"
    r"|ENDPOINT_URL|ENDPOINT_URL_S3)"
)


def carried_variables(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """The credentials among environment variables; by default those of this process."""
    source = os.environ if environ is None else environ
    return {name: value for name, value in source.items() if _CARRIED.fullmatch(name)}


def setup_hook() -> dict[str, Callable[[], None]]:
    """The entry of a ``runtime_env`` that sets the credentials in each worker process.

    It is empty if there are no credentials, or if the submitted job has a hook of its own, since
    Ray calls only one.
    """
    variables = carried_variables()
    job = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}"))
    if not variables or (job.get("runtime_env") or {}).get("worker_process_setup_hook"):
        return {}

    def set_credentials() -> None:
        import os

        os.environ.update(variables)

    return {"worker_process_setup_hook": set_credentials}


@contextmanager
def trials_without_secrets() -> Iterator[None]:
    """Keeps Ray Tune from putting credentials into the ``runtime_env`` of its trials.

    Ray Tune copies the driver's AWS keys there, where Ray logs them, and has no option against it.
    While the context is open, they are removed from its list of variables to copy. Trials get them
    from the hook.
    """
    from ray.tune.execution import class_cache

    names = class_cache.ENV_VARS_TO_PROPAGATE
    class_cache.ENV_VARS_TO_PROPAGATE = names - carried_variables().keys()
    try:
        yield
    finally:
        class_cache.ENV_VARS_TO_PROPAGATE = names
