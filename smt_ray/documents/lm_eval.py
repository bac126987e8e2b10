"""What lm-evaluation-harness found, as parts of the documents of stages and runs."""

from __future__ import annotations

from smt_ray.documents.base import Document


class LmEvalMetric(Document):
    """A metric that lm-evaluation-harness computed."""

    name: str
    """Its name, such as ``acc_norm``."""
    filter: str = "none"
    """The filter of the answers that it was computed from, such as ``strict-match``."""
    value: float | None
    """None if it is no number."""
    stderr: float | None = None
    """The standard error; None if lm-evaluation-harness has none."""
    higher_is_better: bool | None = None

    @property
    def key(self) -> str:
        """The name that distinguishes the metrics of a task."""
        return self.name if self.filter == "none" else f"{self.name}, {self.filter}"


class LmEvalResult(Document):
    """The metrics of one model on one task or group of lm-evaluation-harness."""

    num_rows: int
    num_fewshot: int | None = None
    """None for a group of tasks that differ in it."""
    version: str | None = None
    """The version of the task."""
    metrics: list[LmEvalMetric] = []

    def metric(self, key: str) -> LmEvalMetric | None:
        """The metric of a key; None if there is none."""
        return next((metric for metric in self.metrics if metric.key == key), None)


class LmEvalResults(Document):
    """The metrics of both models on one task or group of lm-evaluation-harness."""

    base: LmEvalResult | None = None
    tuned: LmEvalResult | None = None
