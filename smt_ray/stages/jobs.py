"""The jobs that are sent to other processes: to Ray tasks, ranks and evaluation workers.

The storage of a job is the root of a storage, and its other places are paths in that storage.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from smt_ray.cluster.resources import ProcessResources
from smt_ray.config.model import ModelConfig
from smt_ray.config.run import RunConfig
from smt_ray.data.rows import Row
from smt_ray.documents.lm_eval import LmEvalResult
from smt_ray.documents.prediction import Prediction
from smt_ray.documents.probe import Probe
from smt_ray.documents.stages import Protocol

if TYPE_CHECKING:  # unpickling a job imports these classes
    from smt_ray.evaluation.harness.requests import Requests
    from smt_ray.evaluation.tasks import Task
    from smt_ray.methods.blocks import EligibleBlocks
    from smt_ray.methods.protocol import MethodSettings
    from smt_ray.training.loss.text import TextLoss


@dataclass(frozen=True)
class WarmupJob:
    """The warm-up, for its shards, its reductions and its table.

    Attributes:
        model: The base model.
        kept: The folder for what is kept of each module; None if only the table is kept.
        provenance: The origin of the table, which is stored in it.
    """

    config: RunConfig
    model: ModelConfig
    blocks: EligibleBlocks
    probe: Probe
    storage: str
    tokens: str
    table: str
    kept: str | None
    resources: ProcessResources
    provenance: Mapping[str, Any]


@dataclass(frozen=True)
class SelectionJob:
    """The selection.

    Attributes:
        model: The model that training starts from; its weights are read by the score ``magnitude``.
        table: The score table; None for scores that need no gradients.
        kept: The folder of what the warm-up kept of each module, from which elements or columns are
            selected; None if it kept nothing.
        blocks: The eligible blocks or elements of the model; None if there is a table.
        provenance: The origin of a selection without a table, which is stored in it.
    """

    config: RunConfig
    model: ModelConfig
    storage: str
    folder: str
    table: str | None
    kept: str | None
    blocks: EligibleBlocks | None
    provenance: Mapping[str, Any]


@dataclass(frozen=True)
class TrainingJob:
    """One rank of a training.

    Attributes:
        model: The model that training starts from.
    """

    config: RunConfig
    model: ModelConfig
    method: MethodSettings
    probe: Probe
    num_steps: int
    storage: str
    folder: str
    tokens: str
    resources: ProcessResources


@dataclass(frozen=True)
class TrainedWarmupJob(TrainingJob):
    """One rank of a warm-up that trains.

    Attributes:
        num_training_steps: The number of steps of the training after it, with its own.
        provenance: The origin of the table, which is stored in it.
    """

    blocks: EligibleBlocks
    num_training_steps: int
    provenance: Mapping[str, Any]


@dataclass(frozen=True)
class TaskShare:
    """One worker's share of a task.

    Attributes:
        indices: The position of each row in the task.
        answer_pool: All answers of the task.
        max_new_tokens: The largest number of tokens to generate.
    """

    task: Task
    rows: Sequence[Row]
    indices: Sequence[int]
    answer_pool: Sequence[str]
    max_new_tokens: int


@dataclass(frozen=True)
class EvaluationJob:
    """One worker's share of an evaluation.

    Attributes:
        title: The name of the evaluation on the progress board.
        retention: The worker's share of the texts whose loss is computed.
        adapter: The folder or URI of an adapter to put on the model; None for the model as it is.
    """

    title: str
    worker: int
    shares: Mapping[str, TaskShare]
    retention: Mapping[str, Sequence[Row]]
    protocol: Protocol
    model: ModelConfig
    probe: Probe
    adapter: str | None
    config: RunConfig


@dataclass(frozen=True)
class HarnessJob:
    """One worker's share of requests of lm-evaluation-harness; see :class:`EvaluationJob`."""

    title: str
    worker: int
    requests: Requests
    model: ModelConfig
    probe: Probe
    adapter: str | None
    config: RunConfig


class Answers(NamedTuple):
    """The predictions of a task, or of a worker's share of it.

    Attributes:
        seconds: The time that they took; with several workers, the slowest's.
    """

    predictions: list[Prediction]
    seconds: float


class Evaluated(NamedTuple):
    """What an evaluation found, or a worker's share of it.

    Attributes:
        answers: The predictions of every task.
        losses: The loss of every text.
        prompt: The form of the prompts.
    """

    answers: dict[str, Answers]
    losses: dict[str, TextLoss]
    prompt: str


class HarnessFound(NamedTuple):
    """What lm-evaluation-harness found.

    Attributes:
        results: Task or group -> its metrics.
        raw: The results in the library's own form, with a sample of every row.
    """

    results: dict[str, LmEvalResult]
    raw: dict[str, Any]
