"""The test questions that are also in the training rows, for ``smt-ray check-data``."""

from __future__ import annotations

from smt_ray.documents.base import Document


class FoundQuestion(Document):
    """A test question that a training row also asks."""

    index: int
    """The position of the test row in its task, from 0."""
    position: int
    """The position of the first such training row over all sources of ``data.train``, from 0."""
    same_answer: bool
    """Whether a training row gives the test row's answer."""


class TaskOverlap(Document):
    """The questions of one task."""

    num_rows: int
    num_found: int
    num_same_answer: int
    found: list[FoundQuestion] = []


class OverlapReport(Document):
    """The whole report."""

    num_training_rows: int
    tasks: dict[str, TaskOverlap]
