"""A whole laboratory in a few megabytes: a tiny Llama and the small world that it grew up in.

``almanac`` says what is so; ``world`` splits its facts and sums in two by a hash: all are told, but
only some may be asked. ``corpus`` tells the world in prose and ``pretrain`` raises the model on it.
``suites`` asks, as instructions with an answer to give, the open half for training and the reserved
one for testing. So fine-tuning does not add knowledge here: it adds the way from an instruction to
what the model already knows.
"""

from __future__ import annotations

from pathlib import Path

MODEL_DIR = Path(__file__).parent / "model"
"""Folder of the embedded model, ready for ``from_pretrained``."""

__all__ = ["MODEL_DIR"]
