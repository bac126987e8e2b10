"""Rows as token ids for training."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from smt_ray.data.encoding.stored import EncodedRows, Spans, pack
from smt_ray.data.encoding.targets import Encoded, encode_targets
from smt_ray.data.prompts import Prompts
from smt_ray.data.rows import ASSISTANT, Rendered, Row
from smt_ray.documents.rows import BadRows, RowCounts
from smt_ray.errors import UserError

_SKIP = "set data.bad_rows to skip"
_CHUNK = 1024  # rows in one call: enough for the tokenizer's threads, with little memory


class Limits(NamedTuple):
    """What a model can take; None for no limit.

    Attributes:
        vocabulary: The number of token ids that it embeds.
        positions: The largest number of tokens of a row.
    """

    vocabulary: int | None = None
    positions: int | None = None


NO_LIMITS = Limits()


def encode_rows(
    tokenizer: Any,
    rows: Sequence[Row],
    *,
    prompts: Prompts | None = None,
    max_length: int = 512,
    overlong: str = "truncate",
    train_on_inputs: bool = False,
    bad_rows: str = "error",
    limits: Limits = NO_LIMITS,
    on_rows: Callable[[int], object] = lambda _done: None,
) -> tuple[EncodedRows, RowCounts]:
    """Tokenises rows for training.

    Args:
        tokenizer: A transformers tokenizer with an EOS token.
        rows: The rows.
        prompts: How rows become text; by default in the clean form.
        max_length: The largest number of tokens of a row: prompt, completion and EOS together.
        overlong: ``truncate`` to cut longer rows at ``max_length``, ``drop`` to leave them out.
        train_on_inputs: Whether prompt tokens are targets too. A row without a target is left out.
        bad_rows: ``error``, or ``skip`` to leave out rows that cannot be used, and to count them.
        limits: What the model can take.
        on_rows: A function that is called after every 1024 rows with the number of finished rows.

    Raises:
        UserError: The tokenizer has no EOS token, a row cannot be used, or no row is left.
    """
    if tokenizer.eos_token_id is None:
        raise UserError("model", "the tokenizer must have an EOS token", got=None)
    prompts = prompts or Prompts(tokenizer, "clean")
    found = _Found()
    for start in range(0, len(rows), _CHUNK):
        chunk = rows[start : start + _CHUNK]
        for row, rendered, (ids, targets) in _encode_chunk(
            prompts, chunk, bad_rows, train_on_inputs, found
        ):
            is_overlong, drops = len(ids) > max_length, overlong == "drop"
            first = 1 if train_on_inputs else targets[0].start
            found.shortest = min(found.shortest, len(ids) if drops else first + 1)
            if is_overlong and drops:
                continue
            ids = ids[:max_length]
            if len(ids) > first and found.usable(_misfit(row, ids, limits), bad_rows):
                found.keep(row, rendered, ids, targets)
                found.num_truncated += is_overlong
        on_rows(start + len(chunk))
    if not found.ids:
        raise found.first_bad or _no_rows_left(max_length, found.shortest)
    encoded = pack(found.ids, found.targets, found.positions)
    return encoded, found.counts(len(rows), encoded.input_ids.numel())


@dataclass
class _Found:
    """The tokenised rows so far, and what was found about the others."""

    ids: list[list[int]] = field(default_factory=list)
    targets: list[Spans] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    shortest: int = sys.maxsize  # the fewest tokens that a row needs to be learned
    num_truncated: int = 0
    num_bad: int = 0
    first_bad: UserError | None = None
    num_rewritten: int = 0
    left_out: Counter[str] = field(default_factory=Counter)

    def keep(self, row: Row, rendered: Rendered, ids: list[int], targets: Spans) -> None:
        self.ids.append(ids)
        self.targets.append(targets)
        self.positions.append(row.position)
        self.num_rewritten += rendered.num_context_turns > 0
        self.left_out.update(rendered.left_out)

    def usable(self, error: UserError | None, bad_rows: str) -> bool:
        """Whether there is no error; otherwise it is raised or counted."""
        if error is None:
            return True
        if bad_rows == "error":
            raise error
        self.num_bad += 1
        self.first_bad = self.first_bad or error
        return False

    def counts(self, num_rows: int, num_tokens: int) -> RowCounts:
        return RowCounts(
            num_rows=len(self.ids),
            num_truncated=self.num_truncated,
            num_dropped=num_rows - len(self.ids) - self.num_bad,
            bad=BadRows(number=self.num_bad, first=str(self.first_bad) if self.num_bad else None),
            num_rewritten=self.num_rewritten,
            left_out=dict(self.left_out),
            num_tokens=num_tokens,
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
    prompts: Prompts, rows: Sequence[Row], bad_rows: str, train_on_inputs: bool, found: _Found
) -> Iterator[tuple[Row, Rendered, Encoded]]:
    """Each usable row with its text, its ids and the places of its targets, in their order."""
    usable = []
    for row in rows:
        try:
            rendered = prompts.render(row)
            eos = prompts.tokenizer.eos_token
            error = _unlearnable(row, rendered, eos, train_on_inputs)
        except UserError as raised:
            error = raised
        if found.usable(error, bad_rows):
            usable.append((row, rendered))
    encoded = encode_targets(prompts.tokenizer, [rendered for _, rendered in usable])
    for (row, rendered), found_ids in zip(usable, encoded, strict=True):
        yield row, rendered, found_ids


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
