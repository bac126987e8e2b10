"""Generation with continuous batching: waiting prompts take the places of texts that have ended.

A batch that runs until its longest text ends is half empty for most of the time. Beam search still
gets such batches, and so do models whose cache is anything but the keys and values of all tokens.
"""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import pad
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
)

from smt_ray.evaluation.batches import EXACT, Padding, by_length, not_finite, positions
from smt_ray.evaluation.decoding import UnpaddedPenalty
from smt_ray.evaluation.prefix import prefill
from smt_ray.evaluation.reserved_cache import gather, is_plain, places_of


@dataclass
class _Batch:
    """Texts that are being generated.

    Attributes:
        rows: The numbers of their prompts.
        written: The ids that were generated so far after each prompt.
        ids: (B, C) int64, prompts and texts. Padding is on the left, or after a shared prefix.
        mask: (B, C) int64, 1 where an id is real; all 0 for texts that have ended.
        cache: Keys and values of some columns, or None; in a continuous batch those of all columns
            but the last.
        is_continuous: Whether ended texts can leave the batch and others can join it.
    """

    rows: list[int]
    written: list[list[int]]
    ids: torch.Tensor
    mask: torch.Tensor
    cache: Any
    is_continuous: bool


class ContinuousGenerator:
    """Generates texts after prompts, by ``model.generate``.

    Args:
        model: A transformers causal language model.
        settings: Settings with ``num_beams``, ``max_new_tokens``, ``pad_token_id`` and
            ``eos_token_id`` (a list, or None); the model's own settings must be the same.
        repetition_penalty: See :class:`smt_ray.evaluation.decoding.Decoding`.
        padding: Where padding leaves the texts as they are.
    """

    def __init__(
        self,
        model: Any,
        settings: GenerationConfig,
        repetition_penalty: float,
        padding: Padding = EXACT,
    ) -> None:
        self._padding = padding
        self._model, self._settings, self._penalty = model, settings, repetition_penalty
        self._eos_ids = set(settings.eos_token_id or ())
        backbone = model.base_model
        accepted = inspect.signature(backbone.forward).parameters
        # Beam search reorders the cache in place. A model that is not given positions counts
        # padding as positions.
        self._can_be_continuous = (
            settings.num_beams == 1
            and backbone is not model
            and "position_ids" in accepted
            and padding.left  # waiting prompts join texts of other lengths
        )

    def generate(
        self, prompts: Sequence[list[int]], names: Sequence[str], batch_tokens: int
    ) -> Iterator[dict[int, list[int]]]:
        """Yields the generated ids without EOS, by the numbers of the prompts.

        Args:
            prompts: The token ids of each prompt.
            names: The name of each prompt in errors.
            batch_tokens: The largest number of tokens at a time: padding, new tokens and beams
                together. A prompt that needs more is generated alone.

        Raises:
            UserError: Logits are not finite.
        """
        most, num_beams = self._settings.max_new_tokens, self._settings.num_beams
        lengths = [(len(ids) + most) * num_beams for ids in prompts]
        groups = [list(range(len(prompts)))] if self._padding.left else by_length(lengths)
        for group in groups:
            yield from self._generate_group(group, prompts, lengths, names, batch_tokens)

    def _generate_group(
        self,
        group: Sequence[int],
        prompts: Sequence[list[int]],
        lengths: Sequence[int],
        names: Sequence[str],
        batch_tokens: int,
    ) -> Iterator[dict[int, list[int]]]:
        """Generates the texts of prompts that may be in one batch."""
        waiting = deque(sorted(group, key=lambda i: -lengths[i]))
        batch: _Batch | None = None
        while waiting or batch:
            if batch and not batch.is_continuous:  # the model has replaced its cache
                yield self._advance(batch, names)[0]
                batch = None
                continue
            parts = [batch] if batch else []
            if rows := _admit(waiting, batch.rows if batch else [], lengths, batch_tokens):
                new = self._start(rows, [prompts[row] for row in rows])
                if new.is_continuous:
                    parts.append(new)
                else:
                    yield self._advance(new, names)[0]
            batch = None
            if parts:
                ended, batch = self._advance(self._join(parts), names)
                yield ended

    def _start(self, rows: list[int], prompts: list[list[int]]) -> _Batch:
        """A batch of prompts without any generated text."""
        num_beams = self._settings.num_beams
        ids, mask, cache = prefill(
            self._model,
            prompts,
            self._settings.pad_token_id,
            num_beams,
            share=self._padding.inside,
        )
        whole = self._fill_cache(ids, mask, cache) if self._can_be_continuous else None
        written: list[list[int]] = [[] for _ in rows]
        return _Batch(rows, written, ids, mask, whole or cache, is_continuous=whole is not None)

    def _fill_cache(self, ids: torch.Tensor, mask: torch.Tensor, cache: Any) -> Any:
        """A plain cache of all columns but the last, or None if the model has no plain cache."""
        num_cached = cache.get_seq_length() if cache else 0
        if num_cached == ids.shape[1] - 1:
            return cache
        output = self._model.base_model(
            input_ids=ids[:, num_cached:-1],
            attention_mask=mask[:, :-1],
            position_ids=positions(mask)[:, num_cached:-1],
            past_key_values=cache,
            use_cache=True,
        )
        whole = getattr(output, "past_key_values", None)
        self._can_be_continuous = is_plain(whole)
        return whole if self._can_be_continuous else None

    def _join(self, parts: Sequence[_Batch]) -> _Batch:
        """One batch, no wider than its longest row, with all padding on the left."""
        lengths = torch.cat([part.mask.sum(-1) for part in parts])
        lengths = lengths[lengths > 0]
        width = int(lengths.max())
        mask = (torch.arange(width, device=lengths.device) >= width - lengths[:, None]).long()
        ids = torch.full_like(mask, self._settings.pad_token_id)
        ids[mask.bool()] = torch.cat([part.ids[part.mask.bool()] for part in parts])
        written = [text for part in parts for text in part.written]
        cache = gather(
            [(part.cache, places_of(part.mask[:, :-1])) for part in parts],
            places_of(mask[:, :-1]),
            num_rows=len(mask),
            num_reserved=width - 1 + self._num_steps(written, is_continuous=True),
        )
        rows = [row for part in parts for row in part.rows]
        return _Batch(rows, written, ids, mask, cache, is_continuous=True)

    def _num_steps(self, written: Sequence[list[int]], *, is_continuous: bool) -> int:
        """The number of tokens until the longest text has the largest length.

        A batch that is not continuous goes on until its shortest text has it.
        """
        first = max if is_continuous else min
        return int(self._settings.max_new_tokens) - first(map(len, written))

    def _advance(
        self, batch: _Batch, names: Sequence[str]
    ) -> tuple[dict[int, list[int]], _Batch | None]:
        """Generates until a quarter of a continuous batch has ended, or all of another batch.

        Returns:
            The ids of the texts that ended, by row, and a batch of the others.
        """
        width, most = batch.ids.shape[1], self._settings.max_new_tokens
        ids = self._generate(batch, [names[row] for row in batch.rows])
        mask = pad(batch.mask, (0, ids.shape[1] - width), value=1)
        ended: dict[int, list[int]] = {}
        # Some models drop the cache at a bound of positions (Phi-3). Their texts end as in a plain
        # call of generate.
        keeps = batch.is_continuous and batch.cache.get_seq_length() == ids.shape[1] - 1
        self._can_be_continuous = self._can_be_continuous and (keeps or not batch.is_continuous)
        rest = _Batch([], [], ids, mask, batch.cache if keeps else None, is_continuous=keeps)
        for place, new in enumerate(ids[:, width:].tolist()):
            text = _before_eos(self._eos_ids, new)
            written = (batch.written[place] + text)[:most]
            if batch.is_continuous and len(text) == len(new) and len(written) < most:
                rest.rows.append(batch.rows[place])
                rest.written.append(written)
            else:
                ended[batch.rows[place]] = written
                mask[place] = 0
        if rest.rows and not keeps:
            chosen = torch.tensor([batch.rows.index(row) for row in rest.rows], device=ids.device)
            rest.ids, rest.mask = ids[chosen], mask[chosen]
        return ended, rest if rest.rows else None

    def _generate(self, batch: _Batch, names: Sequence[str]) -> torch.Tensor:
        """The batch's ids, followed by the newly generated ones."""
        settings = copy(self._settings)
        settings.max_new_tokens = self._num_steps(batch.written, is_continuous=batch.is_continuous)
        check = _FiniteCheck()
        processors = LogitsProcessorList([check])
        if self._penalty != 1:
            processors.append(UnpaddedPenalty(self._penalty, batch.mask, settings.num_beams))
        stops = StoppingCriteriaList()
        if batch.is_continuous and self._eos_ids:
            stops.append(_QuarterEnded(len(batch.rows), self._eos_ids, batch.ids.device))
        ids: torch.Tensor = self._model.generate(
            input_ids=batch.ids,
            attention_mask=batch.mask,
            generation_config=settings,
            logits_processor=processors,
            stopping_criteria=stops,
            **({"past_key_values": batch.cache} if batch.cache else {}),
        )
        if bad := check.bad_rows(len(names)):
            raise not_finite(names[bad[0]])
        return ids


