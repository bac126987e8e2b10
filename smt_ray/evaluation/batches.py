"""Batches of sequences of different lengths, for both protocols."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from smt_ray.data.batches import PADDED, fill_batches
from smt_ray.documents.probe import Probe
from smt_ray.errors import UserError


@dataclass(frozen=True)
class Padding:
    """Where padding leaves a model's results as they are.

    Attributes:
        left: Before a prompt.
        inside: Between a prefix that prompts share and the rest of each.
        right: After a row.
    """

    left: bool = True
    inside: bool = True
    right: bool = True

    @classmethod
    def of(cls, probe: Probe) -> Padding:
        """What a probe found; where one kind of padding changes results, rows get none."""
        right = probe.pads_left and probe.is_exact(PADDED)
        return cls(probe.pads_left, probe.pads_inside, right)


EXACT = Padding()
"""Padding that changes nothing anywhere, as in most models of attention."""


def by_length(lengths: Sequence[int]) -> list[list[int]]:
    """Indices into ``lengths``, grouped by equal length."""
    groups: dict[int, list[int]] = {}
    for i, length in enumerate(lengths):
        groups.setdefault(length, []).append(i)
    return list(groups.values())


def plan_batches(lengths: Sequence[int], batch_tokens: int) -> list[list[int]]:
    """Splits sequences into batches that hold at most ``batch_tokens``, padding included.

    The longest sequences come first. So a batch has little padding, and if memory is short, the
    first batch fails and not the last. A sequence that is longer than the limit is alone in its
    batch.

    Args:
        lengths: The number of tokens of each sequence.
        batch_tokens: The largest product of a batch's sequences and the longest of them.

    Returns:
        Indices into ``lengths``, each once.

    Raises:
        UserError: ``batch_tokens`` is below 1.
    """
    check_batch_tokens(batch_tokens)
    return fill_batches(longest_first(lengths), lengths, batch_tokens)


def longest_first(lengths: Sequence[int]) -> list[int]:
    """Indices into ``lengths``, the longest first; equal lengths keep their order."""
    return sorted(range(len(lengths)), key=lambda i: -lengths[i])


def check_batch_tokens(batch_tokens: int) -> None:
    """Raises a UserError if ``batch_tokens`` is below 1."""
    if batch_tokens < 1:
        raise UserError("evaluation.batch_tokens", "must be at least 1", got=batch_tokens)


def pad(
    sequences: Sequence[Sequence[int]], pad_id: int, device: torch.device, *, left: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Padded token ids and the mask of the real ones, each (B, longest) int64 on ``device``."""
    longest = max(map(len, sequences))
    ids, mask = [], []
    for sequence in sequences:
        fill = longest - len(sequence)
        before, after = (fill, 0) if left else (0, fill)
        ids.append([pad_id] * before + list(sequence) + [pad_id] * after)
        mask.append([0] * before + [1] * len(sequence) + [0] * after)
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def positions(mask: torch.Tensor) -> torch.Tensor:
    """The position of each token in its row, without padding, in the shape of ``mask``."""
    return (mask.cumsum(-1) - 1).clamp(min=0)


def padding_id(tokenizer: Any) -> int:
    """A valid token id to pad with; any id would do, because padding is masked."""
    for token_id in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if token_id is not None:
            return int(token_id)
    return 0


def check_lengths(model: Any, lengths: Sequence[int], names: Sequence[str]) -> None:
    """Checks that the model has positions for all sequences.

    Args:
        model: A transformers model.
        lengths: The number of tokens of each sequence, including those to be generated.
        names: The name of each sequence in errors.

    Raises:
        UserError: A sequence is longer than the model's ``max_position_embeddings``.
    """
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if limit is None:
        return
    for length, name in zip(lengths, names, strict=True):
        if length > limit:
            raise UserError(
                name,
                f"prompt and answer must fit the model's {limit} positions",
                got=f"{length} tokens",
                fix="leave the row out, or evaluate a model with a longer context",
            )


def not_finite(name: str) -> UserError:
    """The error for a model that computes NaN or infinite logits."""
    return UserError(
        name,
        "the model's logits must be finite",
        fix="the weights have diverged or overflow: lower the learning rate, or load the model "
        "in float32 or bfloat16",
    )


@contextmanager
def inference(model: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; the mode of every module is restored at the end."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        # Tensors that a model caches, such as rotary tables, could not be trained with after
        # torch.inference_mode.
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode
