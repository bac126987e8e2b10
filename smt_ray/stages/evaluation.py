"""Evaluation over Ray workers: each loads the model once and answers its share of every task."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, NamedTuple

import ray

from smt_ray.artifacts.stages import Stage
from smt_ray.cluster.board import announce
from smt_ray.cluster.nodes import cluster_nodes
from smt_ray.cluster.resources import plan_processes
from smt_ray.cluster.waiting import wait_for_place
from smt_ray.config.run import RunConfig
from smt_ray.data.rows import Row
from smt_ray.imports import large_imports
from smt_ray.reporting.text.progress import progress

Rows = dict[str, list[Row]]


class Answers(NamedTuple):
    """What became of a task's rows, or of a worker's share of them.

    Attributes:
        predictions: A record a row.
        seconds: They took; of several workers, the slowest's.
    """

    predictions: list[dict[str, Any]]
    seconds: float


class EvaluationPool:
    """Workers that hold a model; see :func:`evaluation_pool`.

    Args:
        workers: Actor handles of :class:`_Evaluator`.
        board: The progress actor.
        settings: ``prompt_form``, ``decoding``, ``batch_tokens``.
    """

    def __init__(self, workers: list[Any], board: Any, settings: dict[str, Any]) -> None:
        self._workers, self._board, self._settings = workers, board, settings

    def evaluate(
        self, title: str, tasks: Rows, *, protocol: str, model: dict[str, Any],
        adapter: str | None,
    ) -> dict[str, Answers]:  # fmt: skip
        """Predictions of every task, in the order of its rows.

        Args:
            title: What the progress bar says.
            tasks: Rows by task name.
            protocol: ``generate`` or ``likelihood``.
            model: The model section of the model; what the workers hold already is not loaded anew.
            adapter: Folder or URI of an adapter to put on the model, or None for the model as it
                is.
        """
        from smt_ray.evaluation.predict import join

        total = sum(map(len, tasks.values()))
        shares = _shares(tasks, len(self._workers))
        refs = [
            worker.evaluate.remote(
                self._board, title, index, share, protocol, model, adapter, self._settings
            )
            for index, (worker, share) in enumerate(zip(self._workers, shares, strict=True))
        ]
        with progress(title, total, lambda: ray.get(self._board.done.remote(title))):
            parts = ray.get(refs)
        return {
            task: Answers(
                join((part[task].predictions for part in parts), len(rows)),
                max(part[task].seconds for part in parts),
            )
            for task, rows in tasks.items()
        }


@contextmanager
def evaluation_pool(config: RunConfig, board: Any) -> Iterator[EvaluationPool]:
    """Starts ``resources.num_workers`` workers, and ends them afterwards.

    Args:
        config: The run's configuration.
        board: The progress actor.

    Raises:
        UserError: The cluster cannot hold that many workers, or had no place for them in time.
    """
    num_workers = config.resources.num_workers
    resources = plan_processes(
        config.resources, num_workers, cluster_nodes(), "resources.num_workers"
    )
    wait_for_place("evaluation", num_workers, resources, config.resources.wait_timeout_s)
    settings = {
        "prompt_form": config.data.prompt,
        "decoding": config.evaluation.decoding(),
        "batch_tokens": config.evaluation.batch_tokens,
    }
    actor = ray.remote(_Evaluator).options(
        **resources.options(), max_restarts=3, max_task_retries=3,
        runtime_env={"env_vars": {"OMP_NUM_THREADS": str(resources.num_threads)}},
    )  # fmt: skip
    arguments = (resources.num_threads, resources.device)
    workers = [actor.remote(*arguments) for _ in range(num_workers)]
    try:
        yield EvaluationPool(workers, board, settings)
    finally:
        for worker in workers:
            ray.kill(worker)


def publish_predictions(
    stage: Stage, protocol: str, answers: dict[str, Answers], seconds: float
) -> dict[str, Any]:
    """Writes every prediction and what they add up to; returns the stage's manifest."""
    from smt_ray.evaluation.metrics import throughput
    from smt_ray.evaluation.predict import summarise

    files, metrics = ["metrics.json"], {}
    for task, (records, task_seconds) in answers.items():
        files.append(f"{protocol}/{task}.jsonl")
        lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        stage.storage.write_bytes(stage.path(files[-1]), lines.encode())
        metrics[task] = {**summarise(records), **throughput(records, task_seconds)}
    stage.storage.write_json(stage.path("metrics.json"), metrics)
    return stage.publish(files, {"protocol": protocol, "tasks": metrics}, seconds)


