"""The small files of a checkpoint: its step and, for the best checkpoint, its validation loss."""

from __future__ import annotations

from pydantic import NonNegativeInt

from smt_ray.documents.base import Document


class Position(Document):
    """``position.json``: the position of the training at the checkpoint."""

    num_steps: NonNegativeInt
    """The number of finished optimizer steps."""


class Validated(Document):
    """``validated.json``: the validation of the best checkpoint."""

    num_steps: NonNegativeInt
    """The number of finished optimizer steps."""
    loss: float
    """The mean cross-entropy per target token of the validation rows, in nats."""
