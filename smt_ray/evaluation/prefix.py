"""What a batch's prompts begin with alike, computed once before they go their ways.

Prompts of a task open with the same words: a third of their tokens, or more. Padding then stands
between these and a row's own tokens, where attention does not look and no position is counted, so
nothing else changes; only a layer that looks a number of places back, whatever stands there, would
look at less. Models with such layers get whole prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from smt_ray.data.packing import common_prefix
from smt_ray.evaluation.batches import pad
from smt_ray.evaluation.reserved_cache import is_plain

_COUNT_COLUMNS = ("gpt_neo", "minimax", "mpt")  # padding in between is distance to them
_WORTHWHILE = 8  # tokens; below, one more forward costs more than it saves


def prefill(
    model: Any,
    prompts: Sequence[Sequence[int]],
    pad_id: int,
    num_beams: int = 1,
    *,
    num_left: int = 1,
) -> tuple[torch.Tensor, torch.Tensor, Any]:
    """A batch's inputs for ``generate``, or for a forward pass of what is left.

    Args:
        model: A transformers causal language model.
        prompts: Token ids of each.
        pad_id: What to fill up with.
        num_beams: Of each prompt.
        num_left: At least so many tokens of each prompt are left.

    Returns:
        Token ids and the mask of the real ones, each (B, longest) int64, and the keys and values of
        the beginning for every beam, or None where none is shared.
    """
    shortest = min(map(len, prompts))
    shared = min(common_prefix(prompts), shortest - num_left) if len(prompts) > 1 else 0
    shared = shared if shared >= _WORTHWHILE else 0
    beginning = torch.tensor([list(prompts[0][:shared])], device=model.device)
    cache = _run(model, beginning) if shared else None
    if cache is None:
        return *pad(prompts, pad_id, model.device, left=True), None
    cache.batch_repeat_interleave(len(prompts) * num_beams)
    own = [prompt[shared:] for prompt in prompts]
    input_ids, mask = pad(own, pad_id, model.device, left=True)
    beginnings = beginning.expand(len(prompts), -1)
    whole = torch.cat([beginnings, input_ids], dim=1)
    return whole, torch.cat([torch.ones_like(beginnings), mask], dim=1), cache


def _run(model: Any, beginning: torch.Tensor) -> Any:
    """The keys and values of some tokens, or None where a layer does not keep them all."""
    if model.config.model_type in _COUNT_COLUMNS:
        return None
    cache = getattr(model(input_ids=beginning, use_cache=True), "past_key_values", None)
    return cache if is_plain(cache) else None
