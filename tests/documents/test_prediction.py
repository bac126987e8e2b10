from __future__ import annotations

import json
import time

import pytest

from smt_ray.documents.prediction import Prediction, from_lines, to_lines
from smt_ray.errors import UserError
from tests.evaluation.made import prediction

ODD = 'ends\u2028\u0085\x1d\r\nin many ways: \u00fc, \u4f60, \U0001f600, "quoted" and \\ \0'


def test_predictions_with_any_texts_are_read_as_they_were_written() -> None:
    predictions = [
        prediction(0, ODD),
        prediction(1, None),
        prediction(2, "A", has_corrected=True),
        prediction(3, "2", scores={"2": -0.1 / 3, ODD: -1e-17}, num_candidate_tokens=9),
    ]
    text = to_lines(predictions)
    assert text.count("\n") == len(predictions)
    assert from_lines(text, "boolq.jsonl") == predictions
    assert from_lines(to_lines([]), "boolq.jsonl") == []


def test_a_line_is_readable_json_without_fields_that_have_their_default() -> None:
    line = to_lines([prediction(5, "\u00fc", num_new_tokens=3)])
    assert "\u00fc" in line
    assert json.loads(line) == {
        "index": 5, "prompt": "?", "output": "\u00fc", "extracted": "\u00fc", "expected": "a",
        "correct": False, "num_new_tokens": 3,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ('{"index": 1', "is not JSON"),
        ("", "is not JSON"),
        ('{"index": 1}', "prompt: Field required"),
        (to_lines([prediction(1)])[:-2] + ', "more": 1}', "more: Extra inputs"),
    ],
)
def test_a_bad_line_is_named_by_file_and_number(bad: str, reason: str) -> None:
    text = f"{to_lines([prediction(0)])}{bad}\n{to_lines([prediction(2)])}"
    with pytest.raises(UserError, match=rf"^generate/boolq.jsonl, line 2: .*{reason}"):
        from_lines(text, "generate/boolq.jsonl")


def test_twenty_thousand_predictions_are_made_in_well_under_a_second() -> None:
    values = prediction(0, scores={"a": -1.0, "b": -2.0}).model_dump()
    began = time.process_time()
    made = [Prediction(**values) for _ in range(20_000)]
    assert time.process_time() - began < 1
    assert len(made) == 20_000
