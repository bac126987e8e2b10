"""The tokens stage: the rows of a run as token ids, made once and read by every worker."""

from __future__ import annotations

import time
from typing import Any

from smt_ray.artifacts.layout import TOKENS
from smt_ray.artifacts.scratch import scratch_folder
from smt_ray.artifacts.stages import Finished
from smt_ray.config.model_and_data import DataConfig
from smt_ray.data.cache import save_tokens
from smt_ray.data.encoding import EncodedRows, encode_rows
from smt_ray.data.rows import Row
from smt_ray.documents.stages import RowCounts, TokensSummary
from smt_ray.models.load import import_transformers, load_tokenizer
from smt_ray.reporting.text.progress import progress, say
from smt_ray.stages.plan import RunPlan


def make_tokens(plan: RunPlan) -> Finished[TokensSummary]:
    """Tokenises the training and validation rows on the driver.

    Raises:
        UserError: The tokenizer cannot be loaded or has no EOS token, or no row is left.
    """
    began, stage, data = time.monotonic(), plan.tokens, plan.config.data
    import_transformers()
    tokenizer = load_tokenizer(plan.model)
    training, counts = _encode(tokenizer, data, "training", plan.split.training)
    sets, held_out = {"training": training}, None
    if plan.split.validation:
        validation, held_out = _encode(tokenizer, data, "validation", plan.split.validation)
        sets["validation"] = validation
    with scratch_folder() as scratch:
        save_tokens(scratch / TOKENS, sets)
        plan.storage.put_file(scratch / TOKENS, stage.path(TOKENS))
    summary = TokensSummary(training=counts, validation=held_out)
    return stage.publish([TOKENS], summary, time.monotonic() - began)


def _encode(
    tokenizer: Any, data: DataConfig, name: str, rows: list[Row]
) -> tuple[EncodedRows, RowCounts]:
    done = 0

    def report(number: int) -> None:
        nonlocal done
        done = number

    with progress(f"{name} rows", len(rows), lambda: (done, "")):
        encoded, counts = encode_rows(
            tokenizer,
            rows,
            prompt_form=data.prompt,
            max_length=data.max_length,
            overlong=data.overlong,
            train_on_inputs=data.train_on_inputs,
            on_rows=report,
        )
    say(
        f"{name} rows: {counts.num_rows} with {counts.num_tokens} tokens"
        f" ({counts.num_truncated} truncated, {counts.num_dropped} dropped)"
    )
    return encoded, counts
