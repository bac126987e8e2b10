"""The document that ``smt-ray evaluate`` prints."""

from __future__ import annotations

from smt_ray.documents.base import Document
from smt_ray.documents.stages import TaskSummary


class EvaluationReport(Document):
    """The evaluation of one model."""

    tasks: dict[str, TaskSummary]
    predictions: str
    """The folder of the predictions: a path or URI."""
