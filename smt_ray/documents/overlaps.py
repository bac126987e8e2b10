"""Rows that are there twice, for ``smt-ray check-data``."""

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


class Duplicates(Document):
    """The rows of one set that are also in another set, or earlier in the same set."""

    rows: str
    """The set: training, validation or a task."""
    within: str
    """The other set; the same name for rows that are there earlier in the set."""
    num_rows: int
    num_identical: int
    """The rows that say exactly the same."""
    num_same_question: int
    """The rows that ask the same, identical ones included; case and punctuation do not count."""
    first: str | None = None
    """The place of the first row that asks the same."""


class OverlapReport(Document):
    """The whole report."""

    num_training_rows: int
    num_validation_rows: int = 0
    duplicates: list[Duplicates] = []
    tasks: dict[str, TaskOverlap] = {}
