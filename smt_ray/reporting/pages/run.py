"""The page of a run, ``report.html``: everything that its artifacts show, in one file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from smt_ray.documents.run import (
    VALIDATION_LOSS,
    WHO,
    Dataset,
    Environment,
    Record,
    RunMetrics,
    TaskResults,
)
from smt_ray.reporting.charts.run import TRAINING_LOSS, loss_curves
from smt_ray.reporting.charts.svg import Estimate, accuracy_chart, curves_chart
from smt_ray.reporting.pages.render import drawing, moment, render_page
from smt_ray.reporting.pages.selection_map import SelectionMap, Weights, selection_map
from smt_ray.reporting.pages.tables import TimeRow, TimeTable
from smt_ray.reporting.pages.wrong_answers import Predictions, WrongAnswers, wrong_answers
from smt_ray.reporting.text.lm_eval import LM_EVAL_LEGEND, lm_eval_cells
from smt_ray.reporting.text.losses import training_text
from smt_ray.reporting.text.run import LEGEND, accuracy_cells, facts, task_rows
from smt_ray.reporting.text.tables import Cells
from smt_ray.reporting.text.values import stage_text

if TYPE_CHECKING:
    from markupsafe import Markup

Pairs = list[tuple[str, str]]
"""(name, text) pairs, or (number, label) pairs for the highlights."""


@dataclass(frozen=True)
class RunContents:
    """What a page shows of a run; what is empty has no section.

    Attributes:
        status: The status, such as ``FINISHED`` or ``FAILED``.
        started_ms, ended_ms: Milliseconds since the epoch, if they are known.
        config: The complete configuration as plain values.
        config_text: The configuration as it was written.
        records: The records of the training's ``metrics.jsonl``.
        weights: Every eligible weight with its chosen blocks, columns or elements.
        predictions: ``base`` or ``tuned`` -> task -> predictions.
        missing: The places of artifacts that the run names and that do not exist.
    """

    name: str
    status: str = "FINISHED"
    started_ms: int | None = None
    ended_ms: int | None = None
    metrics: RunMetrics = field(default_factory=RunMetrics)
    config: Mapping[str, Any] = field(default_factory=dict)
    config_text: str = ""
    datasets: Sequence[Dataset] = ()
    environment: Environment | None = None
    records: Sequence[Record] = ()
    weights: Weights = ()
    predictions: Mapping[str, Predictions] = field(default_factory=dict)
    missing: Sequence[str] = ()


@dataclass(frozen=True)
class AccuracySection:
    """The accuracies."""

    cells: Cells
    legend: str
    chart: Markup | None


class LmEvalSection(NamedTuple):
    """The metrics of lm-evaluation-harness."""

    cells: Cells
    legend: str


class LossPoint(NamedTuple):
    """A loss and its step."""

    value: float
    step: int


@dataclass(frozen=True)
class LossSection:
    """The losses.

    Attributes:
        lowest, last_validation: Two validation losses; None without validation.
    """

    chart: Markup | None
    last: LossPoint
    lowest: LossPoint | None = None
    last_validation: LossPoint | None = None


@dataclass(frozen=True)
class RunSections:
    """The sections about a run, in its own page or in the page of a search.

    Attributes:
        accuracy, lm_eval, loss, selection, wrong: The sections; None for one that is left out.
    """

    facts: Pairs
    datasets: Sequence[Dataset]
    accuracy: AccuracySection | None
    lm_eval: LmEvalSection | None
    loss: LossSection | None
    selection: SelectionMap | None
    wrong: WrongAnswers | None


def run_page(run: RunContents) -> str:
    """The page as HTML."""
    return render_page(
        "run.html",
        title=run.name,
        method=run.metrics.method,
        status=run.status.lower(),
        started=moment(run.started_ms),
        ended=moment(run.ended_ms),
        missing=run.missing,
        highlights=_highlights(run.metrics),
        run=run_sections(run),
        stages=_stages(run.metrics),
        environment=run.environment,
        config_text=run.config_text,
    )


def run_sections(run: RunContents) -> RunSections:
    """The sections about a run."""
    return RunSections(
        run_facts(run.metrics, run.config),
        run.datasets,
        _accuracy(run.metrics),
        _lm_eval(run.metrics),
        _loss(run.records),
        selection_map(run.weights),
        run_wrong_answers(run),
    )


def run_facts(metrics: RunMetrics, config: Mapping[str, Any]) -> Pairs:
    """(name, text) pairs: what was trained and how."""
    text = training_text(metrics, config)
    return [*facts(metrics), *([("training", text)] if text else [])]


def run_wrong_answers(run: RunContents) -> WrongAnswers | None:
    """Wrong answers of the tuned model, with those of the base model."""
    return wrong_answers(run.predictions.get("tuned", {}), run.predictions.get("base"))


def _highlights(metrics: RunMetrics) -> Pairs:
    tuned, base = metrics.average("tuned"), metrics.average("base")
    trainable = metrics.trainable
    number = len(metrics.tasks)
    found = []
    if tuned is not None:
        average = f", average of {number} tasks" if number > 1 else ""
        found.append((f"{tuned:.1%}", f"correct after tuning{average}"))
    if tuned is not None and base is not None:
        found.append((f"{100 * (tuned - base):+.1f}", f"points over the base model's {base:.1%}"))
    training = metrics.training
    if tuned is None and training and training.validation_loss is not None:
        before = training.loss_before
        found.append((f"{training.validation_loss:.3f}", "validation loss after training"))
        if before is not None:
            change = training.validation_loss - before
            found.append((f"{change:+.3f}", f"from {before:.3f} before training"))
    if trainable and trainable.percent_of_base is not None:
        found.append((f"{trainable.percent_of_base:.2f}%", "of the parameters trained"))
    return found


def _accuracy(metrics: RunMetrics) -> AccuracySection | None:
    cells = accuracy_cells(metrics)
    if cells is None:
        return None
    estimates = {name: _estimates(task) for name, task in task_rows(metrics).items()}
    return AccuracySection(cells, LEGEND, drawing(accuracy_chart(estimates, "accuracy")))


def _lm_eval(metrics: RunMetrics) -> LmEvalSection | None:
    cells = lm_eval_cells(metrics)
    return None if cells is None else LmEvalSection(cells, LM_EVAL_LEGEND)


def _estimates(task: TaskResults) -> dict[str, Estimate]:
    found: dict[str, Estimate] = {}
    if task.majority is not None:
        found["majority"] = (task.majority, task.majority, task.majority)
    for who in WHO:
        if result := task.result(who):
            low, high = result.interval or (result.accuracy, result.accuracy)
            found[who] = (result.accuracy, low, high)
    return found


def _loss(records: Sequence[Record]) -> LossSection | None:
    training = _loss_points(records, TRAINING_LOSS)
    if not training:
        return None
    validation = _loss_points(records, VALIDATION_LOSS)
    return LossSection(
        drawing(curves_chart(records, "loss")),
        last=training[-1],
        lowest=min(validation, default=None),
        last_validation=validation[-1] if validation else None,
    )


def _loss_points(records: Sequence[Record], key: str) -> list[LossPoint]:
    steps, values = loss_curves(records, key)
    return list(map(LossPoint, values, steps))


def _stages(metrics: RunMetrics) -> TimeTable | None:
    rows = [
        TimeRow(stage_text(key), stage.seconds, stage.stage, stage.reused)
        for key, stage in metrics.stages.items()
    ]
    return TimeTable("folder", rows) if rows else None
