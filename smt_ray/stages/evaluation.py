"""Evaluation over Ray workers: each answers its share of every task."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import reduce
from typing import TYPE_CHECKING, Any

import ray

from smt_ray.artifacts.layout import (
    ADAPTER,
    EVALUATION_METRICS,
    LM_EVAL_RESULTS,
    predictions_file,
)
from smt_ray.artifacts.stages import Finished, Stage
from smt_ray.cluster.nodes import evaluator_resources
from smt_ray.cluster.waiting import wait_for_place
from smt_ray.config.model import ModelConfig
from smt_ray.config.run import RunConfig
from smt_ray.documents.probe import Probe
from smt_ray.documents.run import KeptLoss, Who
from smt_ray.documents.stages import EvaluationSummary, Protocol
from smt_ray.reporting.text.progress import progress
from smt_ray.stages.evaluator import Evaluator
from smt_ray.stages.jobs import (
    Answers,
    Evaluated,
    EvaluationJob,
    HarnessFound,
    HarnessJob,
    TaskShare,
)

if TYPE_CHECKING:  # workers import this file, but not the modules that only the driver needs
    from smt_ray.data.rows import Row
    from smt_ray.evaluation.harness.requests import Answer, Requests
    from smt_ray.evaluation.harness.tasks import HarnessTasks
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
        retention: Mapping[str, Sequence[Row]],
        protocol: Protocol,
        model: ModelConfig,
        probe: Probe,
        adapter: str | None,
    ) -> Evaluated:
        """The predictions of every task, in the order of its rows, and the loss of every text.

        Args:
            title: The title of the progress bar.
            tests: The test rows.
            retention: The texts whose loss is computed.
            model: The model, which is loaded by workers that do not hold it yet.
            probe: What the architecture of the model allows.
            adapter: The folder or URI of an adapter to put on the model; None for the model as it
                is.
        """
        number = len(self._workers)
        total = sum(len(test.rows) for test in tests.values())
        total += sum(map(len, retention.values()))
        texts = [{name: rows[i::number] for name, rows in retention.items()} for i in range(number)]
        jobs = [
            EvaluationJob(title, i, share, texts[i], protocol, model, probe, adapter, self._config)
            for i, share in enumerate(_shares(tests, number))
        ]
        refs = [
            worker.evaluate.remote(job, self._board)
            for worker, job in zip(self._workers, jobs, strict=True)
        ]
        with progress(title, total, lambda: ray.get(self._board.done.remote(title))):
            parts: list[Evaluated] = ray.get(refs)
        return _joined(parts, tests)

    def evaluate_harness(
        self,
        title: str,
        tasks: HarnessTasks,
        *,
        model: ModelConfig,
        probe: Probe,
        adapter: str | None,
    ) -> HarnessFound:
        """The results of lm-evaluation-harness; see :meth:`evaluate`."""
        from smt_ray.evaluation.harness.library import evaluate, to_results

        def ask(asked: Requests) -> list[Answer]:
            name = f"{title}, lm-eval {asked.kind}"
            shares = asked.shares(len(self._workers))
            jobs = [
                HarnessJob(name, i, asked.at(share), model, probe, adapter, self._config)
                for i, share in enumerate(shares)
            ]
            refs = [
                worker.answer.remote(job, self._board)
                for worker, job in zip(self._workers, jobs, strict=True)
            ]
            with progress(
                name, len(asked.requests), lambda: ray.get(self._board.done.remote(name))
            ):
                parts: list[list[Answer]] = ray.get(refs)
            return asked.joined(shares, parts)

        raw = evaluate(tasks.loaded, ask, tasks.limit)
        return HarnessFound(to_results(raw), raw)


@contextmanager
def evaluation_pool(config: RunConfig, board: Any) -> Iterator[EvaluationPool]:
    """Starts the workers, and ends them afterwards.

    Raises:
        UserError: The cluster cannot hold that many workers, or has no place for them in time.
    """
    num_workers, resources = evaluator_resources(config)
    wait_for_place("evaluation", num_workers, resources, config.resources.wait_timeout_s)
    actor = ray.remote(Evaluator).options(
        **resources.options(), max_restarts=3, max_task_retries=3,
        runtime_env={"env_vars": {"OMP_NUM_THREADS": str(resources.num_threads)}},
    )  # fmt: skip
    arguments = (resources.num_threads, resources.device, max(1, resources.num_gpus))
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
    protocol: Protocol = stage.inputs["protocol"]
    model = plan.starting_model if is_tuned else plan.model
    adapter = plan.storage.uri(plan.training.path(ADAPTER)) if is_tuned else None
    found = pool.evaluate(
        f"evaluate {who}",
        plan.tests,
        retention=plan.retention if protocol == "generate" else {},
        protocol=protocol,
        model=model,
        probe=probe,
        adapter=adapter,
    )
    harness = None
    if plan.harness and protocol == "generate":
        harness = pool.evaluate_harness(
            f"evaluate {who}", plan.harness, model=model, probe=probe, adapter=adapter
        )
    return publish_predictions(stage, found, harness, time.monotonic() - began)


def publish_predictions(
    stage: Stage[EvaluationSummary],
    found: Evaluated,
    harness: HarnessFound | None,
    seconds: float,
) -> Finished[EvaluationSummary]:
    """Stores every prediction, and the metrics of tasks and texts."""
    from smt_ray.documents.prediction import to_lines
    from smt_ray.evaluation.metrics import summarise

    protocol, files, tasks = stage.inputs["protocol"], [EVALUATION_METRICS], {}
    if harness is not None:
        files.append(LM_EVAL_RESULTS)
        stage.storage.write_bytes(stage.path(LM_EVAL_RESULTS), _as_json(harness.raw))
    for task, (predictions, task_seconds) in found.answers.items():
        files.append(predictions_file(protocol, task))
        stage.storage.write_bytes(stage.path(files[-1]), to_lines(predictions).encode())
        tasks[task] = summarise(predictions, task_seconds)
    losses = {
        name: KeptLoss(loss=nats / num_tokens, num_rows=num_rows, num_tokens=num_tokens)
        for name, (nats, num_tokens, num_rows) in found.losses.items()
    }
    summary = EvaluationSummary(
        protocol=protocol,
        prompt=found.prompt,
        tasks=tasks,
        retention=losses,
        lm_eval=harness.results if harness else {},
    )
    stage.storage.write_json(stage.path(EVALUATION_METRICS), summary.to_json())
    return stage.publish(files, summary, seconds)


def _as_json(raw: Mapping[str, Any]) -> bytes:
    """The results of lm-evaluation-harness as JSON; functions and arrays become texts."""
    return (json.dumps(raw, indent=1, default=str, ensure_ascii=False) + "\n").encode()


def _joined(parts: Sequence[Evaluated], tests: Mapping[str, TestRows]) -> Evaluated:
    """What all workers found together."""
    from smt_ray.evaluation.predict import join
    from smt_ray.training.loss.text import TextLoss

    answers = {
        task: Answers(
            join((part.answers[task].predictions for part in parts), len(test.rows)),
            max(part.answers[task].seconds for part in parts),
        )
        for task, test in tests.items()
    }
    losses = {
        name: reduce(TextLoss.plus, (part.losses[name] for part in parts))
        for name in parts[0].losses
    }
    return Evaluated(answers, losses, parts[0].prompt)


def _shares(tests: Mapping[str, TestRows], num_workers: int) -> list[dict[str, TaskShare]]:
    """The share of each worker: every n-th row of each task, which balances lengths and tasks."""
    from smt_ray.evaluation.candidates import answer_pool

    return [
        {
            task: TaskShare(
                test.task,
                test.rows[worker::num_workers],
                range(worker, len(test.rows), num_workers),
                answer_pool(test.rows),
                test.max_new_tokens,
            )
            for task, test in tests.items()
        }
        for worker in range(num_workers)
    ]
