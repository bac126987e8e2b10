"""The model card of a merged model, from the folder of its run."""

from __future__ import annotations

from pathlib import Path

from smt_ray.artifacts.layout import ENVIRONMENT
from smt_ray.artifacts.runs import RunFolder
from smt_ray.config.load import validate_config
from smt_ray.config.model import ModelConfig
from smt_ray.data.prompts import build_prompt
from smt_ray.data.rows import Row
from smt_ray.documents.prompt import TrainedPrompt
from smt_ray.documents.run import Environment, RunMetrics
from smt_ray.reporting.model_card import CardContents, model_card

CARD = "README.md"


def write_card(run: RunFolder, prompt: TrainedPrompt | None, title: str, folder: Path) -> None:
    """Writes README.md into the folder of a merged model.

    Args:
        run: The run that trained the model.
        prompt: How the rows were asked; None if the adapter does not say.
        title: The name of the model.
        folder: The folder, which exists.

    Raises:
        UserError: A document of the run is damaged.
    """
    (folder / CARD).write_text(model_card(_contents(run, prompt, title)), encoding="utf-8")


def _contents(run: RunFolder, prompt: TrainedPrompt | None, title: str) -> CardContents:
    manifest = run.manifest()
    config = validate_config(manifest.config)
    form = prompt.prompt if prompt else None
    return CardContents(
        title=title,
        base=_public_name(config.model),
        is_hub_base=_is_on_hub(config.model),
        metrics=run.metrics() or RunMetrics(name=run.name, method=config.method),
        config=manifest.config,
        datasets=manifest.datasets,
        environment=_environment(run),
        prompt_form=form,
        prompt=""
        if prompt is None or prompt.prompt == "chat"
        else build_prompt(Row("QUESTION", ""), prompt.prompt, "evaluation"),
    )


def _is_on_hub(model: ModelConfig) -> bool:
    path = model.path or ""
    is_place = "://" in path or path.startswith((".", "/", "~")) or Path(path).expanduser().exists()
    return bool(path) and path.count("/") <= 1 and not is_place


def _public_name(model: ModelConfig) -> str:
    """The name of the base model without folders of this machine."""
    if model.builtin:
        return f"the built-in model {model.builtin} of smt-ray"
    if _is_on_hub(model):
        return str(model.path)
    return model.gguf_file or Path(model.name).name


def _environment(run: RunFolder) -> Environment:
    if not run.storage.exists(run.path(ENVIRONMENT)):
        return Environment()
    return run.storage.read_document(Environment, run.path(ENVIRONMENT), fix="delete it")
