"""A plain transformers model as a LoggedModel of MLflow, which can be loaded and registered.

``mlflow.transformers.log_model`` needs an active run, which is global state. So the files are made
by ``save_model``, and the client logs them.
"""

from __future__ import annotations

import logging
import tempfile
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow import MlflowClient

_TASK = "text-generation"
# MLflow would load the model to infer them.
_REQUIREMENTS = ("transformers", "torch", "accelerate", "safetensors", "sentencepiece")


def log_transformers_model(client: MlflowClient, run_id: str, directory: str, name: str) -> None:
    """Logs the model of a folder as an output of a run, unless the run has it already.

    Args:
        directory: The local folder, in the form that ``from_pretrained`` loads, with its tokenizer.
        name: The name of the model among those of the run.
    """
    from mlflow.entities import LoggedModelOutput, LoggedModelStatus

    run = client.get_run(run_id)
    outputs = run.outputs.model_outputs if run.outputs else []
    for output in outputs:
        found = client.get_logged_model(output.model_id)
        if (found.name, found.status) == (name, LoggedModelStatus.READY):
            return
    model = client.create_logged_model(
        run.info.experiment_id, name=name, source_run_id=run_id, params=run.data.params
    )
    try:
        with tempfile.TemporaryDirectory(prefix="smt_ray_model_") as folder:
            place = Path(folder) / "model"
            _save(directory, place, run_id, model.model_id)
            client.log_model_artifacts(model.model_id, str(place))
        client.log_outputs(run_id, [LoggedModelOutput(model.model_id, 0)])
        client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
    except BaseException:
        client.finalize_logged_model(model.model_id, LoggedModelStatus.FAILED)
        raise


def _save(directory: str, place: Path, run_id: str, model_id: str) -> None:
    """Writes a model in MLflow's form.

    The model is loaded in its own dtype, because MLflow does not read folders with transformers 5.
    """
    import mlflow.transformers
    from huggingface_hub import ModelCard
    from mlflow.models import Model, ModelSignature
    from mlflow.types import ColSpec, Schema
    from transformers import AutoModelForCausalLM, AutoTokenizer

    logging.getLogger("mlflow").setLevel(logging.ERROR)
    card = Path(directory) / "README.md"
    given: dict[str, Any] = {"model_card": ModelCard.load(card)} if card.is_file() else {}
    texts = Schema([ColSpec("string")])
    mlflow.transformers.save_model(
        {
            "model": AutoModelForCausalLM.from_pretrained(directory, dtype="auto"),
            "tokenizer": AutoTokenizer.from_pretrained(directory),
        },
        str(place),
        task=_TASK,
        mlflow_model=Model(run_id=run_id, model_id=model_id),
        signature=ModelSignature(inputs=texts, outputs=texts),
        pip_requirements=_pinned(),
        **given,
    )


def _pinned() -> list[str]:
    """The packages that load the model, in the versions that are installed here."""
    found = []
    for package in _REQUIREMENTS:
        try:
            version = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
        found.append(f"{package}=={version.partition('+')[0]}")  # the index has no local versions
    return found
