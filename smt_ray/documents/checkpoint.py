"""The small files beside checkpoints: the step of each, and which one is the best."""

from __future__ import annotations

from pydantic import NonNegativeInt

from smt_ray.documents.base import Document


class Position(Document):
    """``position.json``: the position of the training at the checkpoint."""

    num_steps: NonNegativeInt
    """The number of finished optimizer steps."""


class BestStep(Document):
    """``best.json``: the checkpoint with the lowest validation loss."""

    num_steps: NonNegativeInt
    """The number of finished optimizer steps."""
    loss: float
    """The mean cross-entropy per target token of the validation rows, in nats."""
