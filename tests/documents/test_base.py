"""Claims about all documents: what is read is what was written, or a clear error."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any

import pytest
from pydantic import ValidationError

import smt_ray.documents
from smt_ray.documents.base import Document
from smt_ray.documents.checkpoint import BestStep
from smt_ray.errors import UserError

GOOD: dict[str, Any] = {"num_steps": 7, "loss": 0.5}


def all_documents() -> list[type[Document]]:
    for module in pkgutil.iter_modules(smt_ray.documents.__path__):
        importlib.import_module(f"smt_ray.documents.{module.name}")
    kinds, found = list(Document.__subclasses__()), []
    while kinds:
        found.append(kinds.pop())
        kinds += found[-1].__subclasses__()
    return [kind for kind in found if kind.__module__.startswith("smt_ray.documents")]


def test_a_document_survives_a_round_trip() -> None:
    document = BestStep(num_steps=7, loss=0.1 + 0.2)
    assert BestStep.from_json(document.to_json(), place="x") == document


@pytest.mark.parametrize(
    ("value", "field"),
    [
        ([], "the document"),
        (None, "the document"),
        ({"num_steps": 7}, "loss"),
        (GOOD | {"loss": "low"}, "loss"),
        (GOOD | {"num_steps": -1}, "num_steps"),
        (GOOD | {"los": 1}, "los"),
    ],
)
def test_the_first_bad_field_is_named(value: Any, field: str) -> None:
    with pytest.raises(
        UserError, match=rf"^v\.json: cannot be read \({field}: .+\. Fix: wait$"
    ) as raised:
        BestStep.from_json(value, place="v.json", fix="wait")
    assert raised.value.field == "v.json"


def test_every_document_is_frozen_and_strict_about_its_keys() -> None:
    kinds = all_documents()
    assert len(kinds) > 20
    for kind in kinds:
        assert kind.model_config["frozen"], kind
        assert kind.model_config["extra"] == "forbid", kind


def test_a_document_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        BestStep(**GOOD).loss = 2.0
