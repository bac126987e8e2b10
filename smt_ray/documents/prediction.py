"""One answered test row: a line of ``generate/<task>.jsonl`` or ``likelihood/<task>.jsonl``."""

from __future__ import annotations

from smt_ray.documents.base import Document


class Prediction(Document):
    """A model's answer to one row."""

    index: int
    """The position of the row in its task."""
    prompt: str
    output: str
    """The generated text, or the most likely candidate."""
    extracted: str | None
    """The answer that was read from the output; None if none could be read."""
    expected: str
    correct: bool
    has_corrected: bool = False
    """Whether the output was also read by the task's corrected rule."""
    corrected: str | None = None
    """The answer by the corrected rule."""
    scores: dict[str, float] | None = None
    """Candidate -> mean log-likelihood in nats, by the likelihood protocol."""
    num_prompt_tokens: int = 0
    num_new_tokens: int = 0
    num_candidate_tokens: int = 0
