"""The document beside tuned weights: how the rows that they learned from were asked."""

from __future__ import annotations

from typing import Literal

from smt_ray.documents.base import Document


class TrainedPrompt(Document):
    """``smt_ray_prompt.json``: the keys of the ``data`` section that evaluation must repeat."""

    prompt: Literal["chat", "clean", "legacy", "published"]
    chat_template: str | None = None
    """The chat template; null for the tokenizer's own."""
    merge_system: bool = False
