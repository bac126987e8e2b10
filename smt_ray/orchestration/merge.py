"""Merging an adapter into its base: a plain transformers model on disk."""

from __future__ import annotations

from pathlib import Path

from smt_ray.artifacts.runs import RunFolder
from smt_ray.artifacts.stages import Stage
from smt_ray.artifacts.storage import Storage
from smt_ray.config.model_and_data import ModelConfig
from smt_ray.errors import UserError
from smt_ray.methods.registry import make_method
from smt_ray.models.load import load_model, load_tokenizer
from smt_ray.orchestration.trainer import ADAPTER


def merge_run(storage: Storage, name: str, out: Path) -> Path:
    """Writes a run's tuned model, ready for ``AutoModelForCausalLM.from_pretrained(out)``.

    Raises:
        UserError: There is no such run, it was not trained, or ``out`` is not empty.
    """
    run = RunFolder.open(storage, name)
    if out.is_file() or (out.exists() and any(out.iterdir())):
        raise UserError("--out", "must be a new or empty folder", got=str(out))
    manifest = run.manifest()
    adapter = trained_adapter(run)
    spec = ModelConfig(**manifest["config"]["model"]).spec()
    model, method = load_model(spec), make_method(manifest["config"]["method"])
    method.load(model, storage.fetch(adapter))
    method.merge(model)
    model.save_pretrained(out)
    load_tokenizer(spec).save_pretrained(out)
    return out


def trained_adapter(run: RunFolder) -> str:
    """A run's adapter folder, as the storage names it.

    Raises:
        UserError: The run was not trained to its end, or its adapter is not whole.
    """
    training = run.manifest()["stages"].get("training")
    if training is None:
        raise UserError("--run", "was not trained yet", got=run.name, fix="run it to the end first")
    return Stage.open(run.storage, training["stage"]).path(ADAPTER)