def _admit(
    waiting: deque[int], running: Sequence[int], lengths: Sequence[int], batch_tokens: int
) -> list[int]:
    """Takes rows from the queue while there is room beside the running rows, longest first."""
    if not waiting:
        return []
    longest = max(lengths[row] for row in [waiting[0], *running])
    num_rows = max(1, batch_tokens // longest) - len(running)
    return [waiting.popleft() for _ in range(min(num_rows, len(waiting)))]


def _before_eos(eos_ids: set[int], ids: list[int]) -> list[int]:
    """The ids before the first EOS, after which a row only holds padding."""
    return ids[: next((i for i, token in enumerate(ids) if token in eos_ids), len(ids))]


class _QuarterEnded(StoppingCriteria):
    """Stops a batch as soon as a quarter of its texts have ended."""

    def __init__(self, num_rows: int, eos_ids: set[int], device: torch.device) -> None:
        self._eos_ids = torch.tensor(sorted(eos_ids), device=device)
        self._ended = torch.zeros(num_rows, dtype=torch.bool, device=device)

    def __call__(self, input_ids: torch.LongTensor, *_: Any, **__: Any) -> torch.Tensor:
        self._ended |= torch.isin(input_ids[:, -1], self._eos_ids)
        return (4 * self._ended.sum() >= len(self._ended)).expand(len(self._ended))


class _FiniteCheck(LogitsProcessor):
    """Changes no score, but notes on the device which rows had scores that are not numbers."""

    def __init__(self) -> None:
        self._bad: torch.Tensor | None = None

    def __call__(self, input_ids: torch.LongTensor, scores: torch.Tensor) -> torch.Tensor:
        # The maximum is NaN if any score is NaN, and infinite if any is +inf or all are -inf.
        # A single -inf is legitimate.
        bad = ~scores.amax(-1).isfinite()
        self._bad = bad if self._bad is None else self._bad | bad
        return scores

    def bad_rows(self, num_rows: int) -> list[int]:
        assert self._bad is not None
        rows: list[int] = self._bad.view(num_rows, -1).any(-1).nonzero().flatten().tolist()
        return rows
