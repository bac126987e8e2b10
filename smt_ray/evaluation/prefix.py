"""The common prefix of a batch's prompts, which is computed once.

Prompts of a task begin with the same words, which are a third of their tokens or more. Padding is
then between the prefix and a row's own tokens. It is masked and has no positions, so the results
stay the same. The exception are models with layers that look back a fixed number of columns,
padding included. They get whole prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from smt_ray.data.packing import common_prefix
from smt_ray.evaluation.batches import pad
from smt_ray.evaluation.reserved_cache import is_plain

_WORTHWHILE = 8  # tokens; for fewer, one more forward pass costs more than it saves


def prefill(
    model: Any,
    prompts: Sequence[list[int]],
    pad_id: int,
    num_beams: int = 1,
    *,
    num_left: int = 1,
    share: bool = True,
) -> tuple[torch.Tensor, torch.Tensor, Any]:
    """The inputs of a batch, for ``generate`` or for a forward pass over the columns not cached.

    Args:
        model: A transformers causal language model.
        prompts: The token ids of each prompt.
        pad_id: The token id to pad with.
        num_beams: The beams of each prompt.
        num_left: The smallest number of tokens of a prompt that are not cached.
        share: Whether a common prefix may be cached, with padding after it.

    Returns:
        The token ids and the mask of the real ones, each (B, longest) int64, and a cache with the
        common prefix for every beam, or None if nothing is cached.
    """
    shortest = min(map(len, prompts))
    shared = min(common_prefix(prompts), shortest - num_left) if len(prompts) > 1 else 0
    shared = shared if share and shared >= _WORTHWHILE else 0
    prefix = torch.tensor([prompts[0][:shared]], device=model.device)
    cache = _run(model, prefix) if shared else None
    if cache is None:
        return *pad(prompts, pad_id, model.device, left=True), None
    cache.batch_repeat_interleave(len(prompts) * num_beams)
    own = [prompt[shared:] for prompt in prompts]
    input_ids, mask = pad(own, pad_id, model.device, left=True)
    prefixes = prefix.expand(len(prompts), -1)
    whole = torch.cat([prefixes, input_ids], dim=1)
    return whole, torch.cat([torch.ones_like(prefixes), mask], dim=1), cache


def _run(model: Any, prefix: torch.Tensor) -> Any:
    """A cache of the prefix, or None if a layer does not keep the keys and values of all tokens."""
    cache = getattr(model(input_ids=prefix, use_cache=True), "past_key_values", None)
    return cache if is_plain(cache) else None
