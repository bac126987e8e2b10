"""The training steps of a small model: packed and padded ones against one row at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import cycle
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from smt_ray.data.batches import MODES, ONE_ROW, step_micro_batches
from smt_ray.data.encoding.stored import EncodedRows
from smt_ray.documents.probe import TOLERANCE
from smt_ray.probe.shrink import VOCABULARY, WINDOW
from smt_ray.training.loss.last_layer import can_narrow
from smt_ray.training.loss.supervised import SupervisedLoss

# Rows shorter and longer than every window.
_LENGTHS = (
    3,
    WINDOW - 1,
    WINDOW + 3,
    WINDOW + 4,
    2 * WINDOW,
    3 * WINDOW - 1,
    3 * WINDOW,
    5 * WINDOW,
)
FIRST_LONG = 2
"""The first row of those that begin with the same :data:`NUM_SHARED` tokens."""
NUM_SHARED = WINDOW + 1
_MAX_TOKENS = 4 * 5 * WINDOW  # so that a step has several micro-batches, and wide padding
_LEAST = 1e-3  # of the usual norm of a gradient; smaller ones are rounding
_FEW_LOGITS = 4 * VOCABULARY  # so that most rows have several chunks
_FIRST_ID = 4  # smaller ones are padding, BOS and EOS
_NUM_FEW = 16  # ids of a row that repeats itself, so that keys and their scores are equal


class Step(NamedTuple):
    """The gradient of a step, or the reason why it failed."""

    error: float | None
    failure: str | None = None


class Steps(NamedTuple):
    """What :func:`try_steps` found.

    Attributes:
        modes: The step of each mode.
        narrows: Whether the last layer may be narrowed.
        splits_logits: Whether logits may be computed for some positions at a time.
    """

    modes: dict[str, Step]
    narrows: bool
    splits_logits: bool


def rows() -> EncodedRows:
    """Random rows; about half of each is its prompt, and every second one repeats its tokens."""
    generator = torch.Generator().manual_seed(0)
    parts = [
        torch.randint(_FIRST_ID, end, (length,), generator=generator, dtype=torch.int32)
        for length, end in zip(_LENGTHS, cycle((_FIRST_ID + _NUM_FEW, VOCABULARY - 1)))
    ]
    for part in parts[FIRST_LONG:]:
        part[:NUM_SHARED] = parts[FIRST_LONG][:NUM_SHARED]
    lengths = torch.tensor(_LENGTHS)
    return EncodedRows(
        input_ids=torch.cat(parts),
        offsets=torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)]),
        prompt_lengths=(lengths // 2).to(torch.int32),
        positions=torch.arange(len(lengths), dtype=torch.int32),
    )


def try_steps(model: Any) -> Steps:
    """Compares the steps of all batching modes with one row at a time.

    Args:
        model: The small model, in evaluation mode and float32.
    """
    expected = _reference(model)
    modes = {}
    narrows = can_narrow(model)
    for mode in MODES:
        modes[mode] = step = _step(model, mode, expected, narrow=False)
        if narrows and _is_exact(step):
            narrows = _is_exact(_step(model, mode, expected, narrow=True))
    one_row = _step(model, ONE_ROW, expected, narrow=narrows, max_logits=_FEW_LOGITS)
    return Steps(modes, narrows, splits_logits=_is_exact(one_row))


def _is_exact(step: Step) -> bool:
    return step.error is not None and step.error <= TOLERANCE


def _reference(model: Any) -> list[Tensor | None]:
    """The gradient of a step, row by row and from whole logits."""
    encoded, losses = rows(), []
    for row in range(len(encoded)):
        ids, first = encoded.row(row).long(), int(encoded.prompt_lengths[row])
        logits = model(input_ids=ids[None], use_cache=False).logits[0]
        losses.append(F.cross_entropy(logits[first - 1 : -1], ids[first:], reduction="none"))
    return _gradients(model, torch.cat(losses).mean())


def _step(
    model: Any,
    mode: str,
    expected: Sequence[Tensor | None],
    *,
    narrow: bool,
    max_logits: int | None = None,
) -> Step:
    loss = SupervisedLoss(model, narrow=narrow, max_logits=max_logits)
    encoded = rows()
    try:
        batches = step_micro_batches(
            encoded,
            list(range(len(encoded))),
            mode=mode,
            max_tokens=_MAX_TOKENS,
            train_on_inputs=False,
        )
        found = _gradients(model, torch.stack([loss(batch) for batch in batches]).sum())
    except Exception as error:  # any failure of a model's code means that the mode cannot be used
        return Step(None, f"{type(error).__name__}: {error}".splitlines()[0])
    finally:
        loss.detach_from_model()
    return Step(relative_error(found, expected))


def _gradients(model: Any, loss: Tensor) -> list[Tensor | None]:
    parameters = [p for p in model.parameters() if p.requires_grad]
    return list(torch.autograd.grad(loss, parameters, allow_unused=True))


def relative_error(found: Sequence[Tensor | None], expected: Sequence[Tensor | None]) -> float:
    """The largest relative error of a gradient; missing ones are zeros.

    The norm of the difference is divided by the norm of what is expected, or by a part of the usual
    norm where a gradient is nearly zero, as that of a key's bias is.
    """
    pairs = [(_or_zeros(a, b), _or_zeros(b, a)) for a, b in zip(found, expected, strict=True)]
    pairs = [(one, other) for one, other in pairs if one is not None]
    norms = [float(other.double().norm()) for _, other in pairs]
    floor = _LEAST * math.sqrt(sum(norm**2 for norm in norms) / len(norms))
    return max(
        float((one - other).double().norm()) / max(norm, floor)
        for (one, other), norm in zip(pairs, norms, strict=True)
    )


def _or_zeros(gradient: Tensor | None, like: Tensor | None) -> Any:
    if gradient is not None or like is None:
        return gradient
    return torch.zeros_like(like)
