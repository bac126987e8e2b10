"""lm-evaluation-harness itself: the only file that imports lm_eval, which takes seconds."""

from __future__ import annotations

import inspect
import logging
import os
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from smt_ray.documents.lm_eval import LmEvalMetric, LmEvalResult
from smt_ray.evaluation.batches import Padding, plan_batches
from smt_ray.evaluation.harness.requests import Answer, Ask, Request, RequestKind, Requests
from smt_ray.imports import large_imports

# The seeds that lm-evaluation-harness uses itself.
_SEED, _OTHER_SEED = 0, 1234
# The standard errors of means are exact. Those of other metrics are bootstrapped, in one process,
# because a fork of the driver could hang; that many samples give them to about 2%.
_BOOTSTRAP_SAMPLES = 1000
_NO_FORKS = "DISABLE_MULTIPROC"
_KINDS: tuple[RequestKind, ...] = ("loglikelihood", "loglikelihood_rolling", "generate_until")


def catalogue(folders: Sequence[Path], *, published: bool) -> Any:
    """lm-evaluation-harness's list of tasks.

    Args:
        folders: Folders with tasks that files name.
        published: Whether the tasks that come with the library are listed, which takes seconds.
    """
    with large_imports(), _quiet(logging.ERROR):
        from lm_eval.tasks import TaskManager

        return TaskManager(include_path=list(folders), include_defaults=published)


def load_tasks(entries: Sequence[str], known: Any) -> Any:
    """Loads tasks and their rows, which may be downloaded."""
    with _quiet(logging.ERROR):
        loaded = known.load(list(entries))
    for task in loaded["tasks"].values():
        # Otherwise some tasks of the library would have no number.
        if task.get_config("num_fewshot") is None:
            task.set_config(key="num_fewshot", value=0)
    return loaded


def refused_kind(task: Any) -> str | None:
    """What a task needs that is not offered here; None if it needs nothing else."""
    if getattr(task, "MULTIMODAL", False):
        return "asks about images or sounds"
    if getattr(task, "UNSAFE_CODE", False):
        return "runs code that the model writes"
    return None


def num_rows(task: Any, limit: int | None) -> int:
    """The number of rows of a task that are asked."""
    number = len(task.eval_docs)
    return number if limit is None else min(number, limit)


def num_new_tokens(task: Any) -> int:
    """The largest number of tokens that a task lets the model generate; 0 for a choice."""
    if task.OUTPUT_TYPE != "generate_until":
        return 0
    settings = task.get_config("generation_kwargs") or {}
    keys = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
    return next((int(settings[key]) for key in keys if key in settings), 256)


def content(task: Any, limit: int | None) -> Iterator[str]:
    """Everything that a task's results depend on besides the model, but no place of a file."""
    import lm_eval

    yield lm_eval.__version__
    config = task.config.to_dict(keep_callable=True)
    config.get("metadata", {}).pop("config_source", None)
    yield repr(sorted((key, _without_functions(value)) for key, value in config.items()))
    functions = {function for value in config.values() for function in _functions(value)}
    for file in sorted({inspect.getsourcefile(thing) or "" for thing in (*functions, type(task))}):
        yield Path(file).read_text(encoding="utf-8") if file else ""
    docs = list(task.eval_docs)[:limit]
    yield from map(repr, docs)
    if task.get_config("num_fewshot"):
        yield from map(repr, task.fewshot_docs())


def group_content(group: Any) -> Iterator[str]:
    """Everything that a group's averages depend on besides its tasks."""
    yield repr((group.name, group.aggregate_metric_list, group.child_names))


