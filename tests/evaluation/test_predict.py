from __future__ import annotations

import pytest
import torch

from smt_ray.data.prompts import Prompts, build_prompt
from smt_ray.data.rows import Row
from smt_ray.errors import UserError
from smt_ray.evaluation import predict as predict_module
from smt_ray.evaluation.candidates import answer_pool
from smt_ray.evaluation.decoding import Decoding
from smt_ray.evaluation.generate import Generated
from smt_ray.evaluation.predict import join, predict
from smt_ray.evaluation.tasks import TASKS
from tests.evaluation.made import prediction

CHOICE = TASKS["ARC-Easy"]
NUMBER = TASKS["tiny_arithmetic"]


@pytest.fixture
def number_rows() -> list[Row]:
    return [
        Row(f"{i} and {i}?", f"the correct answer is {2 * i}", answer=str(2 * i))
        for i in (1, 5, 6, 60)
    ]


@pytest.mark.parametrize("protocol", ["generate", "likelihood"])
def test_predictions_do_not_depend_on_batches_or_on_how_rows_are_split(
    model, tokenizer, choice_rows, protocol: str
) -> None:
    whole = predict(model, tokenizer, choice_rows, CHOICE, protocol=protocol)
    parts = [
        predict(
            model,
            tokenizer,
            [choice_rows[i] for i in indices],
            CHOICE,
            protocol=protocol,
            indices=indices,
            batch_tokens=1,
        )
        for indices in ([4, 1], [3, 0, 2])
    ]
    joined = join(parts, len(choice_rows))
    for ours, theirs in zip(joined, whole, strict=True):
        assert ours == theirs.model_copy(update={"scores": ours.scores})
        if theirs.scores is not None:
            assert ours.scores == pytest.approx(theirs.scores, abs=1e-5)


@pytest.mark.parametrize("form", ["clean", "legacy"])
def test_a_prediction_has_its_index_prompt_and_expected_answer(
    model, tokenizer, choice_rows, form: str
) -> None:
    predictions = predict(model, tokenizer, choice_rows, CHOICE, prompts=Prompts(tokenizer, form))
    assert [p.index for p in predictions] == list(range(len(choice_rows)))
    assert [p.prompt for p in predictions] == [
        build_prompt(row, form, "evaluation") for row in choice_rows
    ]
    assert [p.expected for p in predictions] == [row.answer for row in choice_rows]


def test_likelihood_takes_the_candidate_of_the_highest_score(model, tokenizer, choice_rows) -> None:
    for found in predict(model, tokenizer, choice_rows, CHOICE, protocol="likelihood"):
        best = max(found.scores, key=found.scores.get)
        assert len(found.scores) == 4
        assert found.extracted == best
        assert found.output == f"the correct answer is {best}"
        assert found.correct == (best == found.expected)


def learn(model, tokenizer, rows: list[Row]) -> None:
    """Trains the model until it knows the rows by heart, EOS included."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(60):
        loss = torch.zeros(())
        for row in rows:
            prompt = tokenizer(build_prompt(row))["input_ids"]
            whole = [*tokenizer(build_prompt(row) + row.output)["input_ids"], 1]
            labels = [-100] * len(prompt) + whole[len(prompt) :]
            loss = loss + model(torch.tensor([whole]), labels=torch.tensor([labels])).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def test_both_protocols_find_what_a_model_has_learned(model, tokenizer, number_rows) -> None:
    learn(model, tokenizer, number_rows)
    pool = answer_pool(number_rows)
    assert pool == ["2", "10", "12", "120"]  # 12 begins 120: only EOS tells that it is complete
    for protocol in ("generate", "likelihood"):
        predictions = predict(
            model,
            tokenizer,
            number_rows,
            NUMBER,
            protocol=protocol,
            answer_pool=pool,
            decoding=Decoding(max_new_tokens=30),
        )
        assert [p.extracted for p in predictions] == ["2", "10", "12", "120"]
        assert all(p.correct for p in predictions)


def test_letters_are_read_by_both_rules_and_labels_in_lower_case_if_configured(
    model, tokenizer, monkeypatch
) -> None:
    texts = {"AQuA": "A is wrong. The answer is (C).", "boolq": "The answer is True"}
    for task, text in texts.items():
        written = [Generated(text, 5, 3)]
        monkeypatch.setattr(predict_module, "generate_texts", lambda *_, w=written, **__: w)
        rows = [Row("?", "!", answer={"AQuA": "C", "boolq": "true"}[task])]
        found = {
            lower: predict(
                model, tokenizer, rows, TASKS[task], decoding=Decoding(lower_case=lower)
            )[0]
            for lower in (False, True)
        }
        if task == "boolq":
            assert [found[lower].extracted for lower in (False, True)] == [None, "true"]
            assert not found[True].has_corrected
        else:
            assert [(p.extracted, p.corrected) for p in found.values()] == [("A", "C")] * 2
            assert all(p.has_corrected for p in found.values())
        assert all(p.output == text for p in found.values())


@pytest.mark.parametrize(
    ("task", "text", "answer"),
    [
        ("gsm8k", "The answer is 4.\n\n### Response:\nThe answer is 5.", "4."),
        ("boolq", "I do not know.\n\n### Response:\nThe answer is True", None),
        ("ARC-Easy", "The correct answer is Answer2\n\n### Response:\nAnswer1", "answer2"),
    ],
)
def test_a_text_read_in_lower_case_still_ends_before_another_response(
    model, tokenizer, monkeypatch, task: str, text: str, answer: str | None
) -> None:
    monkeypatch.setattr(predict_module, "generate_texts", lambda *_, **__: [Generated(text, 5, 3)])
    row = Row("?", "!", answer="4")
    decoding = Decoding(lower_case=True)
    (found,) = predict(model, tokenizer, [row], TASKS[task], decoding=decoding)
    assert found.extracted == answer
    assert found.output == text


def test_the_likelihood_of_open_answers_needs_an_answer_pool(model, tokenizer, number_rows) -> None:
    with pytest.raises(UserError, match="answer_pool: must be given for tiny_arithmetic"):
        predict(model, tokenizer, number_rows, NUMBER, protocol="likelihood")


def test_a_row_without_an_answer_is_named_by_its_index(model, tokenizer, choice_rows) -> None:
    with pytest.raises(UserError, match="ARC-Easy, row 41, field 'answer'"):
        predict(model, tokenizer, [choice_rows[0], Row("?", "!")], CHOICE, indices=[3, 41])


def test_an_unknown_protocol_is_refused(model, tokenizer, choice_rows) -> None:
    with pytest.raises(UserError, match="protocol: must be generate or likelihood; got 'beam'"):
        predict(model, tokenizer, choice_rows, CHOICE, protocol="beam")


def test_a_missing_or_repeated_row_is_an_error() -> None:
    parts = [[prediction(2)], [prediction(0), prediction(1)]]
    assert [p.index for p in join(parts, 3)] == [0, 1, 2]
    with pytest.raises(UserError, match="each of the 4 rows once; got '3 rows'"):
        join(parts, 4)
    with pytest.raises(UserError, match="each of the 3 rows once"):
        join([*parts, parts[0]], 3)
