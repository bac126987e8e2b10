"""Prompts answered in flight: where texts have ended, prompts that wait take their places.

A batch that runs until its longest text ends is half empty for most of the time. Beams get such
batches all the same, and so do models that keep anything but every token's keys and values.
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

from smt_ray.evaluation.batches import longest_first, not_finite, positions
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
        mask: (B, C) int64, 1 where they are real; of texts that have ended, nothing is.
        cache: Keys and values of some columns, or None; of an open batch all but the last.
        is_open: Whether texts can leave it and others join.
    """

    rows: list[int]
    written: list[list[int]]
    ids: torch.Tensor
    mask: torch.Tensor
    cache: Any
    is_open: bool


class InflightGenerator:
    """Generates texts after prompts, by ``model.generate``.

    Args:
        model: A transformers causal language model.
        settings: With ``num_beams``, ``max_new_tokens``, ``pad_token_id`` and ``eos_token_id`` (a
            list, or None); the model's own are to be the same.
        repetition_penalty: See :class:`smt_ray.evaluation.decoding.Decoding`.
    """

    def __init__(self, model: Any, settings: GenerationConfig, repetition_penalty: float) -> None:
        self._model, self._settings, self._penalty = model, settings, repetition_penalty
        self._eos_ids = set(settings.eos_token_id or ())
        backbone = model.base_model
        accepted = inspect.signature(backbone.forward).parameters
        # Beams are reordered in place; without positions of its own a model counts padding.
        self._may_open = (
            settings.num_beams == 1 and backbone is not model and "position_ids" in accepted
        )

    def generate(
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
        waiting = deque(longest_first(lengths))
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
        whole = self._run(ids, mask, cache) if self._may_open else None
        written: list[list[int]] = [[] for _ in rows]
        return _Batch(rows, written, ids, mask, whole or cache, is_open=whole is not None)

    def _run(self, ids: torch.Tensor, mask: torch.Tensor, cache: Any) -> Any:
        """A plain cache of all columns but the last, or None where the model has none."""
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
        self._may_open = is_plain(whole)
        return whole if self._may_open else None

    def _join(self, parts: Sequence[_Batch]) -> _Batch:
        """One batch, no wider than its longest row: all padding is on the left."""
        lengths = torch.cat([part.mask.sum(-1) for part in parts])
        lengths = lengths[lengths > 0]
        width = int(lengths.max())
        mask = (torch.arange(width, device=lengths.device) >= width - lengths[:, None]).long()
        ids = torch.full_like(mask, self._settings.pad_token_id)
        ids[mask.bool()] = torch.cat([part.ids[part.mask.bool()] for part in parts])
        written = [text for part in parts for text in part.written]
        cache = gather(
            [(part.cache, part.mask[:, :-1].nonzero(as_tuple=True)) for part in parts],
            mask[:, :-1].nonzero(as_tuple=True),
            num_rows=len(mask),
            num_reserved=width - 1 + self._num_steps(written),
        )
        rows = [row for part in parts for row in part.rows]
        return _Batch(rows, written, ids, mask, cache, is_open=True)

    def _num_steps(self, written: Sequence[list[int]]) -> int:
        """How many tokens each text may have before the first is as long as any may be."""
        return int(self._settings.max_new_tokens) - max(map(len, written))

    def _go_on(
        self, batch: _Batch, names: Sequence[str]
    ) -> tuple[dict[int, list[int]], _Batch | None]:
        """Writes until a quarter of an open batch has ended, or all of another one.

        Returns:
            The ids of texts that ended, by row, and the batch of the others.
        """
        width, most = batch.ids.shape[1], self._settings.max_new_tokens
        ids = self._generate(batch, [names[row] for row in batch.rows])
        mask = pad(batch.mask, (0, ids.shape[1] - width), value=1)
        ended: dict[int, list[int]] = {}
        rest = _Batch([], [], ids, mask, batch.cache, batch.is_open)
        for place, new in enumerate(ids[:, width:].tolist()):
            text = _until(self._eos_ids, new)
            written = batch.written[place] + text
            if batch.is_open and len(text) == len(new) and len(written) < most:
                rest.rows.append(batch.rows[place])
                rest.written.append(written)
            else:
                ended[batch.rows[place]] = written
                mask[place] = 0
        return ended, rest if rest.rows else None

    def _generate(self, batch: _Batch, names: Sequence[str]) -> torch.Tensor:
        """The batch's ids with what was written after them."""
        settings = copy(self._settings)
        settings.max_new_tokens = self._num_steps(batch.written)
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
        if batch.is_open and batch.cache.get_seq_length() != ids.shape[1] - 1:
            raise RuntimeError("the model put another cache in the place of the one it was given")
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
