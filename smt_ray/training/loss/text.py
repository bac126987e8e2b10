"""The loss of a model on rows that it is not trained on: what it has kept, or forgotten."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from smt_ray.config.data import DataConfig
from smt_ray.data.batches import PREFIX_PACKED, step_micro_batches
from smt_ray.data.encoding.rows import Encoding, Limits, encode_rows
from smt_ray.data.prompts import Prompts
from smt_ray.data.rows import Row
from smt_ray.documents.probe import Probe
from smt_ray.errors import UserError
from smt_ray.models.inspect import token_limits
from smt_ray.training.batching_mode import choose_mode
from smt_ray.training.loss.supervised import SupervisedLoss


class TextLoss(NamedTuple):
    """The loss over some rows.

    Attributes:
        nats: The sum over their targets.
        num_tokens: The number of targets.
        num_rows: The number of rows with a target.
    """

    nats: float = 0.0
    num_tokens: int = 0
    num_rows: int = 0

    def plus(self, other: TextLoss) -> TextLoss:
        """The loss over both sets of rows."""
        return TextLoss(
            self.nats + other.nats,
            self.num_tokens + other.num_tokens,
            self.num_rows + other.num_rows,
        )


def text_loss(
    model: Any,
    prompts: Prompts,
    rows: Sequence[Row],
    data: DataConfig,
    probe: Probe,
    max_tokens: int,
) -> TextLoss:
    """The loss of a model on rows, of which the same tokens are targets as in training.

    Args:
        model: A transformers causal language model in evaluation mode.
        prompts: How rows become text, as in training.
        rows: The rows, which are cut at ``data.max_length``.
        data: The ``data`` section of the config.
        probe: What the architecture of the model allows.
        max_tokens: The largest number of tokens of a batch.

    Raises:
        UserError: A row cannot be used, or none has a target.
    """
    if not rows:
        return TextLoss()
    try:
        encoded, _ = encode_rows(
            prompts.tokenizer, rows, prompts=prompts,
            encoding=Encoding(
                data.max_length, bad_rows=data.bad_rows, limits=Limits(*token_limits(model))
            ),
        )  # fmt: skip
    except UserError:
        if data.bad_rows == "error":
            raise
        return TextLoss()  # other workers have rows that can be used
    mode = choose_mode(model, PREFIX_PACKED, probe, training=False)
    loss = SupervisedLoss(model, narrow=mode.narrows, max_logits=mode.max_logits)
    mean = torch.zeros((), dtype=torch.float64)
    try:
        with torch.inference_mode():
            for batch in step_micro_batches(
                encoded,
                list(range(len(encoded))),
                mode=mode.mode,
                max_tokens=max_tokens,
                train_on_inputs=False,
            ):
                mean += loss(batch.to(model.device)).double().cpu()
    finally:
        loss.detach_from_model()
    num_tokens = int(encoded.num_targets(False).sum())
    return TextLoss(float(mean) * num_tokens, num_tokens, len(encoded))
