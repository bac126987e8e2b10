"""How tokens, keys and the addresses that go with them reach every process of a job, unlogged.

A worker on another node has the environment of its node, not the driver's. A ``runtime_env`` would
set variables there, but Ray writes it into its logs and shows it in its dashboard; and Ray Train's
controller reads the storage before any code of ours is called with arguments. So they travel in a
function that Ray calls first in each worker process of the job: it lies, pickled, in the cluster's
key-value store, and logs name it by a hash.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

# What the hub's, the object stores' and MLflow's clients read. Not what says where on a node its
# own credentials are (AWS_ROLE_ARN, AWS_WEB_IDENTITY_TOKEN_FILE, AWS_PROFILE, ...).
_CARRIED = re.compile(
    r"HF_TOKEN|HUGGING_FACE_HUB_TOKEN|MLFLOW_\w+|DATABRICKS_\w+|AZURE_STORAGE_\w+"
    r"|AWS_(ACCESS_KEY_ID|SECRET_ACCESS_KEY|SESSION_TOKEN|SECURITY_TOKEN|REGION|DEFAULT_REGION"
    r"|ENDPOINT_URL|ENDPOINT_URL_S3)"
)


def carried_variables(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """The variables of this process that every worker is to have; the driver's, by default."""
    source = os.environ if environ is None else environ
    return {name: value for name, value in source.items() if _CARRIED.fullmatch(name)}


def setup_hook() -> dict[str, Callable[[], None]]:
    """The entry of a ``runtime_env`` that sets them in each worker process; empty without any.

    A hook that a submitted job has of its own stands: Ray calls one alone.
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
    """Has Ray Tune leave what the hook carries out of its trials' ``runtime_env``.

    It puts the driver's AWS keys there, where Ray logs them, and has no option against it: for the
    block's time its list of such variables is shorter. Trials have them from the hook.
    """
    from ray.tune.execution import class_cache

    names = class_cache.ENV_VARS_TO_PROPAGATE
    class_cache.ENV_VARS_TO_PROPAGATE = names - carried_variables().keys()
    try:
        yield
    finally:
        class_cache.ENV_VARS_TO_PROPAGATE = names