def _shares(tasks: Rows, num_workers: int) -> list[dict[str, Any]]:
    """Each worker's part: every task's rows in turn, so that lengths and tasks are balanced."""
    from smt_ray.evaluation.candidates import answer_pool

    return [
        {
            task: {
                "rows": [asdict(row) for row in rows[worker::num_workers]],
                "indices": list(range(worker, len(rows), num_workers)),
                "answer_pool": answer_pool(rows),
            }
            for task, rows in tasks.items()
        }
        for worker in range(num_workers)
    ]


class _Evaluator:
    """One process with one model; where it wears another adapter, it is loaded anew."""

    def __init__(self, num_threads: int, device: str) -> None:
        self._num_threads, self._device = num_threads, device
        self._spec: dict[str, Any] | None = None
        self._model: Any = None
        self._adapter: str | None = None

    def evaluate(
        self,
        board: Any,
        title: str,
        worker: int,
        tasks: dict[str, Any],
        protocol: str,
        model: dict[str, Any],
        adapter: str | None,
        settings: dict[str, Any],
    ) -> dict[str, Answers]:
        """Predictions for this worker's rows, by task."""
        announce(board, title, worker)
        if self._spec != model or self._adapter not in (None, adapter):
            self._model = None  # whatever an adapter changed, the model is loaded as it was
        self._load(model)
        self._wear(adapter)
        before, answers = 0, {}
        for task, share in tasks.items():
            began = time.monotonic()
            found = self._predict(board, title, worker, before, task, share, protocol, settings)
            answers[task] = Answers(found, time.monotonic() - began)
            before += len(share["rows"])
        return answers

    def _load(self, spec: dict[str, Any]) -> None:
        """Not when the process starts, where an error would not reach the user as it is."""
        if self._model is not None:
            return
        with large_imports():
            import torch

            from smt_ray.models.load import import_transformers, load_model, load_tokenizer

            import_transformers()
        torch.set_num_threads(self._num_threads)
        self._tokenizer = load_tokenizer(spec)
        self._model, self._adapter = load_model(spec, self._device), None
        self._spec = spec

    def _predict(
        self, board: Any, title: str, worker: int, before: int, task: str, share: dict[str, Any],
        protocol: str, settings: dict[str, Any],
    ) -> list[dict[str, Any]]:  # fmt: skip
        from smt_ray.evaluation.decoding import Decoding
        from smt_ray.evaluation.predict import predict
        from smt_ray.evaluation.tasks import find_task

        def report(done: int, _total: int) -> None:
            board.update.remote(title, worker, before + done, task)

        found: list[dict[str, Any]] = predict(
            self._model,
            self._tokenizer,
            [Row(**row) for row in share["rows"]],
            find_task(task),
            protocol=protocol,  # type: ignore[arg-type]
            indices=share["indices"],
            answer_pool=share["answer_pool"],
            progress=report,
            **{**settings, "decoding": Decoding(**settings["decoding"])},
        )
        return found

    def _wear(self, adapter: str | None) -> None:
        from smt_ray.artifacts.storage import local_copy
        from smt_ray.methods.registry import find_method

        if adapter == self._adapter:
            return
        assert adapter is not None
        with local_copy(adapter) as folder:
            find_method(folder).load(self._model, folder)
        self._adapter = adapter
