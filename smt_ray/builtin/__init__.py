"""A tiny Llama of a few megabytes, with generated training and test rows that it can learn from.

``almanac`` holds facts and operations as data. ``world`` divides all facts and sums by a hash into
open and reserved ones. ``corpus`` generates the texts that ``pretrain`` trains the model on, which
state all facts and sums. ``suites`` generates rows with instructions: training rows ask about open
facts and sums, test rows about reserved ones. So fine-tuning does not add knowledge. It teaches the
model to answer instructions with what it already knows.
"""

from __future__ import annotations

from pathlib import Path

MODEL_DIR = Path(__file__).parent / "model"
"""The folder of the embedded model, which ``from_pretrained`` can load."""

BUILTIN = "builtin:"
"""What the names of the embedded model and of its tasks begin with in configs and commands."""

__all__ = ["BUILTIN", "MODEL_DIR"]
