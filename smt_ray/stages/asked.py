"""Finds out, before anything is trained, whether the rows of an evaluation can be asked."""

from __future__ import annotations

import json
from collections.abc import Sequence

from cachetools import LRUCache, cached

from smt_ray.config.run import RunConfig
from smt_ray.data.encoding.ids import encode_prompts
from smt_ray.data.encoding.rows import Encoding, Limits, encode_rows
from smt_ray.data.prompts import Prompts
from smt_ray.data.rows import Row
from smt_ray.errors import UserError
from smt_ray.evaluation.harness.tasks import FIELD, HarnessTasks
from smt_ray.evaluation.test_rows import TestRows
from smt_ray.models.inspect import token_limits
from smt_ray.models.load import import_transformers, load_tokenizer, shared_skeleton
from smt_ray.stages.plan import RunPlan


def _key(plan: RunPlan) -> str:
    """What the check depends on, which is the same for the runs of a grid."""
    inputs = [stage.inputs for stage in plan.evaluations.values()]
    asked = [{key: value for key, value in each.items() if key != "tuned"} for each in inputs]
    return json.dumps([asked, plan.config.data.bad_rows], sort_keys=True)


@cached(LRUCache(maxsize=64), key=_key)
def check_asked(plan: RunPlan) -> None:
    """Asks all test rows and reads all texts of a run, without a model; once for equal ones.

    Raises:
        UserError: A prompt form or a chat template has no place for a row, a prompt is empty, or a
            prompt with its answer does not fit the model's positions.
    """
    if not plan.tests and not plan.retention and not plan.harness:
        return
    import_transformers()
    tokenizer = load_tokenizer(plan.model)
    limits = Limits(*token_limits(shared_skeleton(plan.model, plan.identity)))
    for test in plan.tests.values():
        _check_test(Prompts.of(tokenizer, plan.config.data, test.task.prompt), test, limits)
    prompts = Prompts.of(tokenizer, plan.config.data)
    for rows in plan.retention.values():
        _check_texts(prompts, rows, plan.config, limits)
    if plan.harness:
        _check_harness(plan.harness, limits)


def _check_test(prompts: Prompts, test: TestRows, limits: Limits) -> None:
    asked = [prompts.ask(row) for row in test.rows]
    for row, ids in zip(test.rows, encode_prompts(prompts.tokenizer, asked), strict=True):
        if not ids:
            raise UserError(
                row.place, "must have a prompt to evaluate it", got=row.output,
                fix="give it an instruction or messages, or leave the row out",
            )  # fmt: skip
        length = len(ids) + test.max_new_tokens
        if limits.positions is not None and length > limits.positions:
            raise UserError(
                row.place,
                f"prompt and answer must fit the model's {limits.positions} positions",
                got=f"{len(ids)} tokens and up to {test.max_new_tokens} new ones",
                fix="leave the row out, or lower max_new_tokens",
            )


def _check_harness(tasks: HarnessTasks, limits: Limits) -> None:
    """Longer prompts lose their beginning, but lm-evaluation-harness needs room for one token."""
    for name, number in tasks.num_new_tokens.items():
        if limits.positions is not None and number >= limits.positions:
            raise UserError(
                FIELD,
                f"{name} generates more tokens than the model's {limits.positions} positions hold",
                got=number,
                fix="set generation_kwargs.max_gen_toks in a YAML file that includes the task",
            )


def _check_texts(prompts: Prompts, rows: Sequence[Row], config: RunConfig, limits: Limits) -> None:
    data = config.data
    encode_rows(
        prompts.tokenizer, rows, prompts=prompts,
        encoding=Encoding(data.max_length, bad_rows=data.bad_rows, limits=limits),
    )  # fmt: skip
