"""The evaluation worker: a Ray actor that loads the model once and answers its share of rows."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from smt_ray.cluster.board import announce
from smt_ray.config.model import ModelConfig
from smt_ray.documents.prediction import Prediction
from smt_ray.stages.jobs import Answers, Evaluated, EvaluationJob, HarnessJob, TaskShare

if TYPE_CHECKING:  # the actor imports these when it has loaded its model
    from smt_ray.data.prompts import Prompts
    from smt_ray.data.rows import Row
    from smt_ray.evaluation.harness.requests import Answer
    from smt_ray.training.loss.text import TextLoss


class Evaluator:
    """One process with one model, which is loaded again before it gets another adapter."""

    def __init__(self, num_threads: int, device: str, num_devices: int) -> None:
        self._num_threads, self._device, self._num_devices = num_threads, device, num_devices
        self._spec: ModelConfig | None = None
        self._model: Any = None
        self._tokenizer: Any = None
        self._adapter: str | None = None

    def evaluate(self, job: EvaluationJob, board: Any) -> Evaluated:
        """The predictions of this worker's rows, and the loss of its texts."""
        from smt_ray.data.prompts import Prompts

        announce(board, job.title, job.worker)
        self._hold(job.model, job.adapter)
        prompts = Prompts.of(self._tokenizer, job.config.data)
        done, answers, losses = 0, {}, {}
        for name, share in job.shares.items():
            began = time.monotonic()
            found = self._predict(job, prompts, share, done, board)
            answers[name] = Answers(found, time.monotonic() - began)
            done += len(share.rows)
        for name, rows in job.retention.items():
            losses[name] = self._loss(job, prompts, rows)
            done += len(rows)
            board.update.remote(job.title, job.worker, done, name)
        return Evaluated(answers, losses, prompts.form)

    def answer(self, job: HarnessJob, board: Any) -> list[Answer]:
        """The answers of this worker's requests of lm-evaluation-harness."""
        announce(board, job.title, job.worker)
        self._hold(job.model, job.adapter)
        from smt_ray.evaluation.batches import Padding
        from smt_ray.evaluation.harness.library import answer

        return answer(
            self._model,
            self._tokenizer,
            job.requests,
            job.config.evaluation.batch_tokens,
            Padding.of(job.probe),
            lambda done: board.update.remote(job.title, job.worker, done),
        )

    def _hold(self, spec: ModelConfig, adapter: str | None) -> None:
        """Loads the model with its adapter, unless this process holds both."""
        if self._spec != spec or self._adapter not in (None, adapter):
            self._model = None  # an adapter may have changed any weight
        self._load(spec)
        self._attach(adapter)

    def _load(self, spec: ModelConfig) -> None:
        """Loads the model. Errors of the constructor would not reach the user."""
        if self._model is not None:
            return
        from smt_ray.models.load import import_transformers, load_model, load_tokenizer

        import_transformers()
        import torch

        torch.set_num_threads(self._num_threads)
        self._tokenizer = load_tokenizer(spec)
        self._model = load_model(spec, self._device, self._num_devices)
        self._adapter = None
        self._spec = spec

    def _predict(
        self, job: EvaluationJob, prompts: Prompts, share: TaskShare, before: int, board: Any
    ) -> list[Prediction]:
        from smt_ray.data.prompts import Prompts
        from smt_ray.evaluation.batches import Padding
        from smt_ray.evaluation.decoding import Decoding
        from smt_ray.evaluation.predict import predict

        def report(done: int, _total: int) -> None:
            board.update.remote(job.title, job.worker, before + done, share.task.name)

        evaluation = job.config.evaluation
        if share.task.prompt is not None:
            prompts = Prompts.of(self._tokenizer, job.config.data, share.task.prompt)
        decoding = Decoding.from_config(evaluation)
        return predict(
            self._model,
            self._tokenizer,
            share.rows,
            share.task,
            protocol=job.protocol,
            prompts=prompts,
            indices=share.indices,
            answer_pool=share.answer_pool,
            decoding=replace(decoding, max_new_tokens=share.max_new_tokens),
            batch_tokens=evaluation.batch_tokens,
            padding=Padding.of(job.probe),
            progress=report,
        )

    def _loss(self, job: EvaluationJob, prompts: Prompts, rows: Sequence[Row]) -> TextLoss:
        from smt_ray.training.loss.text import text_loss

        limit = job.config.batching.max_tokens
        return text_loss(self._model, prompts, rows, job.config.data, job.probe, limit)

    def _attach(self, adapter: str | None) -> None:
        """Puts an adapter on the model, unless it is there already."""
        from smt_ray.artifacts.storage import local_copy
        from smt_ray.methods.adapters import find_method

        if adapter == self._adapter:
            return
        assert adapter is not None
        with local_copy(adapter) as folder:
            find_method(folder).load(self._model, folder)
        self._adapter = adapter
