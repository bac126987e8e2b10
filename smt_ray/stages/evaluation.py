"""Evaluation over Ray workers: each loads the model once and answers its share of every task."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import ray

from smt_ray.artifacts.layout import ADAPTER, EVALUATION_METRICS, predictions_file
from smt_ray.artifacts.stages import Finished, Stage
from smt_ray.cluster.board import announce
from smt_ray.cluster.nodes import rank_resources
from smt_ray.cluster.waiting import wait_for_place
from smt_ray.config.model import ModelConfig
from smt_ray.config.run import RunConfig
from smt_ray.documents.prediction import Prediction
from smt_ray.documents.probe import Probe
from smt_ray.documents.run import Who
from smt_ray.documents.stages import EvaluationSummary, Protocol
from smt_ray.reporting.text.progress import progress
from smt_ray.stages.jobs import Answers, EvaluationJob, TaskShare

if TYPE_CHECKING:  # workers import this file, but not the modules that only the driver needs
    from smt_ray.data.prompts import Prompts
    from smt_ray.evaluation.test_rows import TestRows
    from smt_ray.stages.plan import RunPlan


class EvaluationPool:
    """Workers that hold a model; see :func:`evaluation_pool`."""

    def __init__(self, workers: Sequence[Any], board: Any, config: RunConfig) -> None:
        self._workers, self._board, self._config = workers, board, config

    def evaluate(
        self,
        title: str,
        tests: Mapping[str, TestRows],
        *,
        protocol: Protocol,
        model: ModelConfig,
        probe: Probe,
        adapter: str | None,
    ) -> dict[str, Answers]:
        """The predictions of every task, in the order of its rows.

        Args:
            title: The title of the progress bar.
            model: The model, which is loaded by workers that do not hold it yet.
            probe: What the architecture of the model allows.
            adapter: The folder or URI of an adapter to put on the model; None for the model as it
                is.
        """
        from smt_ray.evaluation.predict import join

        total = sum(len(test.rows) for test in tests.values())
        shares = _shares(tests, len(self._workers))
        jobs = [
            EvaluationJob(title, number, share, protocol, model, probe, adapter, self._config)
            for number, share in enumerate(shares)
        ]
        refs = [
            worker.evaluate.remote(job, self._board)
            for worker, job in zip(self._workers, jobs, strict=True)
        ]
        with progress(title, total, lambda: ray.get(self._board.done.remote(title))):
            parts: list[dict[str, Answers]] = ray.get(refs)
        return {
            task: Answers(
                join((part[task].predictions for part in parts), len(test.rows)),
                max(part[task].seconds for part in parts),
                parts[0][task].prompt,
            )
            for task, test in tests.items()
        }


@contextmanager
def evaluation_pool(config: RunConfig, board: Any) -> Iterator[EvaluationPool]:
    """Starts ``resources.num_workers`` workers, and ends them afterwards.

    Raises:
        UserError: The cluster cannot hold that many workers, or has no place for them in time.
    """
    num_workers, resources = config.resources.num_workers, rank_resources(config)
    wait_for_place("evaluation", num_workers, resources, config.resources.wait_timeout_s)
    actor = ray.remote(_Evaluator).options(
        **resources.options(), max_restarts=3, max_task_retries=3,
        runtime_env={"env_vars": {"OMP_NUM_THREADS": str(resources.num_threads)}},
    )  # fmt: skip
    arguments = (resources.num_threads, resources.device)
    workers: list[Any] = [actor.remote(*arguments) for _ in range(num_workers)]
    try:
        yield EvaluationPool(workers, board, config)
    finally:
        for worker in workers:
            ray.kill(worker)


def make_evaluation(
    plan: RunPlan, pool: EvaluationPool, probe: Probe, who: Who
) -> Finished[EvaluationSummary]:
    """Evaluates the base or the tuned model, and stores the predictions."""
    began, stage = time.monotonic(), plan.evaluations[who]
    is_tuned = stage.inputs["tuned"] is not None
    answers = pool.evaluate(
        f"evaluate {who}",
        plan.tests,
        protocol=stage.inputs["protocol"],
        model=plan.starting_model if is_tuned else plan.model,
        probe=probe,
        adapter=plan.storage.uri(plan.training.path(ADAPTER)) if is_tuned else None,
    )
    return publish_predictions(stage, answers, time.monotonic() - began)


def publish_predictions(
    stage: Stage[EvaluationSummary], answers: Mapping[str, Answers], seconds: float
) -> Finished[EvaluationSummary]:
    """Stores every prediction and the metrics of the tasks."""
    from smt_ray.documents.prediction import to_lines
    from smt_ray.evaluation.metrics import summarise

    protocol, files, tasks = stage.inputs["protocol"], [EVALUATION_METRICS], {}
    for task, (predictions, task_seconds, _) in answers.items():
        files.append(predictions_file(protocol, task))
        stage.storage.write_bytes(stage.path(files[-1]), to_lines(predictions).encode())
        tasks[task] = summarise(predictions, task_seconds)
    prompt = next(iter(answers.values())).prompt
    summary = EvaluationSummary(protocol=protocol, prompt=prompt, tasks=tasks)
    stage.storage.write_json(stage.path(EVALUATION_METRICS), summary.to_json())
    return stage.publish(files, summary, seconds)


def _shares(tests: Mapping[str, TestRows], num_workers: int) -> list[dict[str, TaskShare]]:
    """The share of each worker: every n-th row of each task, which balances lengths and tasks."""
    from smt_ray.evaluation.candidates import answer_pool

    return [
        {
            task: TaskShare(
                test.rows[worker::num_workers],
                range(worker, len(test.rows), num_workers),
                answer_pool(test.rows),
            )
            for task, test in tests.items()
        }
        for worker in range(num_workers)
    ]


class _Evaluator:
    """One process with one model, which is loaded again before it gets another adapter."""

    def __init__(self, num_threads: int, device: str) -> None:
        self._num_threads, self._device = num_threads, device
        self._spec: ModelConfig | None = None
        self._model: Any = None
        self._tokenizer: Any = None
        self._adapter: str | None = None

    def evaluate(self, job: EvaluationJob, board: Any) -> dict[str, Answers]:
        """The predictions of this worker's rows, by task."""
        from smt_ray.data.prompts import Prompts

        announce(board, job.title, job.worker)
        if self._spec != job.model or self._adapter not in (None, job.adapter):
            self._model = None  # an adapter may have changed any weight
        self._load(job.model)
        self._attach(job.adapter)
        prompts = Prompts.of(self._tokenizer, job.config.data)
        before, answers = 0, {}
        for task, share in job.shares.items():
            began = time.monotonic()
            found = self._predict(job, prompts, task, share, before, board)
            answers[task] = Answers(found, time.monotonic() - began, prompts.form)
            before += len(share.rows)
        return answers

    def _load(self, spec: ModelConfig) -> None:
        """Loads the model. Errors of the constructor would not reach the user."""
        if self._model is not None:
            return
        from smt_ray.models.load import import_transformers, load_model, load_tokenizer

        import_transformers()
        import torch

        torch.set_num_threads(self._num_threads)
        self._tokenizer = load_tokenizer(spec)
        self._model, self._adapter = load_model(spec, self._device), None
        self._spec = spec

    def _predict(
        self,
        job: EvaluationJob,
        prompts: Prompts,
        task: str,
        share: TaskShare,
        before: int,
        board: Any,
    ) -> list[Prediction]:
        from smt_ray.evaluation.batches import Padding
        from smt_ray.evaluation.decoding import Decoding
        from smt_ray.evaluation.predict import predict
        from smt_ray.evaluation.tasks import find_task

        def report(done: int, _total: int) -> None:
            board.update.remote(job.title, job.worker, before + done, task)

        evaluation = job.config.evaluation
        return predict(
            self._model,
            self._tokenizer,
            share.rows,
            find_task(task),
            protocol=job.protocol,
            prompts=prompts,
            indices=share.indices,
            answer_pool=share.answer_pool,
            decoding=Decoding.from_config(evaluation),
            batch_tokens=evaluation.batch_tokens,
            padding=Padding.of(job.probe),
            progress=report,
        )

    def _attach(self, adapter: str | None) -> None:
        """Puts an adapter on the model, unless it is there already."""
        from smt_ray.artifacts.storage import local_copy
        from smt_ray.methods.registry import find_method

        if adapter == self._adapter:
            return
        assert adapter is not None
        with local_copy(adapter) as folder:
            find_method(folder).load(self._model, folder)
        self._adapter = adapter
