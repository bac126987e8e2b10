"""Rows as token ids for training."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from smt_ray.config.data import DataConfig
from smt_ray.data.encoding.stored import EncodedRows, Spans, join, pack
from smt_ray.data.encoding.targets import encode_targets
from smt_ray.data.prompts import Prompts
from smt_ray.data.rows import ASSISTANT, Rendered, Row
from smt_ray.documents.rows import BadRows, RowCounts
from smt_ray.errors import UserError

_SKIP = "set data.bad_rows to skip"
CHUNK = 1024
"""The number of rows in one call: enough for the tokenizer's threads, with little memory."""


class Limits(NamedTuple):
    """What a model can take; None for no limit.

    Attributes:
        vocabulary: The number of token ids that it embeds.
        positions: The largest number of tokens of a row.
    """

    vocabulary: int | None = None
    positions: int | None = None


NO_LIMITS = Limits()


@dataclass(frozen=True)
class Encoding:
    """How rows become tokens.

    Attributes:
        max_length: The largest number of tokens of a row: prompt, completion and EOS together.
        overlong: ``truncate`` to cut longer rows at ``max_length``, ``drop`` to leave them out.
        train_on_inputs: Whether prompt tokens are targets too. A row without a target is left out.
        bad_rows: ``error``, or ``skip`` to leave out rows that cannot be used, and to count them.
        limits: What the model can take.
    """

    max_length: int = 512
    overlong: str = "truncate"
    train_on_inputs: bool = False
    bad_rows: str = "error"
    limits: Limits = NO_LIMITS

    @classmethod
    def of(cls, data: DataConfig, limits: Limits = NO_LIMITS) -> Encoding:
        """The encoding of a config."""
        return cls(data.max_length, data.overlong, data.train_on_inputs, data.bad_rows, limits)


_DEFAULT = Encoding()


def encode_rows(
    tokenizer: Any,
    rows: Sequence[Row],
    encoding: Encoding = _DEFAULT,
    *,
    prompts: Prompts | None = None,
) -> tuple[EncodedRows, RowCounts]:
    """Tokenises rows in memory; for many rows, see :mod:`smt_ray.data.encoding.files`.

    Args:
        tokenizer: A transformers tokenizer with an EOS token.
        rows: The rows.
        encoding: How they become tokens.
        prompts: How they become text; by default in the clean form.

    Raises:
        UserError: The tokenizer has no EOS token, a row cannot be used, or no row is left.
    """
    parts: list[EncodedRows] = []
    prompts = prompts or Prompts(tokenizer, "clean")
    found = encode_into(parts.append, prompts, rows, encoding)
    counts = found.counts(encoding.max_length)
    return join(parts), counts


def encode_into(
    keep: Callable[[EncodedRows], object],
    prompts: Prompts,
    rows: Sequence[Row],
    encoding: Encoding,
    on_rows: Callable[[int], object] = lambda _done: None,
) -> Found:
    """Tokenises rows, :data:`CHUNK` at a time.

    Args:
        keep: A function that takes the tokens of some rows, in their order.
        on_rows: A function that takes the number of finished rows, after every chunk.

    Raises:
        UserError: The tokenizer has no EOS token, or a row cannot be used.
    """
    if prompts.tokenizer.eos_token_id is None:
        raise UserError("model", "the tokenizer must have an EOS token", got=None)
    found = Found()
    for start in range(0, len(rows), CHUNK):
        chunk = list(rows[start : start + CHUNK])
        kept = list(_encode_chunk(prompts, chunk, encoding, found))
        if kept:
            ids, targets, positions = zip(*kept, strict=True)
            keep(pack(ids, targets, positions))
            found.num_kept += len(kept)
            found.num_tokens += sum(map(len, ids))
        found.num_rows += len(chunk)
        on_rows(found.num_rows)
    return found


