r"""Our evaluation, compared with a plain script that evaluates one row at a time.

    python -m benchmarks.evaluation --model FOLDER --gguf-file FILE --data LLM-Adapters \
        --json benchmarks/results/evaluation.json

README.md in this folder describes the comparison.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from benchmarks.measuring import (
    add_common_options,
    add_model_options,
    interleave,
    machine_facts,
    machine_line,
    markdown_table,
    model_of,
    set_up,
    spread,
    write_json,
)
from smt_ray.data.prompts import build_prompt
from smt_ray.data.rows import Row
from smt_ray.data.sources import read_task_rows
from smt_ray.evaluation.batches import inference
from smt_ray.evaluation.candidates import complete, row_candidates
from smt_ray.evaluation.predict import predict
from smt_ray.evaluation.tasks import Task, find_tasks
from smt_ray.models.load import load_model, load_tokenizer

GOALS = {
    "commonsense, generate": 2.5,
    "math, generate": 5.0,
    "commonsense, likelihood": 5.0,
}
"""Case -> how many times as fast as row by row it should be."""

_TINY = {"commonsense": "tiny_commonsense", "math": "tiny_arithmetic"}

Asked = list[tuple[Task, list[Row]]]


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Measures, prints a table and writes the JSON; returns its ``cases``."""
    options = _parser().parse_args(arguments)
    device = set_up(options)
    machine = machine_facts(device)
    spec = model_of(options)
    model, tokenizer = load_model(spec, device), load_tokenizer(spec)
    cases: dict[str, Any] = {}
    for case in options.cases:
        suite, protocol = case.split(", ")
        asked = _rows(suite, options)
        ways: dict[str, Callable[[int], Any]] = {
            "row by row": lambda _, p=protocol, a=asked: _one_by_one(model, tokenizer, a, p),
            "ours": lambda _, p=protocol, a=asked: _ours(model, tokenizer, a, p, options),
        }
        cases[case] = _summarise(interleave(ways, options.rounds), asked)
    print(_table(cases))
    print(f"\n{machine_line(machine)}")
    write_json(options.json, "evaluation", options, machine, {"cases": cases})
    return cases


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evaluation", description=__doc__)
    add_common_options(parser, rounds=3)
    add_model_options(parser)
    parser.add_argument("--rows", type=int, default=4, help="rows of each task")
    parser.add_argument("--batch-tokens", type=int, default=8192)
    parser.add_argument("--cases", nargs="+", choices=tuple(GOALS), default=list(GOALS))
    return parser


def _rows(suite: str, options: argparse.Namespace) -> Asked:
    builtin = "builtin" in (options.model, options.data)
    return [
        (task, read_task_rows(task.name, options.data, builtin=builtin)[: options.rows])
        for task in find_tasks([_TINY[suite] if builtin else suite]).values()
        if isinstance(task, Task)
    ]


def _ours(
    model: Any, tokenizer: Any, asked: Asked, protocol: str, options: argparse.Namespace
) -> dict[str, Any]:
    began, outputs = time.perf_counter(), []
    for task, rows in asked:
        predictions = predict(
            model, tokenizer, rows, task, protocol=protocol,  # type: ignore[arg-type]
            batch_tokens=options.batch_tokens,
        )  # fmt: skip
        outputs += [prediction.output for prediction in predictions]
    return {"seconds": time.perf_counter() - began, "outputs": outputs}


def _one_by_one(model: Any, tokenizer: Any, asked: Asked, protocol: str) -> dict[str, Any]:
    """A plain transformers script: each call has one prompt or one candidate."""
    ask = _generate if protocol == "generate" else _likeliest
    began = time.perf_counter()
    with inference(model):
        outputs = [ask(model, tokenizer, task, row) for task, rows in asked for row in rows]
    return {"seconds": time.perf_counter() - began, "outputs": outputs}


def _generate(model: Any, tokenizer: Any, task: Task, row: Row) -> str:
    ids = torch.tensor([tokenizer(build_prompt(row))["input_ids"]], device=model.device)
    written = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=task.max_new_tokens,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.eos_token_id,
    )
    text: str = tokenizer.decode(written[0, ids.shape[1] :], skip_special_tokens=True)
    return text


def _likeliest(model: Any, tokenizer: Any, task: Task, row: Row) -> str:
    prompt = build_prompt(row)
    start = len(tokenizer(prompt)["input_ids"])
    scores = {}
    for candidate in row_candidates(task, row, (), task.name):
        completion = complete(task, row, candidate, task.name)
        ids = torch.tensor([tokenizer(prompt + completion)["input_ids"]], device=model.device)
        log_probs = model(input_ids=ids).logits[0, start - 1 : -1].float().log_softmax(-1)
        scores[completion] = log_probs.gather(-1, ids[0, start:, None]).mean().item()
    return max(scores, key=scores.__getitem__)


def _summarise(rounds: list[dict[str, Any]], asked: Asked) -> dict[str, Any]:
    pairs = [
        (theirs, ours)
        for found in rounds
        for theirs, ours in zip(
            found["row by row"]["outputs"], found["ours"]["outputs"], strict=True
        )
    ]
    seconds = {
        name: [found[name]["seconds"] for found in rounds] for name in ("row by row", "ours")
    }
    ratios = [a / b for a, b in zip(seconds["row by row"], seconds["ours"], strict=True)]
    return {
        "num_rows": sum(len(rows) for _, rows in asked),
        "seconds": {name: spread(values) for name, values in seconds.items()},
        "times_as_fast": spread(ratios),
        "same_outputs": sum(theirs == ours for theirs, ours in pairs) / len(pairs),
    }


def _table(cases: dict[str, Any]) -> str:
    head = ("case", "rows", "s row by row", "s ours", "times as fast", "goal", "same outputs")
    rows = []
    for name, case in cases.items():
        ratio = case["times_as_fast"]
        rows.append(
            (
                name,
                case["num_rows"],
                *(f"{case['seconds'][way]['median']:.1f}" for way in ("row by row", "ours")),
                f"{ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f})",
                GOALS[name],
                f"{100 * case['same_outputs']:.1f}%",
            )
        )
    return markdown_table(head, rows)


if __name__ == "__main__":
    main()
