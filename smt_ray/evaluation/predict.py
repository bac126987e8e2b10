"""Predictions: the entry point of evaluation. Rows go in, and one prediction for each comes out.

A prediction depends on its row alone. So rows can be split over processes in any way, with their
``indices``, and :func:`join` puts the parts together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from smt_ray.data.prompts import Prompts
from smt_ray.data.rows import Prompt, Row
from smt_ray.documents.prediction import Prediction
from smt_ray.documents.stages import Protocol
from smt_ray.errors import UserError
from smt_ray.evaluation.answers import extract, is_correct, stated_letter
from smt_ray.evaluation.batches import EXACT, Padding
from smt_ray.evaluation.candidates import complete, row_candidates
from smt_ray.evaluation.decoding import GREEDY, Decoding
from smt_ray.evaluation.generate import Generated, generate_texts
from smt_ray.evaluation.likelihood import candidate_log_likelihoods
from smt_ray.evaluation.tasks import Task


def predict(
    model: Any,
    tokenizer: Any,
    rows: Sequence[Row],
    task: Task,
    *,
    protocol: Protocol = "generate",
    prompts: Prompts | None = None,
    indices: Sequence[int] | None = None,
    answer_pool: Sequence[str] | None = None,
    decoding: Decoding = GREEDY,
    batch_tokens: int = 8192,
    padding: Padding = EXACT,
    progress: Callable[[int, int], None] | None = None,
) -> list[Prediction]:
    """Asks a model the rows of a task and reads its answers.

    Args:
        model: A transformers causal language model.
        tokenizer: Its tokenizer.
        rows: The rows, or this process's part of them; each has an ``answer``.
        task: Their task.
        protocol: ``generate`` reads the answer from a generated text; ``likelihood`` takes the
            candidate answer whose completion has the highest mean log-likelihood per token.
        prompts: How rows become text, as in training; by default in the clean form.
        indices: The position of each row in the whole task; by default 0, 1, ...
        answer_pool: All answers of the task, for likelihood (see
            :func:`smt_ray.evaluation.candidates.answer_pool`).
        decoding: How texts are generated and read.
        batch_tokens: The largest number of tokens of a batch; it changes no prediction in float32.
        padding: Where padding leaves the model's results as they are.
        progress: A function that is called with the number of finished rows and that of all rows.

    Raises:
        UserError: A row has no answer, does not fit the protocol or the model, or logits are not
            finite.
    """
    places = list(range(len(rows))) if indices is None else list(indices)
    names = [f"{task.name}, row {index}" for index in places]
    _check_answers(rows, names)
    asked = list(map((prompts or Prompts(tokenizer, "clean")).ask, rows))
    asking = _Asking(model, tokenizer, task, rows, names, asked, batch_tokens, padding, progress)
    if protocol == "generate":
        answers = asking.generate(decoding)
    elif protocol == "likelihood":
        answers = asking.choose(answer_pool)
    else:
        raise UserError("protocol", "must be generate or likelihood", got=protocol)
    return [
        Prediction(
            index=index,
            prompt=prompt.text,
            expected=row.answer,
            correct=is_correct(task, answer.extracted, row.answer),
            **answer._asdict(),
        )
        for index, row, prompt, answer in zip(places, rows, asked, answers, strict=True)
    ]


def join(parts: Iterable[Iterable[Prediction]], num_rows: int) -> list[Prediction]:
    """The predictions of all rows, in their order, from parts in any order.

    Raises:
        UserError: A row is missing, or it is there twice.
    """
    joined = sorted((p for part in parts for p in part), key=lambda p: p.index)
    if [p.index for p in joined] != list(range(num_rows)):
        raise UserError(
            "predictions", f"must hold each of the {num_rows} rows once", got=f"{len(joined)} rows"
        )
    return joined


class _Answer(NamedTuple):
    """The fields of a prediction that come from the model."""

    output: str
    extracted: str | None
    num_prompt_tokens: int
    num_new_tokens: int = 0
    has_corrected: bool = False
    corrected: str | None = None
    num_candidate_tokens: int = 0
    scores: dict[str, float] | None = None


@dataclass(frozen=True)
class _Asking:
    """Everything that both protocols need to ask a model the rows of a task."""

    model: Any
    tokenizer: Any
    task: Task
    rows: Sequence[Row]
    names: Sequence[str]
    prompts: Sequence[Prompt]
    batch_tokens: int
    padding: Padding
    progress: Callable[[int, int], None] | None

    def generate(self, decoding: Decoding) -> list[_Answer]:
        texts = generate_texts(
            self.model,
            self.tokenizer,
            self.prompts,
            max_new_tokens=decoding.max_new_tokens or self.task.max_new_tokens,
            num_beams=decoding.num_beams,
            repetition_penalty=decoding.repetition_penalty,
            names=self.names,
            batch_tokens=self.batch_tokens,
            padding=self.padding,
            progress=self.progress,
        )
        return [self._read(found, decoding.lower_case) for found in texts]

    def _read(self, found: Generated, lower_case: bool) -> _Answer:
        has_corrected = self.task.answer == "letter"
        return _Answer(
            output=found.text,
            extracted=extract(self.task, found.text, lower_case=lower_case),
            num_prompt_tokens=found.num_prompt_tokens,
            num_new_tokens=found.num_new_tokens,
            has_corrected=has_corrected,
            corrected=stated_letter(self.task, found.text) if has_corrected else None,
        )

    def choose(self, pool: Sequence[str] | None) -> list[_Answer]:
        """The likeliest candidates; of equal ones the first."""
        if self.task.candidates == "answers" and pool is None:
            # With the rows' own answers, a prediction would depend on how rows are split.
            raise UserError("answer_pool", f"must be given for {self.task.name}", got=None)
        candidates = [
            row_candidates(self.task, row, pool or (), name)
            for row, name in zip(self.rows, self.names, strict=True)
        ]
        completions = [
            [complete(self.task, row, candidate, name) for candidate in offered]
            for row, offered, name in zip(self.rows, candidates, self.names, strict=True)
        ]
        found = candidate_log_likelihoods(
            self.model,
            self.tokenizer,
            self.prompts,
            completions,
            with_eos=self.task.ends_matter,
            names=self.names,
            batch_tokens=self.batch_tokens,
            padding=self.padding,
            progress=self.progress,
        )
        best = [max(range(len(row.scores)), key=row.scores.__getitem__) for row in found]
        return [
            _Answer(
                output=completions[i][b],
                extracted=candidates[i][b],
                num_prompt_tokens=row.num_prompt_tokens,
                num_candidate_tokens=row.num_candidate_tokens,
                scores=dict(zip(candidates[i], row.scores, strict=True)),
            )
            for i, (b, row) in enumerate(zip(best, found, strict=True))
        ]


def _check_answers(rows: Sequence[Row], names: Sequence[str]) -> None:
    for row, name in zip(rows, names, strict=True):
        if not row.answer:
            raise UserError(f"{name}, field 'answer'", "must be given to evaluate the row", got="")
