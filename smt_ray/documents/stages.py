"""The documents of stages: ``manifest.json``, and the summary in it for each kind of stage."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import JsonValue

from smt_ray.documents.base import Document
from smt_ray.documents.lm_eval import LmEvalResult
from smt_ray.documents.run import BlockShape, KeptLoss, Reading, Result, Trainable

Protocol = Literal["generate", "likelihood"]
"""The way to evaluate a model: by the text that it writes, or by the most likely candidate."""

PROTOCOLS: tuple[Protocol, Protocol] = ("generate", "likelihood")

Until = Literal["warmup", "selection", "training", "evaluation"]
"""The last stage that a run carries out."""

UNTIL: tuple[Until, ...] = ("warmup", "selection", "training", "evaluation")


class FileDigest(Document):
    """The size and hash of a file."""

    bytes: int
    sha256: str


class StageManifest(Document):
    """``manifest.json``, which is written last: a stage without one is not finished."""

    stage: str
    """The name of the stage's folder."""
    inputs: dict[str, JsonValue]
    """Everything that the artifacts depend on; the name is their fingerprint."""
    files: dict[str, FileDigest]
    summary: dict[str, Any]
    """The summary as plain values; :class:`smt_ray.artifacts.stages.Stage` knows its type."""
    seconds: float
    finished_at: str


class RankSettings(Document):
    """The settings that ranks really used."""

    resumed_from: int = 0
    """The step of the checkpoint that they resumed from; 0 if they started from the beginning."""
    num_ranks: int
    zero_stage: int
    kernel: str
    batching: str
    batching_fallback: str | None = None
    """The reason if rows were not batched as configured."""


class RankOutcome(RankSettings):
    """The last metrics of rank 0 of a training, and the settings that it really used."""

    metrics: dict[str, float]
    """The last value of every metric."""
    trainable: Trainable
    dtype: str
    optimizer: str
    device: str


class WarmupSummary(Document):
    """The summary of the warm-up stage."""

    num_modules: int
    block_size: int
    """The finest block size of the table."""
    num_steps: int
    num_shards: int = 1
    attempts: dict[str, int] = {}
    """Shard -> the number of its starts."""
    kept_model: str | None = None
    """With ``mode: trained``: the folder of the updated weights in the stage."""
    outcome: RankOutcome | None = None
    """With ``mode: trained``: the outcome of the training."""
    ranks: RankSettings | None = None
    """With ``processes: ranks``: the settings of the ranks."""


class SelectionSummary(Document):
    """The summary of the selection stage."""

    num_blocks: int
    """The number of blocks: squares, columns or single elements."""
    block_size: int
    """The size of square blocks; 1 for others."""
    block_shape: BlockShape = "square"
    num_trainable: int
    num_base: int
    budget: float
    margin: float | None
    score: str
    scope: str
    counts: dict[str, int]
    """Module -> its selected blocks."""
    text: str
    """The selection in one line."""


class TrainingSummary(Document):
    """The summary of the training stage."""

    num_steps: int
    starts_from: str | None = None
    """The path of the weights that a trained warm-up kept, in the storage."""
    method_settings: dict[str, JsonValue] = {}
    is_whole_model: bool = False
    """Whether the adapter folder holds all weights of the model."""
    outcome: RankOutcome


class TaskSummary(Document):
    """The predictions of one task, in numbers."""

    num_rows: int
    num_correct: int
    num_unread: int
    accuracy: float
    interval: tuple[float, float]
    majority_share: float
    corrected: Reading | None = None
    seconds: float | None = None
    rows_per_second: float | None = None
    tokens_per_second: float | None = None

    def result(self) -> Result:
        """The result for the table of a run."""
        return Result(
            accuracy=self.accuracy,
            interval=self.interval,
            num_unread=self.num_unread,
            corrected=self.corrected,
            seconds=self.seconds,
            tokens_per_second=self.tokens_per_second,
        )


class EvaluationSummary(Document):
    """The summary of an evaluation stage."""

    protocol: Protocol
    prompt: str = "clean"
    """The form of the prompts."""
    tasks: dict[str, TaskSummary]
    retention: dict[str, KeptLoss] = {}
    """Text that was not trained on -> the loss on it."""
    lm_eval: dict[str, LmEvalResult] = {}
    """Task or group of lm-evaluation-harness -> its metrics."""


class EvaluationReport(Document):
    """The evaluation that ``smt-ray evaluate`` prints."""

    prompt: str
    """The form of the prompts."""
    tasks: dict[str, TaskSummary]
    lm_eval: dict[str, LmEvalResult] = {}
    """Task or group of lm-evaluation-harness -> its metrics."""
    predictions: str
    """The folder of the predictions: a path or URI."""
