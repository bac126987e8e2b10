"""Prompts answered in flight: where texts have ended, prompts that wait take their places.

Texts are so unlike in length that a batch which runs until its longest one ends is half empty
before. Beams, and models that keep more or less than every token's keys and values, get such
batches all the same.
"""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass, replace
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

from smt_ray.evaluation.batches import not_finite
from smt_ray.evaluation.decoding import UnpaddedPenalty
from smt_ray.evaluation.prefix import prefill
from smt_ray.evaluation.reserved_cache import gather, is_plain


@dataclass
class _Batch:
    """Texts under way.

    Attributes:
        rows: The numbers of their prompts.
        written: The ids written after each.
        ids: (B, C) int64, prompts and texts, padded on the left and after a shared beginning.
        mask: (B, C) int64, 1 where they are real.
        cache: Keys and values of all columns but the last, or of fewer, or None.
        cache_rows: (B,) int64, which rows of the cache are these.
    """

    rows: list[int]
    written: list[list[int]]
    ids: torch.Tensor
    mask: torch.Tensor
    cache: Any
    cache_rows: torch.Tensor

    @property
    def is_open(self) -> bool:
        """Whether rows can leave it and others join."""
        return is_plain(self.cache) and self.cache.get_seq_length() == self.ids.shape[1] - 1


class Writer:
    """Writes after prompts.

    Args:
        model: A transformers causal language model.
        settings: With ``num_beams``, ``max_new_tokens``, ``pad_token_id`` and ``eos_token_id`` (a
            list, or None); the model's own are to be the same.
        repetition_penalty: See :class:`smt_ray.evaluation.decoding.Decoding`.
    """

    def __init__(self, model: Any, settings: GenerationConfig, repetition_penalty: float) -> None:
        self._model, self._settings, self._penalty = model, settings, repetition_penalty
        self._eos_ids = set(settings.eos_token_id or ())

    def write(
        self, prompts: Sequence[list[int]], names: Sequence[str], batch_tokens: int
    ) -> Iterator[dict[int, list[int]]]:
        """Yields the ids written after prompts, EOS left out, by the prompts' numbers.

        Args:
            prompts: Token ids of each.
            names: What to call each in an error.
            batch_tokens: Most tokens at a time, padding, new tokens and beams together; a prompt
                that needs more is alone.

        Raises:
            UserError: Logits are not finite.
        """
        most, num_beams = self._settings.max_new_tokens, self._settings.num_beams
        lengths = [(len(ids) + most) * num_beams for ids in prompts]
        waiting = deque(sorted(range(len(prompts)), key=lambda row: -lengths[row]))
        batch: _Batch | None = None
        while waiting or batch:
            parts = [batch] if batch else []
            if rows := _admit(waiting, batch.rows if batch else [], lengths, batch_tokens):
                new = self._start(rows, [prompts[row] for row in rows])
                if new.is_open:
                    parts.append(new)
                else:
                    yield self._go_on(new, names)[0]
            batch = None
            if parts:
                ended, batch = self._go_on(self._join(parts), names)
                yield ended

    def _start(self, rows: list[int], prompts: list[list[int]]) -> _Batch:
        """Prompts of which nothing is written yet."""
        num_beams = self._settings.num_beams
        ids, mask, cache = prefill(self._model, prompts, self._settings.pad_token_id, num_beams)
        accepts = inspect.signature(self._model.base_model.forward).parameters
        num_cached = cache.get_seq_length() if cache else 0
        if num_beams == 1 and "position_ids" in accepts and num_cached < ids.shape[1] - 1:
            positions = (mask.cumsum(-1) - 1).clamp(min=0)
            output = self._model.base_model(
                input_ids=ids[:, num_cached:-1],
                attention_mask=mask[:, :-1],
                position_ids=positions[:, num_cached:-1],
                past_key_values=cache,
                use_cache=True,
            )
            cache = getattr(output, "past_key_values", None)
        everything = torch.arange(len(rows), device=ids.device)
        return _Batch(rows, [[] for _ in rows], ids, mask, cache, everything)

    def _join(self, parts: Sequence[_Batch]) -> _Batch:
        """One batch, its rows' ends beside each other and no column at the left of them all."""
        width = max(part.ids.shape[1] for part in parts)
        ids, mask = (
            torch.cat([pad(columns, (width - columns.shape[1], 0), value=fill) for columns in of])
            for of, fill in (
                ([part.ids for part in parts], self._settings.pad_token_id),
                ([part.mask for part in parts], 0),
            )
        )
        first = int(mask.any(0).int().argmax())
        joined = _Batch(
            [row for part in parts for row in part.rows],
            [ids for part in parts for ids in part.written],
            ids[:, first:],
            mask[:, first:],
            cache=None,
            cache_rows=torch.arange(len(ids), device=ids.device),
        )
        num_tokens = width - first - 1
        caches = [(part.cache, part.cache_rows) for part in parts]
        return replace(
            joined, cache=gather(caches, num_tokens, num_tokens + self._num_steps(joined))
        )

    def _num_steps(self, batch: _Batch) -> int:
        """How many tokens each text may have before the first is as long as any may be."""
        return int(self._settings.max_new_tokens) - max(map(len, batch.written))

    def _go_on(
        self, batch: _Batch, names: Sequence[str]
    ) -> tuple[dict[int, list[int]], _Batch | None]:
        """Writes until a quarter of an open batch has ended, or all of another one.

        Returns:
            The ids of texts that ended, by row, and the batch of the others.
        """
        is_open, width = batch.is_open, batch.ids.shape[1]
        ids = self._generate(batch, [names[row] for row in batch.rows])
        ended: dict[int, list[int]] = {}
        places = []
        for place, (row, new) in enumerate(zip(batch.rows, ids[:, width:].tolist(), strict=True)):
            text = _until(self._eos_ids, new)
            batch.written[place] = batch.written[place] + text
            longest = len(batch.written[place]) == self._settings.max_new_tokens
            if is_open and len(text) == len(new) and not longest:
                places.append(place)
            else:
                ended[row] = batch.written[place]
        if not places:
            return ended, None
        rest = _Batch(
            [batch.rows[place] for place in places],
            [batch.written[place] for place in places],
            ids[places],
            pad(batch.mask, (0, ids.shape[1] - width), value=1)[places],
            batch.cache,
            torch.tensor(places, device=ids.device),
        )
        return ended, rest

    def _generate(self, batch: _Batch, names: Sequence[str]) -> torch.Tensor:
        """The batch's ids with what was written after them."""
        settings = copy(self._settings)
        settings.max_new_tokens = self._num_steps(batch)
        watch = _FiniteWatch()
        processors = LogitsProcessorList([watch])
        if self._penalty != 1:
            processors.append(UnpaddedPenalty(self._penalty, batch.mask, settings.num_beams))
        stops = StoppingCriteriaList()
        if batch.is_open and self._eos_ids:
            stops.append(_SomeEnded(len(batch.rows), self._eos_ids, batch.ids.device))
        ids: torch.Tensor = self._model.generate(
            input_ids=batch.ids,
            attention_mask=batch.mask,
            generation_config=settings,
            logits_processor=processors,
            stopping_criteria=stops,
            **({"past_key_values": batch.cache} if batch.cache else {}),
        )
        if bad := watch.bad_rows(len(names)):
            raise not_finite(names[bad[0]])
        return ids


