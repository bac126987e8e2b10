"""Merges an adapter into its base and writes a plain transformers model."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from smt_ray.artifacts.layout import ADAPTER, PROMPT
from smt_ray.artifacts.runs import RunFolder
from smt_ray.artifacts.stages import Stage
from smt_ray.artifacts.storage import Storage
from smt_ray.config.load import validate_config
from smt_ray.config.model import ModelConfig
from smt_ray.documents.prompt import TrainedPrompt
from smt_ray.errors import UserError
from smt_ray.file_rights import give_usual_rights
from smt_ray.methods.adapters import find_method
from smt_ray.models.load import load_model, read_tokenizer
from smt_ray.models.place import located
from smt_ray.models.quiet import quiet
from smt_ray.run.export.card import write_card
from smt_ray.run.export.gguf import GgufExport
from smt_ray.stages.plan import kept_model


def merge_run(storage: Storage, name: str, out: Path, gguf: GgufExport | None = None) -> Path:
    """Writes a run's tuned model, ready for ``AutoModelForCausalLM.from_pretrained(out)``.

    The folder has the tokenizer and a model card, too.

    Args:
        gguf: How a GGUF file is added to the folder; None for none.

    Raises:
        UserError: There is no such run, it was not trained, or ``out`` is not empty or cannot be
            written. Then nothing is left at ``out``. Or the GGUF file cannot be made; then the
            folder has everything else.
    """
    run = RunFolder.open(storage, name)
    with _written_whole(out.resolve()) as folder:
        prompt = write_merged(run, folder)
        write_card(run, prompt, out.resolve().name, folder)
    if gguf is not None:
        gguf.write(out, out.resolve().name)
    return out


def write_merged(run: RunFolder, folder: Path) -> TrainedPrompt | None:
    """Writes the tuned model of a run with its tokenizer; returns how its rows were asked."""
    adapter, base = trained_adapter(run), starting_model(run)
    with quiet():
        model: Any = load_model(base.in_full_precision)
        with run.storage.local(adapter) as directory:
            prompt = read_prompt(str(directory))
            method = find_method(directory)
            method.load(model, directory)
        method.merge(model)
        model.save_pretrained(folder)
        _save_tokenizer(base, prompt, folder)
    give_usual_rights(folder)
    return prompt


def read_prompt(folder: str) -> TrainedPrompt | None:
    """How the rows were asked that a folder's weights learned from; None if it does not say.

    Raises:
        UserError: The file that says it is damaged.
    """
    file = Path(folder).expanduser() / PROMPT
    if not file.is_file():
        return None
    return Storage(str(file.parent)).read_document(TrainedPrompt, PROMPT, fix="delete the file")


def _save_tokenizer(base: ModelConfig, prompt: TrainedPrompt | None, folder: Path) -> None:
    """Writes the tokenizer with the chat template that was used, and how rows were asked."""
    tokenizer = read_tokenizer(base)
    if prompt is not None:
        if prompt.chat_template is not None:
            tokenizer.chat_template = tokenizer.get_chat_template(prompt.chat_template)
        # The tokenizer now has the template.
        own = prompt.model_copy(update={"chat_template": None})
        (folder / PROMPT).write_text(json.dumps(own.to_json(), indent=2) + "\n", encoding="utf-8")
    tokenizer.save_pretrained(folder)


def check_out(out: Path) -> None:
    """Checks the folder of a merged model before anything is computed.

    Raises:
        UserError: The folder is not empty or cannot be written.
    """
    _make_part(out.resolve()).rmdir()


@contextmanager
def _written_whole(out: Path) -> Iterator[Path]:
    """A folder to write to, which becomes ``out`` at the end, or is removed after a failure."""
    part = _make_part(out)
    try:
        yield part
        out.parent.mkdir(parents=True, exist_ok=True)
        part.replace(out)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _make_part(out: Path) -> Path:
    """An empty folder beside ``out``, or beside the first of its missing parents."""
    try:
        # A mount point cannot be replaced by renaming.
        if out.is_file() or out.is_mount() or (out.exists() and any(out.iterdir())):
            raise UserError(
                "--out",
                "must be a new or empty folder",
                got=str(out),
                fix="name a folder that does not exist yet",
            )
        parent = next(folder for folder in out.parents if folder.exists())
        part = parent / f".{out.name}.{uuid.uuid4().hex[:8]}.part"
        part.mkdir()
    except OSError as error:
        raise UserError(
            "--out",
            f"must be writable ({error.strerror})",
            got=str(out),
            fix="choose another folder, or correct its permissions",
        ) from None
    return part


def trained_adapter(run: RunFolder) -> str:
    """The adapter folder of a run, as the storage names it.

    Raises:
        UserError: The run was not trained to its end, or its adapter is damaged.
    """
    training = run.manifest().stages.get("training")
    if training is None:
        raise UserError("--run", "was not trained yet", got=run.name, fix="run it to the end first")
    return Stage.open(run.storage, training.stage).path(ADAPTER)


def starting_model(run: RunFolder) -> ModelConfig:
    """The model that a run's adapter belongs to: the base, or the model that a warm-up trained.

    Raises:
        UserError: The weights that the warm-up kept are damaged.
    """
    manifest = run.manifest()
    config = validate_config(manifest.config)
    base = located(config.model)
    if not config.trained_warmup:
        return base
    return kept_model(base, Stage.open(run.storage, manifest.stages["warmup"].stage))
