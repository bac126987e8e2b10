"""The small files beside checkpoints: the step of each, and which one is the best."""

from __future__ import annotations

from pydantic import NonNegativeInt, PositiveInt

from smt_ray.documents.base import Document


class Position(Document):
    """``position.json``: the position of the training at the checkpoint."""

    num_steps: NonNegativeInt
    """The number of finished optimizer steps."""
    num_shares: PositiveInt = 1
    """The number of files that hold the state."""


class BestStep(Document):
    """``best.json``: the checkpoint with the lowest validation loss."""

    num_steps: NonNegativeInt
    """The number of finished optimizer steps."""
    loss: float
    """The mean cross-entropy per target token of the validation rows, in nats."""
