"""The documents that say what must be kept: who uses a storage, and evaluations without a run."""

from __future__ import annotations

from smt_ray.documents.base import Document


class Use(Document):
    """``in_use/<id>.json``: a process that uses the storage."""

    what: str
    """The work of the process, such as ``run NAME``."""
    host: str
    """The name of its machine."""
    kernel: str
    """The id of the running kernel of that machine, which its containers share."""
    pid: int
    started_ms: int
    """Milliseconds since the epoch."""
    cleans: bool = False
    """Whether the process deletes what the storage does not need."""

    def __str__(self) -> str:
        return f"{self.what} (process {self.pid} on {self.host})"


class EvaluationEntry(Document):
    """``evaluations/<stage>.json``: an evaluation that ``smt-ray evaluate`` made."""

    stage: str
    """The name of the stage's folder."""
    training: str | None = None
    """The training stage whose tuned model was evaluated; None for a model or an adapter in a
    folder."""
