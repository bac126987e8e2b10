"""``smt-ray preview``: shows rows as the model sees them, decoded from their very tokens."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import groupby
from typing import Any

from smt_ray.config.run import RunConfig
from smt_ray.data.encoding.rows import Encoding, encode_rows
from smt_ray.data.prompts import Prompts
from smt_ray.data.rows import Row
from smt_ray.data.splits import read_split
from smt_ray.errors import UserError
from smt_ray.models.load import import_transformers, load_tokenizer
from smt_ray.reporting.text.commands.preview import Preview, PreviewedRow


def preview(config: RunConfig, number: int) -> Preview:
    """The first training rows of a config; only the tokenizer of the model is loaded.

    Raises:
        UserError: The rows or the tokenizer cannot be read.
    """
    training = read_split(config.data, config.seed).training
    import_transformers()
    prompts = Prompts.of(load_tokenizer(config.model), config.data)
    shown = [_previewed(prompts, row, config) for row in training[:number]]
    return Preview(prompts.form, len(training), shown)


def _previewed(prompts: Prompts, row: Row, config: RunConfig) -> PreviewedRow:
    data = config.data
    try:
        encoded, counts = encode_rows(
            prompts.tokenizer, [row], replace(Encoding.of(data), bad_rows="error"), prompts=prompts
        )
    except UserError as error:
        return PreviewedRow(row.place, error=str(error))
    ids, learned = encoded.row(0).tolist(), set(encoded.targets(0, data.train_on_inputs).tolist())
    pieces = list(_pieces(prompts.tokenizer, ids, learned))
    return PreviewedRow(row.place, pieces, len(ids), len(learned), counts)


def _pieces(tokenizer: Any, ids: list[int], learned: set[int]) -> Iterator[tuple[str, bool]]:
    """The text of each run of tokens that are all learned or all context.

    A run is decoded with the tokens before it, because many tokenizers drop a space before a text.
    """
    before = ""
    for is_learned, places in groupby(range(len(ids)), learned.__contains__):
        end = list(places)[-1] + 1
        text: str = tokenizer.decode(ids[:end], skip_special_tokens=False)
        yield text[len(before) :], is_learned
        before = text
