"""The two small files of a checkpoint: where it stands and, of the best one, how good it is."""

from __future__ import annotations

from pydantic import NonNegativeInt

from smt_ray.documents.base import Document


class Position(Document):
    """``position.json``: how far a training was when the checkpoint was written."""

    num_steps: NonNegativeInt
    """Finished optimizer steps."""


class Validated(Document):
    """``validated.json``: the validation of the best checkpoint."""

    num_steps: NonNegativeInt
    """Finished optimizer steps."""
    loss: float
    """The mean cross-entropy per target token of the validation rows, in nats."""
