"""The tokens stage: a run's rows as token ids, made once and read by every worker."""

from __future__ import annotations

import time
from typing import Any

from smt_ray.artifacts.scratch import scratch_folder
from smt_ray.data.cache import FILE as TOKENS
from smt_ray.data.cache import save_tokens
from smt_ray.data.encoding import EncodedRows, encode_rows
from smt_ray.imports import large_imports
from smt_ray.models.load import import_transformers, load_tokenizer
from smt_ray.reporting.text.progress import progress, say
from smt_ray.stages.plan import RunPlan


def make_tokens(plan: RunPlan) -> dict[str, Any]:
    """Tokenises the training and validation rows on the driver; the stage's manifest.

    Raises:
        UserError: The tokenizer cannot be loaded or has no EOS token, or no row is left.
    """
    began, stage = time.monotonic(), plan.tokens
    with large_imports():
        import_transformers()
    tokenizer = load_tokenizer(plan.model)
    sets: dict[str, EncodedRows] = {}
    summary: dict[str, Any] = {}
    for name, rows in (("training", plan.training), ("validation", plan.validation)):
        if rows:
            sets[name], summary[name] = _encode(plan, tokenizer, name, rows)
    with scratch_folder() as scratch:
        save_tokens(scratch / TOKENS, sets)
        plan.storage.put_file(scratch / TOKENS, stage.path(TOKENS))
    return stage.publish([TOKENS], summary, time.monotonic() - began)


def _encode(
    plan: RunPlan, tokenizer: Any, name: str, rows: list[Any]
) -> tuple[EncodedRows, dict[str, Any]]:
    data, done = plan.config.data, 0

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
        f"{name} rows: {counts.num_rows} of {counts.num_tokens} tokens"
        f" ({counts.num_truncated} truncated, {counts.num_dropped} dropped)"
    )
    return encoded, vars(counts)