@dataclass
class Found:
    """What was found about rows that were tokenised."""

    num_rows: int = 0
    num_kept: int = 0
    num_tokens: int = 0
    shortest: int = sys.maxsize  # the fewest tokens that a row needs to be learned
    num_truncated: int = 0
    num_bad: int = 0
    first_bad: UserError | None = None
    num_rewritten: int = 0
    left_out: Counter[str] = field(default_factory=Counter)

    def usable(self, error: UserError | None, bad_rows: str) -> bool:
        """Whether there is no error; otherwise it is raised or counted."""
        if error is None:
            return True
        if bad_rows == "error":
            raise error
        self.num_bad += 1
        self.first_bad = self.first_bad or error
        return False

    def add(self, later: Found) -> None:
        """Adds what was found about the rows after these."""
        self.num_rows += later.num_rows
        self.num_kept += later.num_kept
        self.num_tokens += later.num_tokens
        self.shortest = min(self.shortest, later.shortest)
        self.num_truncated += later.num_truncated
        self.num_bad += later.num_bad
        self.first_bad = self.first_bad or later.first_bad
        self.num_rewritten += later.num_rewritten
        self.left_out.update(later.left_out)

    def counts(self, max_length: int) -> RowCounts:
        """The counts.

        Raises:
            UserError: No row is left.
        """
        if not self.num_kept:
            raise self.first_bad or _no_rows_left(max_length, self.shortest)
        return RowCounts(
            num_rows=self.num_kept,
            num_truncated=self.num_truncated,
            num_dropped=self.num_rows - self.num_kept - self.num_bad,
            bad=BadRows(number=self.num_bad, first=str(self.first_bad) if self.num_bad else None),
            num_rewritten=self.num_rewritten,
            left_out=dict(self.left_out),
            num_tokens=self.num_tokens,
        )


def _no_rows_left(max_length: int, shortest: int) -> UserError:
    return UserError(
        "data.max_length",
        "must leave at least one row with a token to learn",
        got=max_length,
        fix=f"the rows need at least {shortest} tokens: raise data.max_length, or shorten them",
    )


def _misfit(row: Row, ids: list[int], limits: Limits) -> UserError | None:
    """The error for a row that the model cannot take."""
    if limits.vocabulary is not None and max(ids) >= limits.vocabulary:
        return UserError(
            row.place, f"must have token ids below {limits.vocabulary}, which the model embeds",
            got=max(ids), fix=f"use the tokenizer of the model, or {_SKIP}",
        )  # fmt: skip
    if limits.positions is not None and len(ids) > limits.positions:
        return UserError(
            row.place, f"must fit the model's {limits.positions} positions",
            got=f"{len(ids)} tokens",
            fix=f"set data.max_length to {limits.positions} at most, or {_SKIP}",
        )  # fmt: skip
    return None


def _encode_chunk(
    prompts: Prompts, rows: Sequence[Row], encoding: Encoding, found: Found
) -> Iterator[tuple[list[int], Spans, int]]:
    """The ids, the places of the targets and the position of each row that is kept."""
    drops = encoding.overlong == "drop"
    usable = _rendered(prompts, rows, encoding, found)
    encoded = encode_targets(prompts.tokenizer, [rendered for _, rendered in usable])
    for (row, rendered), (ids, targets) in zip(usable, encoded, strict=True):
        is_overlong = len(ids) > encoding.max_length
        first = 1 if encoding.train_on_inputs else targets[0].start
        found.shortest = min(found.shortest, len(ids) if drops else first + 1)
        if is_overlong and drops:
            continue
        ids = ids[: encoding.max_length]
        if len(ids) <= first:
            continue
        if found.usable(_misfit(row, ids, encoding.limits), encoding.bad_rows):
            found.num_rewritten += rendered.num_context_turns > 0
            found.left_out.update(rendered.left_out)
            found.num_truncated += is_overlong
            yield ids, targets, row.position


def _rendered(
    prompts: Prompts, rows: Sequence[Row], encoding: Encoding, found: Found
) -> list[tuple[Row, Rendered]]:
    """The rows that can be used, with their texts."""
    usable, eos = [], prompts.tokenizer.eos_token
    for row in rows:
        try:
            rendered = prompts.render(row)
            error = _unlearnable(row, rendered, eos, encoding.train_on_inputs)
        except UserError as raised:
            error = raised
        if found.usable(error, encoding.bad_rows):
            usable.append((row, rendered))
    return usable


def _unlearnable(row: Row, rendered: Rendered, eos: str, train_on_inputs: bool) -> UserError | None:
    """The error for a row that would not be learned as its author meant."""
    unlearned = [turn for turn in row.messages if turn.role == ASSISTANT and not turn.is_learned]
    if train_on_inputs and unlearned:
        return UserError(
            row.place, "must not have turns with weight 0, because data.train_on_inputs learns all",
            got=unlearned[0].content, fix=f"set data.train_on_inputs to false, or {_SKIP}",
        )  # fmt: skip
    if row.is_verbatim:  # its author wrote the special tokens
        return None
    said = [rendered.text[begin:end] for begin, end in rendered.targets]
    replies = [text.rstrip().removesuffix(eos) for text in said] if rendered.is_chat else said
    reply = next((reply for reply in replies if eos in reply), None)
    if reply is None:
        return None
    return UserError(
        row.place, f"a reply must not contain {eos!r}, which ends every reply", got=reply,
        fix=f"remove {eos!r}, or {_SKIP}",
    )  # fmt: skip
