"""The tokens stage: the rows of a run as token ids, made once and read by every worker."""

from __future__ import annotations

import time

from smt_ray.artifacts.layout import TOKENS
from smt_ray.artifacts.scratch import scratch_folder
from smt_ray.artifacts.stages import Finished
from smt_ray.config.data import DataConfig
from smt_ray.data.encoding.rows import Limits, encode_rows
from smt_ray.data.encoding.stored import EncodedRows, save_tokens
from smt_ray.data.prompts import Prompts
from smt_ray.data.rows import Row
from smt_ray.documents.rows import RowCounts, TokensSummary
from smt_ray.models.inspect import token_limits
from smt_ray.models.load import import_transformers, load_tokenizer, shared_skeleton
from smt_ray.reporting.text.progress import progress, say
from smt_ray.reporting.text.rows import row_warnings, rows_text
from smt_ray.stages.plan import RunPlan


def make_tokens(plan: RunPlan) -> Finished[TokensSummary]:
    """Tokenises the rows on the driver and stores their ids.

    Raises:
        UserError: As :func:`tokenise` does.
    """
    began, stage = time.monotonic(), plan.tokens
    sets, summary = tokenise(plan)
    with scratch_folder() as scratch:
        save_tokens(scratch / TOKENS, sets)
        plan.storage.put_file(scratch / TOKENS, stage.path(TOKENS))
    say(f"rows: {rows_text(summary)}")
    for warning in row_warnings(summary):
        say(f"warning: {warning}")
    return stage.publish([TOKENS], summary, time.monotonic() - began)


def tokenise(plan: RunPlan) -> tuple[dict[str, EncodedRows], TokensSummary]:
    """The training and validation rows of a run as token ids, and what became of them.

    Raises:
        UserError: The tokenizer cannot be loaded or has no EOS token, a row cannot be used, or no
            row is left.
    """
    data = plan.config.data
    import_transformers()
    prompts = Prompts.of(load_tokenizer(plan.model), data)
    limits = Limits(*token_limits(shared_skeleton(plan.model, plan.identity)))
    training, counts = _encode(prompts, data, limits, "training", plan.split.training)
    sets, held_out = {"training": training}, None
    if plan.split.validation:
        validation, held_out = _encode(prompts, data, limits, "validation", plan.split.validation)
        sets["validation"] = validation
    return sets, TokensSummary(
        training=counts,
        validation=held_out,
        prompt=prompts.form,
        unread=plan.split.bad,
        num_moved=plan.split.num_moved,
    )


def _encode(
    prompts: Prompts, data: DataConfig, limits: Limits, name: str, rows: list[Row]
) -> tuple[EncodedRows, RowCounts]:
    done = 0

    def report(number: int) -> None:
        nonlocal done
        done = number

    with progress(f"{name} rows", len(rows), lambda: (done, "")):
        return encode_rows(
            prompts.tokenizer,
            rows,
            prompts=prompts,
            max_length=data.max_length,
            overlong=data.overlong,
            train_on_inputs=data.train_on_inputs,
            bad_rows=data.bad_rows,
            limits=limits,
            on_rows=report,
        )
