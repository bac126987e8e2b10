"""Claims about the card that ``smt-ray merge`` writes: it names what others can find."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from smt_ray.artifacts.runs import RunFolder
from smt_ray.artifacts.storage import Storage
from smt_ray.config.load import load_config
from smt_ray.data.prompts import build_prompt
from smt_ray.data.rows import Row
from smt_ray.documents.prompt import TrainedPrompt
from smt_ray.run.export.card import write_card


def card(folder: Path, *overrides: str, prompt: TrainedPrompt | None = None) -> ModelCard:
    storage = Storage(str(folder / "storage"))
    config = load_config(None, [f"storage={storage.root}", "name=mine", *overrides])
    run = RunFolder(storage, "mine")
    run.update(config=config.model_dump(mode="json"), semantic=config.semantic_tree(), stages={})
    write_card(run, prompt, "merged", folder)
    return ModelCard.load(folder / "README.md")


@pytest.mark.parametrize(
    ("model", "shown", "on_hub"),
    [
        ("{path: owner/base}", "owner/base", True),
        ("{path: gpt2}", "gpt2", True),
        ("{path: FOLDER/base}", "base", False),
        ("{path: FOLDER, gguf_file: base.Q4_1.gguf}", "base.Q4_1.gguf", False),
        ("{path: s3://bucket/base}", "base", False),
        ("{builtin: tiny}", "the built-in model tiny of smt-ray", False),
    ],
)
def test_the_base_is_named_without_folders_and_linked_if_it_is_on_the_hub(
    tmp_path: Path, model: str, shown: str, on_hub: bool
) -> None:
    found = card(tmp_path, f"model={model.replace('FOLDER', str(tmp_path))}")
    assert f"This model is {shown}, tuned by" in found.text
    assert found.data.base_model == (shown if on_hub else None)
    assert str(tmp_path) not in str(found)


@pytest.mark.parametrize("form", ["clean", "legacy", "published"])
def test_the_code_asks_with_the_very_prompt_of_the_evaluation(tmp_path: Path, form: str) -> None:
    prompt = TrainedPrompt.model_validate({"prompt": form})
    expected = build_prompt(Row("QUESTION", ""), prompt.prompt, "evaluation")  # type: ignore[arg-type]
    assert repr(expected) in card(tmp_path, prompt=prompt).text