def _admit(
    waiting: deque[int], running: Sequence[int], lengths: Sequence[int], batch_tokens: int
) -> list[int]:
    """Takes rows off the queue for which there is room beside those that run, longest first."""
    if not waiting:
        return []
    longest = max(lengths[row] for row in [waiting[0], *running])
    num_rows = max(1, batch_tokens // longest) - len(running)
    return [waiting.popleft() for _ in range(min(num_rows, len(waiting)))]


def _until(eos_ids: set[int], ids: list[int]) -> list[int]:
    """The ids before the first EOS: after it a row holds only padding."""
    return ids[: next((i for i, token in enumerate(ids) if token in eos_ids), len(ids))]


class _SomeEnded(StoppingCriteria):
    """Stops a batch once a quarter of its texts have ended."""

    def __init__(self, num_rows: int, eos_ids: set[int], device: torch.device) -> None:
        self._eos_ids = torch.tensor(sorted(eos_ids), device=device)
        self._ended = torch.zeros(num_rows, dtype=torch.bool, device=device)

    def __call__(self, input_ids: torch.LongTensor, *_: Any, **__: Any) -> torch.Tensor:
        self._ended |= torch.isin(input_ids[:, -1], self._eos_ids)
        return (4 * self._ended.sum() >= len(self._ended)).expand(len(self._ended))


class _FiniteWatch(LogitsProcessor):
    """Changes no score; remembers, on the device, which rows ever had a score that is no number."""

    def __init__(self) -> None:
        self._bad: torch.Tensor | None = None

    def __call__(self, input_ids: torch.LongTensor, scores: torch.Tensor) -> torch.Tensor:
        # NaN if any score is, infinite if any is +inf or all are -inf; a single -inf is legitimate.
        bad = ~scores.amax(-1).isfinite()
        self._bad = bad if self._bad is None else self._bad | bad
        return scores

    def bad_rows(self, num_rows: int) -> list[int]:
        assert self._bad is not None
        return self._bad.view(num_rows, -1).any(-1).nonzero().flatten().tolist()
