"""The documents of one run: ``run.json``, ``metrics.json``, ``environment.json`` and its records.

Accuracies, intervals and margins are fractions in [0, 1]; tables show percent and points.
"""

from __future__ import annotations

from typing import Literal, TypedDict

from pydantic import JsonValue

from smt_ray.documents.averages import mean
from smt_ray.documents.base import Document
from smt_ray.documents.lm_eval import LmEvalResults
from smt_ray.documents.rows import TokensSummary

Status = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]
"""The status of a run, in MLflow's words."""

Who = Literal["base", "base_likelihood", "tuned", "tuned_likelihood"]
"""The model that was evaluated, and the protocol."""

WHO: tuple[Who, ...] = ("base", "base_likelihood", "tuned", "tuned_likelihood")


def evaluation_key(who: Who) -> str:
    """The name of an evaluation stage in the run's documents."""
    return f"evaluation_{who}"


VALIDATION_LOSS = "validation/loss"
"""The name of the validation loss among the metrics of a step."""


class Record(TypedDict):
    """A line of ``metrics.jsonl``: the metrics of one moment."""

    time_ms: int
    """Milliseconds since the epoch."""
    step: int
    """The number of optimizer steps done."""
    metrics: dict[str, float]
    """The values by name, such as ``{"train/loss": 1.2}``."""


class StageEntry(Document):
    """A finished stage of a run."""

    stage: str = ""
    """The name of the stage's folder."""
    seconds: float | None = None
    """The seconds that making it took."""
    reused: bool = False
    """Whether it was already finished when the run reached it."""
    directory: str = ""
    """The folder's path or URI; only in ``metrics.json``."""


class Dataset(Document):
    """Rows that a run read."""

    name: str
    """The name, such as ``training`` or ``boolq``."""
    source: str
    """The path, URI or hub name."""
    digest: str
    """The fingerprint of the rows; MLflow keeps its first 36 characters."""
    num_rows: int
    """The number of rows."""
    context: str
    """The purpose: ``training``, ``validation`` or ``test``."""


class RunManifest(Document):
    """``run.json``: the configuration, status and finished stages of a run."""

    name: str
    status: Status | None = None
    """None for a run that has not begun."""
    started_ms: int | None = None
    """Milliseconds since the epoch."""
    ended_ms: int | None = None
    """Milliseconds since the epoch."""
    semantic: dict[str, JsonValue] = {}
    """The semantic keys of the configuration, by section."""
    config: dict[str, JsonValue] = {}
    """The complete configuration as plain values."""
    datasets: list[Dataset] = []
    stages: dict[str, StageEntry] = {}
    """The finished stages by kind, such as ``training`` or ``evaluation_base``."""
    planned: dict[str, str] = {}
    """The names of all stages by kind, finished or not."""
    probe: str | None = None
    """The file of the probe of the model's architecture, as the storage names it."""
    tags: dict[str, str] = {}
    """The tags for trackers."""
    tracked: dict[str, str] = {}
    """Tracker -> its id of this run."""
    parents: dict[str, str] = {}
    """Tracker -> its id of the comparison or search that this run belongs to."""


class Environment(Document):
    """``environment.json``: the environment of a run."""

    python: str = ""
    platform: str = ""
    num_cpus: int | None = None
    packages: dict[str, str | None] = {}
    """Package -> its version; None for one that is not installed."""
    commit: str | None = None
    """The commit of the checkout; None for an installed package."""


class Reading(Document):
    """The accuracy by one rule for reading answers."""

    num_correct: int = 0
    num_unread: int = 0
    """The number of rows from which no answer could be read."""
    accuracy: float
    interval: tuple[float, float] | None = None
    """The ends of the 95% interval (Wilson)."""


class Result(Document):
    """The result of one model on one task."""

    accuracy: float
    interval: tuple[float, float] | None = None
    num_unread: int = 0
    corrected: Reading | None = None
    """The same texts by the corrected rule, for tasks whose published rule is faulty."""
    seconds: float | None = None
    tokens_per_second: float | None = None


