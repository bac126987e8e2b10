"""Claims about the loss on rows that are not trained on."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from smt_ray.config.data import DataConfig
from smt_ray.config.model import ModelConfig
from smt_ray.data.encoding.rows import Encoding, encode_rows
from smt_ray.data.prompts import Prompts
from smt_ray.data.rows import Row
from smt_ray.models.load import load_model, load_tokenizer
from smt_ray.probe.probe import probe_skeleton
from smt_ray.training.loss.text import TextLoss, text_loss

ROWS = [
    Row("", "A plain text of some words.", is_verbatim=True),
    Row("Where is it?", "the correct answer is here"),
    Row("", "Short.", is_verbatim=True),
]
DATA = DataConfig(train=["none"], max_length=64)


@pytest.fixture(scope="module")
def tiny() -> tuple[Any, Any]:
    spec = ModelConfig(builtin="tiny")
    return load_model(spec), load_tokenizer(spec)


def plain(model: Any, tokenizer: Any, row: Row) -> tuple[float, int]:
    """The loss of one row by the model's own logits."""
    encoded, _ = encode_rows(tokenizer, [row], Encoding(max_length=64))
    ids, places = encoded.row(0).long(), encoded.targets(0, False)
    with torch.no_grad():
        logits = model(input_ids=ids[None]).logits[0]
    return float(F.cross_entropy(logits[places - 1], ids[places], reduction="sum")), len(places)


def test_the_loss_is_that_of_each_row_alone(tiny: tuple[Any, Any]) -> None:
    model, tokenizer = tiny
    found = text_loss(
        model, Prompts(tokenizer, "clean"), ROWS, DATA, probe_skeleton(model), max_tokens=48
    )
    alone = [plain(model, tokenizer, row) for row in ROWS]
    assert found.nats == pytest.approx(sum(nats for nats, _ in alone), rel=1e-4)
    assert (found.num_tokens, found.num_rows) == (sum(number for _, number in alone), 3)
    # The model is left as it was.
    assert plain(model, tokenizer, ROWS[0]) == alone[0]


def test_the_parts_of_workers_add_up(tiny: tuple[Any, Any]) -> None:
    model, tokenizer = tiny
    prompts, probe = Prompts(tokenizer, "clean"), probe_skeleton(model)
    whole = text_loss(model, prompts, ROWS, DATA, probe, 999)
    parts = [text_loss(model, prompts, ROWS[i::2], DATA, probe, 999) for i in range(2)]
    parts.append(text_loss(model, prompts, [], DATA, probe, 999))
    joined = TextLoss()
    for part in parts:
        joined = joined.plus(part)
    assert joined == pytest.approx(whole, rel=1e-5)
