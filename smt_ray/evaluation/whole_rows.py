"""The log-likelihoods of candidates from whole rows, for models whose cache cannot be shared.

Recurrent and hybrid models keep a state instead of all keys and values, so a prompt's cache cannot
be copied for each of its candidates. Each candidate is then computed together with its prompt, and
padded on the right, where no real token looks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from smt_ray.evaluation.batches import by_length, pad, plan_batches


def completion_sums(
    model: Any,
    rows: Sequence[tuple[list[int], list[int]]],
    pad_id: int,
    batch_tokens: int,
    *,
    pads: bool,
) -> list[float]:
    """The log-likelihood of each completion after its prompt, in nats.

    Args:
        model: A transformers causal language model.
        rows: The token ids of each prompt and of its completion.
        pad_id: The token id to pad with.
        batch_tokens: The largest number of tokens of a batch, padding included.
        pads: Whether rows of different lengths may be in one batch.
    """
    sums = [0.0] * len(rows)
    lengths = [len(prompt) + len(completion) for prompt, completion in rows]
    for batch in _batches(lengths, batch_tokens, pads=pads):
        chosen = [rows[i] for i in batch]
        for i, value in zip(batch, _batch_sums(model, chosen, pad_id), strict=True):
            sums[i] = value
    return sums


def _batches(lengths: Sequence[int], batch_tokens: int, *, pads: bool) -> list[list[int]]:
    if pads:
        return plan_batches(lengths, batch_tokens)
    return [
        [group[i] for i in batch]
        for group in by_length(lengths)
        for batch in plan_batches([lengths[i] for i in group], batch_tokens)
    ]


def _batch_sums(
    model: Any, rows: Sequence[tuple[list[int], list[int]]], pad_id: int
) -> list[float]:
    ids, _ = pad(
        [prompt + completion for prompt, completion in rows], pad_id, model.device, left=False
    )
    first = min(len(prompt) for prompt, _ in rows) - 1  # it predicts the first needed token
    needed = torch.arange(first, ids.shape[1] - 1, device=ids.device)
    logits = model(input_ids=ids, use_cache=False, logits_to_keep=needed).logits
    if logits.shape[1] != len(needed):  # not every model can leave logits out
        logits = logits[:, needed]
    values = logits.float().log_softmax(-1).gather(-1, ids[:, first + 1 :, None]).squeeze(-1)
    return [
        values[i, len(prompt) - 1 - first :][: len(completion)].sum(dtype=torch.float64).item()
        for i, (prompt, completion) in enumerate(rows)
    ]