def _functions(value: Any) -> Iterator[Any]:
    if callable(value):
        yield inspect.unwrap(value.func if isinstance(value, partial) else value)
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _functions(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _functions(part)


def _without_functions(value: Any) -> Any:
    """A value in which functions are replaced by their names, since they have an address."""
    if callable(value):
        return getattr(value, "__qualname__", type(value).__qualname__)
    if isinstance(value, Mapping):
        return {key: _without_functions(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_without_functions(part) for part in value]
    return value


def evaluate(loaded: Any, ask: Ask, limit: int | None) -> dict[str, Any]:
    """The results of lm-evaluation-harness, with a sample of every row.

    Args:
        loaded: The tasks.
        ask: The function that answers requests.
        limit: The number of rows of each task, from its beginning; None for all.
    """
    from lm_eval.evaluator import evaluate as evaluated

    random.seed(_SEED)
    np.random.seed(_OTHER_SEED)
    for task in loaded["tasks"].values():
        task.set_fewshot_seed(seed=_OTHER_SEED)
    with _environment(_NO_FORKS, "1"), _quiet(logging.WARNING), _no_bars():
        found: dict[str, Any] = evaluated(
            _asking(ask), loaded, limit=limit, bootstrap_iters=_BOOTSTRAP_SAMPLES
        )
    return found


def to_results(found: Mapping[str, Any]) -> dict[str, LmEvalResult]:
    """The metrics of every task and group, from the results of lm-evaluation-harness."""
    results = {name: _result(name, values, found) for name, values in found["results"].items()}
    # A group without an average of its own has no metrics.
    return {name: result for name, result in results.items() if result.metrics}


def _result(name: str, values: Mapping[str, Any], found: Mapping[str, Any]) -> LmEvalResult:
    better = found["higher_is_better"].get(name, {})
    metrics = []
    for key, value in values.items():
        metric, comma, chosen = key.partition(",")
        if not comma or metric.endswith("_stderr"):
            continue
        metrics.append(
            LmEvalMetric(
                name=metric,
                filter=chosen,
                value=_number(value),
                stderr=_number(values.get(f"{metric}_stderr,{chosen}")),
                higher_is_better=better.get(metric),
            )
        )
    version = found["versions"].get(name)
    return LmEvalResult(
        num_rows=int(values.get("sample_len", 0)),
        num_fewshot=found["n-shot"].get(name),
        version=None if version is None else str(version),
        metrics=metrics,
    )


def _number(value: Any) -> float | None:
    """A finite number; None for what lm-evaluation-harness writes as N/A."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if np.isfinite(number) else None


def _asking(ask: Ask) -> Any:
    """A model of lm-evaluation-harness that asks others."""
    from lm_eval.api.model import LM

    def method(kind: RequestKind) -> Callable[[Any, Sequence[Any]], list[Answer]]:
        return lambda _, requests: ask(Requests(kind, [request.args for request in requests]))

    return type("AskingModel", (LM,), {kind: method(kind) for kind in _KINDS})()


def answer(
    model: Any,
    tokenizer: Any,
    asked: Requests,
    batch_tokens: int,
    padding: Padding,
    report: Callable[[int], None],
) -> list[Answer]:
    """The answers of a model, by lm-evaluation-harness's Hugging Face model.

    Args:
        model: A transformers causal language model on its device; its dtype stays as it is.
        tokenizer: Its tokenizer.
        asked: The requests.
        batch_tokens: The largest number of tokens of a batch.
        padding: Where padding leaves the model's results as they are; elsewhere each request is
            computed alone.
        report: A function that is called with the number of finished requests.
    """
    with large_imports(), _quiet(logging.ERROR):
        from lm_eval.api.instance import Instance
        from lm_eval.models.huggingface import HFLM

        lm = HFLM(pretrained=model, tokenizer=tokenizer, backend="causal", batch_size=1)
    # It pads prompts on the left, and choices on the right.
    pads = padding.left if asked.kind == "generate_until" else padding.right
    lengths = [_num_tokens(lm, asked.kind, request) for request in asked.requests]
    answers: dict[int, Answer] = {}
    for batch in plan_batches(lengths, batch_tokens if pads else 1):
        lm.batch_size_per_gpu = len(batch)
        rows = [Instance(asked.kind, {}, asked.requests[i], 0) for i in batch]
        found = getattr(lm, asked.kind)(rows, disable_tqdm=True)
        answers.update(zip(batch, found, strict=True))
        report(len(answers))
    return [answers[i] for i in range(len(lengths))]


def _num_tokens(lm: Any, kind: RequestKind, request: Request) -> int:
    """The number of tokens of a request in its batch."""
    if kind == "generate_until":
        new: Any = request[1].get("max_gen_toks", lm.max_gen_toks)
        return min(len(lm.tok_encode(request[0])) + int(new), int(lm.max_length))
    return max(1, min(len(lm.tok_encode("".join(request))), int(lm.max_length)))


@contextmanager
def _quiet(level: int) -> Iterator[None]:
    """Logs nothing of the library below a level."""
    logger = logging.getLogger("lm_eval")
    before = logger.level
    logger.setLevel(level)
    try:
        yield
    finally:
        logger.setLevel(before)


@contextmanager
def _no_bars() -> Iterator[None]:
    """Shows no bars of the library while it makes requests, which take no time."""
    from lm_eval.api import task as tasks

    bar = tasks.tqdm
    tasks.tqdm = partial(bar, disable=True)
    try:
        yield
    finally:
        tasks.tqdm = bar


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
