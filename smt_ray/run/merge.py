"""Merging an adapter into its base: a plain transformers model on disk."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from smt_ray.artifacts.runs import RunFolder
from smt_ray.artifacts.stages import Stage
from smt_ray.artifacts.storage import Storage
from smt_ray.config.model_and_data import ModelConfig
from smt_ray.errors import UserError
from smt_ray.methods.registry import find_method
from smt_ray.models.load import load_model, load_tokenizer
from smt_ray.stages.plan import kept_model
from smt_ray.stages.training import ADAPTER


def merge_run(storage: Storage, name: str, out: Path) -> Path:
    """Writes a run's tuned model, ready for ``AutoModelForCausalLM.from_pretrained(out)``.

    Raises:
        UserError: There is no such run, it was not trained, or ``out`` is not empty or cannot be
            written. Then, as after any failure, nothing is left where ``out`` was to be.
    """
    run = RunFolder.open(storage, name)
    base = ModelConfig(**run.manifest()["config"]["model"]).spec()
    with _written_whole(out.resolve()) as folder:
        adapter = trained_adapter(run)
        spec = starting_model(run, base)
        model = load_model(spec)
        with storage.local(adapter) as directory:
            method = find_method(directory)
            method.load(model, directory)
        method.merge(model)
        model.save_pretrained(folder)
        load_tokenizer(spec).save_pretrained(folder)
    return out


def check_out(out: Path) -> None:
    """Refuses, before anything is computed, a folder that a merged model cannot be written to.

    Raises:
        UserError: It is not empty or cannot be written.
    """
    _make_part(out.resolve()).rmdir()


@contextmanager
def _written_whole(out: Path) -> Iterator[Path]:
    """A folder to write to, which becomes ``out`` in the end, or is gone after a failure."""
    part = _make_part(out)
    try:
        yield part
        out.parent.mkdir(parents=True, exist_ok=True)
        part.replace(out)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _make_part(out: Path) -> Path:
    """An empty folder beside ``out``, or beside the first of its parents that is not there yet."""
    try:
        # A mount point cannot be replaced by renaming.
        if out.is_file() or out.is_mount() or (out.exists() and any(out.iterdir())):
            raise UserError(
                "--out",
                "must be a new or empty folder",
                got=str(out),
                fix="name a folder that is not there yet",
            )
        parent = next(folder for folder in out.parents if folder.exists())
        part = parent / f".{out.name}.{uuid.uuid4().hex[:8]}.part"
        part.mkdir()
    except OSError as error:
        raise UserError(
            "--out",
            f"must be writable ({error.strerror})",
            got=str(out),
            fix="choose another folder, or mend its permissions",
        ) from None
    return part


def trained_adapter(run: RunFolder) -> str:
    """A run's adapter folder, as the storage names it.

    Raises:
        UserError: The run was not trained to its end, or its adapter is not whole.
    """
    training = run.manifest()["stages"].get("training")
    if training is None:
        raise UserError("--run", "was not trained yet", got=run.name, fix="run it to the end first")
    return Stage.open(run.storage, training["stage"]).path(ADAPTER)


def starting_model(run: RunFolder, base: dict[str, Any]) -> dict[str, Any]:
    """What a run's adapter belongs on, as a model section: the base, unless its warm-up trained it.

    Args:
        run: A trained run.
        base: The model section of its base model.

    Raises:
        UserError: What the warm-up kept is not whole.
    """
    manifest = run.manifest()
    config = manifest["config"]
    if config["method"] != "smt" or config["warmup"].get("mode") != "trained":
        return base
    return kept_model(base, Stage.open(run.storage, manifest["stages"]["warmup"]["stage"]))
