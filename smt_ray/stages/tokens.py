"""The tokens stage: the rows of a run as token ids, made once and read by every worker."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

from smt_ray.artifacts.layout import TOKENS
from smt_ray.artifacts.scratch import scratch_folder
from smt_ray.artifacts.stages import Finished
from smt_ray.config.data import DataConfig
from smt_ray.config.model import ModelConfig
from smt_ray.data.encoding.rows import Encoding, Limits
from smt_ray.data.encoding.shares import RowsJob, encode_on_disk, num_processes
from smt_ray.data.encoding.stored import EncodedRows, save_tokens
from smt_ray.data.prompts import Prompts
from smt_ray.documents.rows import RowCounts, TokensSummary
from smt_ray.models.inspect import token_limits
from smt_ray.models.load import import_transformers, load_tokenizer, shared_skeleton
from smt_ray.reporting.text.progress import progress, say
from smt_ray.reporting.text.rows import row_warnings, rows_text
from smt_ray.stages.plan import RunPlan


def make_tokens(plan: RunPlan) -> Finished[TokensSummary]:
    """Tokenises the rows on the driver's machine and stores their ids.

    Raises:
        UserError: As :func:`tokenise` does.
    """
    began, stage = time.monotonic(), plan.tokens
    with scratch_folder() as scratch:
        sets, summary = tokenise(plan, scratch)
        save_tokens(scratch / TOKENS, sets)
        plan.storage.put_file(scratch / TOKENS, stage.path(TOKENS))
    say(f"rows: {rows_text(summary)}")
    for warning in row_warnings(summary):
        say(f"warning: {warning}")
    return stage.publish([TOKENS], summary, time.monotonic() - began)


def tokenise(plan: RunPlan, scratch: Path) -> tuple[dict[str, EncodedRows], TokensSummary]:
    """The training and validation rows of a run as token ids, and what became of them.

    Args:
        scratch: An empty folder for the ids, which are mapped into memory.

    Raises:
        UserError: The tokenizer cannot be loaded or has no EOS token, a row cannot be used, or no
            row is left.
    """
    data = plan.config.data
    import_transformers()
    maker = partial(make_prompts, plan.model, data)
    prompts = maker()
    encoding = Encoding.of(data, Limits(*token_limits(shared_skeleton(plan.model, plan.identity))))
    sets: dict[str, EncodedRows] = {}
    counts: dict[str, RowCounts] = {}
    for name, rows in (("training", plan.split.training), ("validation", plan.split.validation)):
        if len(rows):
            folder = scratch / name
            folder.mkdir()
            job = RowsJob(rows, encoding, maker, folder)
            sets[name], counts[name] = _encode(job, name, prompts, data.num_proc)
    return sets, TokensSummary(
        training=counts["training"],
        validation=counts.get("validation"),
        prompt=prompts.form,
        unread=plan.split.bad,
        num_moved=plan.split.num_moved,
    )


def make_prompts(model: ModelConfig, data: DataConfig) -> Prompts:
    """The prompts of a run, with the tokenizer of its model."""
    return Prompts.of(load_tokenizer(model), data)


def _encode(
    job: RowsJob, name: str, prompts: Prompts, num_proc: int | None
) -> tuple[EncodedRows, RowCounts]:
    done = 0

    def report(number: int) -> None:
        nonlocal done
        done = number

    number = num_processes(len(job.rows), num_proc)
    with progress(f"{name} rows", len(job.rows), lambda: (done, "")):
        return encode_on_disk(job, prompts, number, report)
