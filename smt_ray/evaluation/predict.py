"""Rows in, one record a row out: the one door that the rest of the package evaluates through.

A record depends on its row alone, so rows can be split over processes in any way (with their
``indices``) and :func:`join` puts the parts together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

from smt_ray.data.prompts import PromptForm, build_prompt
from smt_ray.data.rows import Row
from smt_ray.errors import UserError
from smt_ray.evaluation.answers import extract, is_correct, stated_letter
from smt_ray.evaluation.candidates import complete, row_candidates
from smt_ray.evaluation.decoding import GREEDY, Decoding
from smt_ray.evaluation.generate import Generated, generate_texts
from smt_ray.evaluation.likelihood import candidate_log_likelihoods
from smt_ray.evaluation.metrics import accuracy, majority_share, wilson_interval
from smt_ray.evaluation.tasks import Task

Protocol = Literal["generate", "likelihood"]
Prediction = dict[str, Any]


def predict(
    model: Any,
    tokenizer: Any,
    rows: Sequence[Row],
    task: Task,
    *,
    protocol: Protocol = "generate",
    prompt_form: PromptForm = "clean",
    indices: Sequence[int] | None = None,
    answer_pool: Sequence[str] | None = None,
    decoding: Decoding = GREEDY,
    batch_tokens: int = 8192,
    progress: Callable[[int, int], None] | None = None,
) -> list[Prediction]:
    """Asks the model every row and reads its answers.

    Args:
        model: A transformers causal language model.
        tokenizer: Its tokenizer.
        rows: The rows, or this process's part of them; each has an ``answer``.
        task: How they are read.
        protocol: ``generate`` lets the model write; ``likelihood`` takes the candidate answer whose
            completion it holds likeliest (mean over tokens; the first of equal ones).
        prompt_form: See :func:`smt_ray.data.prompts.build_prompt`.
        indices: Position of each row in the whole; by default 0, 1, ...
        answer_pool: All answers there are (:func:`smt_ray.evaluation.candidates.answer_pool` of
            *all* rows); needed by likelihood for a task whose candidates are ``answers``.
        decoding: How texts are written and read; only for ``generate``.
        batch_tokens: Most tokens a batch; changes no prediction (in float32).
        progress: Called with the numbers of rows done and of all.

    Returns:
        For each row ``index``, ``prompt``, ``output`` (text), ``extracted`` (or None),
        ``expected``, ``correct``; ``corrected`` (what the corrected rule reads) where the task's
        published rule is faulty; for generate ``num_prompt_tokens`` and ``num_new_tokens``, for
        likelihood ``scores`` (mean log-likelihood of each candidate, in nats).

    Raises:
        UserError: A row has no answer, does not fit the protocol or the model, or logits are not
            finite.
    """
    places = list(range(len(rows))) if indices is None else list(indices)
    names = [f"{task.name}, row {index}" for index in places]
    _check_answers(rows, names)
    prompts = [build_prompt(row, prompt_form, "evaluation") for row in rows]
    common: dict[str, Any] = {"names": names, "batch_tokens": batch_tokens, "progress": progress}
    if protocol == "generate":
        read = _generated(model, tokenizer, task, prompts, decoding, common)
    elif protocol == "likelihood":
        read = _likeliest(model, tokenizer, rows, task, prompts, answer_pool, common)
    else:
        raise UserError("protocol", "must be generate or likelihood", got=protocol)
    return [
        {
            "index": index,
            "prompt": prompt,
            **found,
            "expected": row.answer,
            "correct": is_correct(task, found["extracted"], row.answer),
        }
        for index, row, prompt, found in zip(places, rows, prompts, read, strict=True)
    ]


def _check_answers(rows: Sequence[Row], names: Sequence[str]) -> None:
    for row, name in zip(rows, names, strict=True):
        if not row.answer:
            raise UserError(f"{name}, field 'answer'", "must be given to evaluate the row", got="")


def _generated(
    model: Any,
    tokenizer: Any,
    task: Task,
    prompts: Sequence[str],
    decoding: Decoding,
    common: dict[str, Any],
) -> list[Prediction]:
    texts = generate_texts(
        model,
        tokenizer,
        prompts,
        max_new_tokens=decoding.max_new_tokens or task.max_new_tokens,
        num_beams=decoding.num_beams,
        repetition_penalty=decoding.repetition_penalty,
        **common,
    )
    return [_read(task, found, decoding.lower_case) for found in texts]


def _read(task: Task, generated: Generated, lower_case: bool) -> Prediction:
    text = generated.text
    found: Prediction = {
        "output": text,
        "num_prompt_tokens": generated.num_prompt_tokens,
        "num_new_tokens": generated.num_new_tokens,
    }
    found["extracted"] = extract(task, text, lower_case=lower_case)
    if task.answer == "letter":
        found["corrected"] = stated_letter(task, text)
    return found


def _likeliest(
    model: Any,
    tokenizer: Any,
    rows: Sequence[Row],
    task: Task,
    prompts: Sequence[str],
    pool: Sequence[str] | None,
    common: dict[str, Any],
) -> list[Prediction]:
    if task.candidates == "answers" and pool is None:
        # The rows' own answers would make a prediction depend on how rows are split.
        raise UserError("answer_pool", f"must be given for {task.name}", got=None)
    names = common["names"]
    candidates = [
        row_candidates(task, row, pool or (), name) for row, name in zip(rows, names, strict=True)
    ]
    completions = [
        [complete(row, candidate, name) for candidate in offered]
        for row, offered, name in zip(rows, candidates, names, strict=True)
    ]
    found = candidate_log_likelihoods(
        model,
        tokenizer,
        prompts,
        completions,
        # Answers may begin one another ("1" and "12"): only their end tells them apart.
        with_eos=task.candidates == "answers",
        **common,
    )
    best = [max(range(len(row.scores)), key=row.scores.__getitem__) for row in found]
    return [
        {
            "output": completions[i][b],
            "extracted": candidates[i][b],
            "scores": dict(zip(candidates[i], row.scores, strict=True)),
            "num_prompt_tokens": row.num_prompt_tokens,
            "num_candidate_tokens": row.num_candidate_tokens,
        }
        for i, (b, row) in enumerate(zip(best, found, strict=True))
    ]


def join(parts: Iterable[Iterable[Prediction]], num_rows: int) -> list[Prediction]:
    """The predictions of all rows, in their order, from parts in any order.

    Raises:
        UserError: A row is missing or there twice.
    """
    joined = sorted((p for part in parts for p in part), key=lambda p: p["index"])
    indices = [prediction["index"] for prediction in joined]
    if indices != list(range(num_rows)):
        raise UserError(
            "predictions", f"must hold each of the {num_rows} rows once", got=f"{len(indices)} rows"
        )
    return joined


def summarise(predictions: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What a task's predictions add up to; their order does not matter.

    Returns:
        ``num_rows``, ``num_correct``, ``num_unread`` (no answer could be extracted), ``accuracy``,
        ``interval`` (95%, Wilson: [low, high]) and ``majority_share`` (the accuracy of always
        giving the most frequent answer); shares are in [0, 1]. Where a corrected rule read the
        texts too, ``corrected`` with its ``num_correct``, ``num_unread``, ``accuracy``,
        ``interval``.

    Raises:
        UserError: There are no predictions.
    """
    if not predictions:
        raise UserError("predictions", "must hold at least one row", got=0)
    summary = {
        "num_rows": len(predictions),
        **_counts(predictions, "extracted"),
        "majority_share": majority_share([prediction["expected"] for prediction in predictions]),
    }
    if all("corrected" in prediction for prediction in predictions):
        summary["corrected"] = _counts(predictions, "corrected")
    return summary


def _counts(predictions: Sequence[Mapping[str, Any]], rule: str) -> dict[str, Any]:
    """What one rule's reading comes to; ``correct`` is the published one's."""
    num_rows = len(predictions)
    num_correct = sum(
        bool(p["correct"] if rule == "extracted" else p[rule] == p["expected"]) for p in predictions
    )
    return {
        "num_correct": num_correct,
        "num_unread": sum(p[rule] is None for p in predictions),
        "accuracy": accuracy(num_correct, num_rows),
        "interval": list(wilson_interval(num_correct, num_rows)),
    }
