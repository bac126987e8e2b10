"""A whole laboratory in a few megabytes: a tiny Llama and the small world that it grew up in.

``world`` states what is so (facts of everyday life and small arithmetic) and splits it in two by a
hash: every fact is told, but only some may be asked. ``corpus`` tells the world in prose and
``pretrain`` raises the model on it; ``suites`` asks, as instructions with an answer to give, the open
facts for training and the reserved ones for testing. So what fine-tuning adds is not knowledge: it is
the way from an instruction to what the model already knows.
"""

from __future__ import annotations

from pathlib import Path

MODEL_DIR = Path(__file__).parent / "model"
"""Folder of the embedded model, ready for ``from_pretrained``."""

__all__ = ["MODEL_DIR"]
