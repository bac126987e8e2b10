"""Claims about any JSON value as a document: it is one, or it is refused by its file."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smt_ray.documents.base import Document
from smt_ray.documents.prediction import from_lines
from smt_ray.documents.run import RunManifest, RunMetrics
from smt_ray.errors import UserError
from smt_ray.tracking.records import parse_records
from tests.finished_runs import (
    Content,  # noqa: F401 -- it imports every document of a run
)

Values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)


def kinds(parent: type[Document] = Document) -> list[type[Document]]:
    return [k for child in parent.__subclasses__() for k in (child, *kinds(child))]


def test_the_documents_of_a_run_are_among_them() -> None:
    assert {RunManifest, RunMetrics} <= set(kinds())


@pytest.mark.parametrize("kind", kinds(), ids=lambda kind: kind.__name__)
def test_any_value_is_a_document_or_refused(kind: type[Document]) -> None:
    names = sorted(kind.model_fields)

    @given(Values | st.dictionaries(st.sampled_from(names or ["a"]), Values))
    def any_value(value: Any) -> None:
        try:
            found = kind.from_json(value, place="a.json", fix="restore it")
        except UserError as error:
            problem = str(error)
        else:
            assert kind.from_json(found.to_json(), place="a.json") == found
            return
        assert problem.startswith("a.json: cannot be read (")
        assert problem.endswith("Fix: restore it")

    any_value()


@given(st.text(max_size=60) | st.sampled_from(["[" * 100_000, "9" * 5_000, '{"index": 1}', "{}\n"]))
def test_any_text_is_lines_of_documents_or_refused(text: str) -> None:
    for read in (lambda: from_lines(text, "a.jsonl"), lambda: parse_records(text)):
        with suppress(UserError):
            read()
