"""Claims about a run on rows of one's own: chat rows, test questions, and text to remember."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from smt_ray.builtin.suites import generate_rows
from smt_ray.config.data import DataConfig
from smt_ray.config.load import load_config
from smt_ray.config.model import ModelConfig
from smt_ray.data.prompts import Prompts
from smt_ray.data.rows import Row
from smt_ray.models.load import load_model, load_tokenizer
from smt_ray.probe.probe import probe_skeleton
from smt_ray.reporting.text.run import to_markdown
from smt_ray.training.loss.text import text_loss

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("cluster")]

TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}> {{ m.content }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant> {% endif %}"
)
TEXTS = [f"The {thing} of the town is old." for thing in ("house", "tree", "boat")]


def chat(record: dict[str, str], **turn: Any) -> dict[str, Any]:
    asked = {"role": "user", "content": record["instruction"]}
    return {"messages": [asked, {"role": "assistant", "content": record["output"], **turn}]}


def write(path: Path, rows: list[Any]) -> None:
    path.write_text("\n".join(map(json.dumps, rows)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own")
    learned = [chat(record) for record in generate_rows("tiny_arithmetic", "train")[:320]]
    write(folder / "chat.jsonl", [*learned, learned[0], {"text": " "}])
    test = [chat(record) for record in generate_rows("tiny_arithmetic", "test")[:40]]
    write(folder / "test.jsonl", test)
    write(folder / "text.jsonl", [{"text": text} for text in TEXTS])
    (folder / "chat.jinja").write_text(TEMPLATE)
    return folder


def config(folder: Path, *overrides: str) -> Any:
    task = {"name": "sums", "rows": "test.jsonl", "answer": "number", "max_new_tokens": 16}
    data = {
        "dir": str(folder), "train": ["chat.jsonl"], "validation_rows": 0.1, "max_length": 128,
        "chat_template": str(folder / "chat.jinja"), "bad_rows": "skip",
    }  # fmt: skip
    values = [
        "name=own", f"storage={folder / 'storage'}", "method=full", f"data={json.dumps(data)}",
        "training={max_steps: 30, learning_rate: 1e-3, batch_size: 16}",
        "resources={num_workers: 2, use_gpu: false}", "tracking.enabled=false",
        f"evaluation={json.dumps({'tasks': [task], 'retention': ['text.jsonl']})}",
    ]  # fmt: skip
    return load_config(None, [*values, *overrides])


@pytest.fixture(scope="module")
def metrics(cluster: None, folder: Path) -> Any:
    from smt_ray.run import flow

    return flow.run(config(folder))


def base_loss(rows: list[Row]) -> float:
    """The loss of the base model, with everything in one process."""
    model, tokenizer = (
        load_model(ModelConfig(builtin="tiny")),
        load_tokenizer(ModelConfig(builtin="tiny")),
    )
    data = DataConfig(train=["none"], max_length=128, chat_template=TEMPLATE)
    prompts = Prompts.of(tokenizer, data)
    found = text_loss(model, prompts, rows, data, probe_skeleton(model), 1024)
    return found.nats / found.num_tokens


def test_the_table_has_accuracy_retention_and_loss(metrics: Any) -> None:
    own = metrics.tasks["sums"]
    assert own.num_rows == 40
    assert own.base.accuracy == 0  # it was never asked in this form
    assert own.tuned.accuracy > 0.5
    assert own.tuned.interval[0] < own.tuned.accuracy <= own.tuned.interval[1]
    text = to_markdown(metrics)
    for words in ("sums", "validation loss", "before", "retention, text", "prompt form chat"):
        assert words in text


def test_rows_are_counted(metrics: Any) -> None:
    rows = metrics.rows
    assert (rows.prompt, rows.unread.number) == ("chat", 1)
    assert rows.training.num_rows + rows.validation.num_rows == 321
    assert "row 321, field 'text'" in rows.unread.first


def test_what_was_forgotten_is_the_change_of_the_loss_on_the_text(metrics: Any) -> None:
    kept = metrics.retention["text"]
    expected = base_loss([Row("", text, is_verbatim=True) for text in TEXTS])
    assert kept.base.loss == pytest.approx(expected, rel=1e-4)
    assert kept.tuned.loss != kept.base.loss
    assert kept.tuned.num_rows == len(TEXTS)


def test_the_loss_before_training_is_that_of_the_base_model(metrics: Any, folder: Path) -> None:
    from smt_ray.data.splits import read_split

    held_out = read_split(config(folder).data, 0).validation
    assert metrics.training.loss_before == pytest.approx(base_loss(held_out), rel=1e-4)
    assert metrics.training.validation_loss < metrics.training.loss_before


def test_a_merged_model_is_asked_in_the_form_that_it_learned(metrics: Any, folder: Path) -> None:
    from smt_ray.artifacts.storage import Storage
    from smt_ray.run.evaluate import evaluate_model, evaluate_run
    from smt_ray.run.export.merge import merge_run

    storage = folder / "storage"
    again = evaluate_run(str(storage), "own", ["sums"], None, [])
    assert again.tasks["sums"].accuracy == metrics.tasks["sums"].tuned.accuracy
    merged = merge_run(Storage(str(storage)), "own", folder / "merged")
    assert load_tokenizer(ModelConfig(path=str(merged))).chat_template == TEMPLATE
    few = ["evaluation.max_rows=40"]
    asked = evaluate_model(str(storage), str(merged), None, ["tiny_arithmetic"], None, few)
    assert asked.prompt == "chat"
    assert asked.tasks["tiny_arithmetic"].accuracy == metrics.tasks["sums"].tuned.accuracy
