"""Inference of a small model: whether it is causal, and what padding changes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig

from smt_ray.documents.probe import TOLERANCE
from smt_ray.evaluation.batches import pad
from smt_ray.probe.shrink import WINDOW
from smt_ray.probe.steps import FIRST_LONG, NUM_SHARED, rows


def is_causal(model: Any) -> bool:
    """Whether logits stay the same when later tokens change, wherever the change begins."""
    ids = _longest()
    changed = torch.where(torch.ones(len(ids), len(ids)).tril().bool(), ids, ids.flip(0))
    with torch.no_grad():
        logits = model(input_ids=changed, use_cache=False).logits
    return all(_is_close(row[:end], logits[-1, :end]) for end, row in enumerate(logits[:-1], 1))


def draws(model: Any) -> bool:
    """Whether the model draws random numbers in training mode."""
    ids = _longest()[None]
    was_training = model.training
    model.train()
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(0)
            one, other = (model(input_ids=ids, use_cache=False).logits for _ in range(2))
    finally:
        model.train(was_training)
    return not torch.equal(one, other)


def pads_left(model: Any) -> bool:
    """Whether prompts that are padded on the left are continued as they are alone."""
    return _pads(model, 0)


def pads_inside(model: Any) -> bool:
    """The same for padding between a shared prefix and the rest of a prompt."""
    return _pads(model, NUM_SHARED)


def _pads(model: Any, num_shared: int) -> bool:
    encoded = rows()
    prompts = [encoded.row(row).tolist() for row in range(FIRST_LONG, len(encoded))][::2]
    ids, mask = pad([prompt[num_shared:] for prompt in prompts], 0, model.device, left=True)
    prefix = torch.tensor(prompts[0][:num_shared], dtype=ids.dtype).expand(len(prompts), -1)
    ids = torch.cat([prefix, ids], dim=1)
    mask = torch.cat([torch.ones_like(prefix), mask], dim=1)
    try:
        batch = _logits(model, ids, mask)
        alone = [_logits(model, one, torch.ones_like(one)) for one in map(_as_batch, prompts)]
    except Exception:  # a model's code may fail in any way; then prompts are not padded
        return False
    return _is_close(batch, torch.cat(alone))


def _as_batch(prompt: list[int]) -> Tensor:
    return torch.tensor([prompt])


def _logits(model: Any, ids: Tensor, mask: Tensor) -> Tensor:
    """The logits of greedily generated tokens, (B, N, V)."""
    output = model.generate(
        input_ids=ids,
        attention_mask=mask,
        generation_config=GenerationConfig(
            do_sample=False,
            max_new_tokens=WINDOW + 1,
            pad_token_id=0,
            eos_token_id=None,
            return_dict_in_generate=True,
            output_logits=True,
        ),
    )
    return torch.stack(output.logits, dim=1)


def _longest() -> Tensor:
    encoded = rows()
    return encoded.row(len(encoded) - 1).long()


def _is_close(found: Tensor, expected: Tensor) -> bool:
    return bool((found - expected).norm() <= TOLERANCE * expected.norm())