class TaskResults(Document):
    """The results of one task."""

    num_rows: int | None = None
    majority: float | None = None
    """The accuracy of always giving the most frequent answer."""
    base: Result | None = None
    base_likelihood: Result | None = None
    tuned: Result | None = None
    tuned_likelihood: Result | None = None

    def result(self, who: Who) -> Result | None:
        """The result of one model by one protocol."""
        found: Result | None = getattr(self, who)
        return found

    def accuracy(self, who: Who) -> float | None:
        """The accuracy of one model by one protocol."""
        result = self.result(who)
        return None if result is None else result.accuracy


class KeptLoss(Document):
    """The loss on text that was not trained on."""

    loss: float
    """The mean over tokens, in nats."""
    num_rows: int
    num_tokens: int


class Retention(Document):
    """What a model has kept: its loss on text that was not trained on."""

    base: KeptLoss | None = None
    tuned: KeptLoss | None = None


class ModelSummary(Document):
    """The base model."""

    name: str | None = None
    num_parameters: int | None = None
    identity: dict[str, str | None] = {}
    """The hash of its files, or its hub name and commit; its dtype and its quantisation."""


class Trainable(Document):
    """The number of trained parameters and its percentages."""

    num_trainable: int | None = None
    num_base: int | None = None
    percent_of_base: float | None = None
    percent_of_total: float | None = None
    """The percentage of base and adapter together, as peft prints it."""


BlockShape = Literal["square", "column", "element"]
"""The shape of what is selected: square blocks, whole columns, or single elements."""


class SelectedBlocks(Document):
    """The selection, in numbers."""

    num_blocks: int | None = None
    block_size: int | None = None
    block_shape: BlockShape = "square"
    num_modules: int | None = None
    """The number of modules with a selected block."""
    num_layers: int | None = None
    projections: dict[str, int] = {}
    """Projection -> its selected blocks."""
    margin: float | None = None
    """The relative distance of the scores on both sides of the cut."""
    score: str | None = None
    scope: str | None = None


class TrainingMetrics(Document):
    """The end of the training."""

    num_steps: int | None = None
    metrics: dict[str, float] = {}
    """The last value of every metric, such as ``train/loss``."""
    loss_before: float | None = None
    """The validation loss before the first step."""

    @property
    def validation_loss(self) -> float | None:
        """The last validation loss."""
        return self.metrics.get(VALIDATION_LOSS)


class RanWith(Document):
    """The settings that training really used."""

    batching: str | None = None
    kernel: str | None = None
    optimizer: str | None = None
    devices: str | None = None
    zero_stage: int | None = None
    dtype: str | None = None


class Paths(Document):
    """Where a run's results are: paths, URIs and addresses."""

    run: str | None = None
    report: str | None = None
    adapter: str | None = None
    adapter_base: str | None = None
    """The model that the adapter belongs to, if it is not the base model."""
    tracking: str | None = None
    """The address of the tracking store, or the command that shows it."""
    tracked_run: str | None = None
    """The run's page in the tracking store."""


class RunMetrics(Document):
    """``metrics.json``: everything that the table of a run shows.

    A run that stopped early has fewer values. Missing values are not shown.
    """

    name: str = ""
    method: str | None = None
    model: ModelSummary = ModelSummary()
    seconds: float | None = None
    stages: dict[str, StageEntry] = {}
    tasks: dict[str, TaskResults] = {}
    retention: dict[str, Retention] = {}
    """Text that was not trained on -> the losses on it."""
    lm_eval: dict[str, LmEvalResults] = {}
    """Task or group of lm-evaluation-harness -> its metrics."""
    rows: TokensSummary | None = None
    """The rows that were trained on, and those that were left out."""
    trainable: Trainable | None = None
    selection: SelectedBlocks | None = None
    method_settings: dict[str, JsonValue] = {}
    """The method's own settings, such as LoRA's rank."""
    training: TrainingMetrics | None = None
    ran: RanWith | None = None
    paths: Paths = Paths()

    def average(self, who: Who) -> float | None:
        """The plain average of the tasks' accuracies; None if a task has none."""
        return mean([task.accuracy(who) for task in self.tasks.values()])
