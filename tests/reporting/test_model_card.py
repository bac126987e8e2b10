"""Claims about the card of a merged model: what the hub reads, and what a reader needs."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard

from smt_ray.config.load import load_config
from smt_ray.documents.run import Dataset, Environment, RunMetrics
from smt_ray.reporting.model_card import CardContents, model_card

METRICS = RunMetrics.model_validate(
    {
        "name": "mine",
        "method": "smt",
        "model": {"name": "owner/base", "num_parameters": 1000},
        "tasks": {
            "boolq": {
                "num_rows": 50,
                "base": {"accuracy": 0.5, "interval": [0.4, 0.6]},
                "tuned": {"accuracy": 0.75, "interval": [0.65, 0.85]},
            }
        },
        "lm_eval": {
            "arc": {
                "tuned": {
                    "num_rows": 9,
                    "metrics": [{"name": "acc", "value": 0.25, "stderr": 0.1}],
                }
            }
        },
        "selection": {"num_blocks": 7, "block_size": 16},
        "training": {"num_steps": 40},
        "paths": {"run": "/home/me/runs/mine", "adapter": "/home/me/adapter"},
    }
)  # fmt: skip
DATASETS = [
    Dataset(name="training", source="hub:owner/rows, /home/me/more.jsonl", digest="a" * 64,
            num_rows=90, context="training"),
    Dataset(name="boolq", source="hub:google/boolq", digest="b" * 64, num_rows=50, context="test"),
]  # fmt: skip


def card(**changes: Any) -> ModelCard:
    given: dict[str, Any] = {
        "title": "mine-merged",
        "base": "owner/base",
        "is_hub_base": True,
        "metrics": METRICS,
        "config": load_config(None, []).model_dump(mode="json"),
        "datasets": DATASETS,
        "environment": Environment(packages={"smt-ray": "0.1.0", "torch": None}, commit="abc"),
        "prompt_form": "clean",
        "prompt": "### Instruction:\nQUESTION\n\n### Response:\n",
        **changes,
    }
    return ModelCard(model_card(CardContents(**given)))


def test_the_metadata_is_what_the_hub_reads() -> None:
    data = card().data
    assert data.base_model == "owner/base"
    assert data.to_dict()["base_model_relation"] == "finetune"
    assert data.datasets == ["google/boolq"]
    assert (data.library_name, data.pipeline_tag) == ("transformers", "text-generation")
    assert data.tags == ["smt-ray", "sparse-matrix-tuning"]
    assert data.model_name == "mine-merged"
    figures = {(r.dataset_name, r.metric_type): r.metric_value for r in data.eval_results}
    assert figures == {("boolq", "accuracy"): 0.75, ("arc", "acc"): 0.25}
    assert yaml.safe_load(data.to_yaml())["model-index"]


def test_a_base_that_is_not_on_the_hub_is_no_metadata() -> None:
    data = card(base="folder", is_hub_base=False).data
    assert data.base_model is None
    assert "base_model_relation" not in data.to_dict()


def test_a_run_without_figures_has_no_results() -> None:
    found = card(metrics=RunMetrics(name="mine", method="lora"), datasets=[])
    assert found.data.eval_results is None
    assert "## Results" not in found.text
    assert found.data.tags == ["smt-ray", "lora"]


def test_a_reader_finds_the_base_the_method_the_figures_and_the_data() -> None:
    text = card().text
    for words in (
        "This model is owner/base, tuned by Sparse Matrix Tuning",
        "| boolq | 50 | 50.0 (40.0-60.0) | 75.0 (65.0-85.0) | +25.0 |",
        "| arc, acc | 9 | 0.2500 (± 0.1000) |",
        "- base model: owner/base, 1,000 parameters, float32",
        "- method: smt",
        "of the base model's parameters",
        "40 steps of 16 rows",
        "- made with: smt-ray 0.1.0, commit abc",
        "| boolq | 50 | test | hub:google/boolq | bbbbbbbbbbbb |",
    ):
        assert words in text


def test_no_folder_of_the_machine_is_shown() -> None:
    assert "/home" not in str(card())
    assert "hub:owner/rows, more.jsonl" in card().text


@pytest.mark.parametrize(
    ("selection", "words"),
    [
        ({"score": "l2"}, "trains the blocks of the weights with the largest gradients in a short"),
        ({"score": "random"}, "trains the blocks of the weights that were drawn at random."),
        ({"score": "magnitude"}, "trains the blocks of the weights with the largest weights."),
        (
            {"score": "activation", "block_shape": "column"},
            "trains the input columns of the weights with the largest inputs in a short warm-up.",
        ),
        (None, "trains selected parts of the weights. The tuned"),
    ],
)
def test_the_method_is_described_as_the_run_used_it(selection: Any, words: str) -> None:
    metrics = RunMetrics.model_validate({**METRICS.to_json(), "selection": selection})
    assert words in card(metrics=metrics).text


def test_an_adapter_that_training_started_from_is_named_without_its_folder() -> None:
    settings = {"init_adapter": "/home/me/adapter", "rank": 8}
    text = card(metrics=METRICS.model_copy(update={"method_settings": settings})).text
    assert "- start: an earlier adapter" in text
    assert "- factors: rank 8" in text
    assert "/home" not in text


@pytest.mark.parametrize("form", ["chat", "clean", None])
def test_the_code_loads_the_model_and_asks_it_as_it_was_trained(form: str | None) -> None:
    prompt = "### QUESTION\n" if form == "clean" else ""
    text = card(prompt_form=form, prompt=prompt).text
    code = text.split("```python\n")[1].split("```")[0]
    compile(code, "card", "exec")
    assert 'AutoModelForCausalLM.from_pretrained("mine-merged"' in code
    assert ("apply_chat_template" in code) == (form == "chat")
    assert (repr("### QUESTION\n") in code) == (form == "clean")
