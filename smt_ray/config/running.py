"""The sections that say how and where a run is executed, evaluated and tracked."""

from __future__ import annotations

from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import field_validator, model_validator

from smt_ray.config.data import Source
from smt_ray.config.fields import Section, execution, semantic
from smt_ray.config.tasks import OwnTask

_MOST_WORKERS = 100_000

_BATCH, _DTYPE = "training.batch_size and batching.max_tokens", "model.dtype (bfloat16)"
# The keys of DeepSpeed that a key of ours stands for.
_KEYS_OF_DEEPSPEED = {
    "zero_optimization.stage": "deepspeed.zero_stage",
    "fp16": _DTYPE,
    "bf16": _DTYPE,
    "amp": _DTYPE,
    "data_types": _DTYPE,
    "train_batch_size": _BATCH,
    "train_micro_batch_size_per_gpu": _BATCH,
    "gradient_accumulation_steps": _BATCH,
    "managed_gradient_accumulation": _BATCH,
    "gradient_clipping": "training.max_grad_norm",
    "optimizer": "the keys of training",
    "scheduler": "training.lr_schedule",
}


class BatchingConfig(Section):
    """How the rows of a step become micro-batches. It changes no result."""

    mode: Literal["prefix_packed", "packed", "padded", "one_row"] = execution("prefix_packed")
    """How rows share a micro-batch. packed: one after the other without padding, each with its own
    attention. prefix_packed: packed, and a prefix that several rows share is computed once. padded:
    rows of similar length, padded to the longest. one_row: a row for each micro-batch. If a mode
    would not be exact, because of the model or dropout, the run falls back to the next one and says
    so."""
    max_tokens: int = execution(1024, ge=1)
    """The largest number of tokens of a micro-batch, padding included. A longer row has a
    micro-batch of its own."""


class DeepSpeedConfig(Section):
    """The settings of DeepSpeed."""

    zero_stage: Literal[0, 1, 2, 3] = execution(2)
    """The ZeRO stage: 0 partitions nothing, 1 partitions optimizer states, 2 also gradients, and
    3 also weights."""
    extra: dict[str, Any] = semantic({})
    """Further keys of DeepSpeed's own configuration. They may change results."""

    @field_validator("extra")
    @classmethod
    def _no_other_keys_place(cls, value: dict[str, Any]) -> dict[str, Any]:
        zero = value.get("zero_optimization", {})
        if not isinstance(zero, dict):
            raise ValueError(f"zero_optimization must be a mapping; got {zero!r}")
        given = [*value, *(f"zero_optimization.{key}" for key in zero)]
        if taken := next((key for key in given if key in _KEYS_OF_DEEPSPEED), None):
            raise ValueError(f"must not hold {taken}: set {_KEYS_OF_DEEPSPEED[taken]} instead")
        return value


class ResourcesConfig(Section):
    """The processes of a run, and the resources of each."""

    num_workers: int = execution(1, ge=1, le=_MOST_WORKERS)
    """The number of training ranks, and of evaluation workers."""
    use_gpu: bool | Literal["auto"] = execution("auto")
    """Whether each process uses a GPU; auto uses GPUs if the cluster has any."""
    cpus_per_worker: float = execution(1, gt=0)
    """The number of CPUs of a process, which is also its number of threads."""
    accelerator_type: str | None = execution(None)
    """Ray's accelerator type, such as H100; null for any."""
    max_failures: int = execution(3, ge=0)
    """The number of times that lost training workers are replaced."""
    stall_timeout_s: float | None = execution(None, gt=0)
    """The most seconds that a rank may take for a micro-batch, a step or the wait for other ranks.
    After that, it counts as lost, and its stacks are in its log. null for ten times the longest so
    far, at least 300."""
    wait_timeout_s: float = execution(3600, ge=0)
    """The most seconds that a stage waits for CPUs or GPUs that other work on the cluster holds."""
    autoscale_timeout_s: float = execution(0, ge=0)
    """The most seconds to wait for nodes that the autoscaler of the cluster starts for the workers.
    The nodes are kept until the end of the run. 0 uses the nodes that are there."""

    @model_validator(mode="after")
    def _known_what_to_ask_for(self) -> ResourcesConfig:
        if self.autoscale_timeout_s and self.use_gpu == "auto":
            raise ValueError(
                "autoscale_timeout_s needs use_gpu to be true or false, since auto depends on the"
                f" nodes that are there already; got {self.autoscale_timeout_s:g}"
            )
        return self


class EvaluationConfig(Section):
    """The test tasks, and how they are evaluated."""

    tasks: list[str | OwnTask] = semantic([])
    """The names of published tasks or suites, and tasks of your own: {name, rows, answer, ...}."""
    retention: list[str | Source] = semantic([])
    """The sources of rows that were not trained on, such as general text. The loss of base and
    tuned model on them shows what was forgotten."""
    lm_eval: list[str] = semantic([])
    """The tasks of lm-evaluation-harness: names of its tasks, groups or tags, and YAML files of
    your own (extra lm-eval). The tuned model answers them and, with ``base``, the base model."""
    max_rows: int | None = semantic(None, ge=1)
    """The number of rows of each task, from its beginning; null for all."""
    num_beams: int = semantic(1, ge=1)
    """The number of beams; 1 is greedy decoding, and the published protocol uses 4."""
    repetition_penalty: float = semantic(1.0, gt=0)
    """The penalty of tokens that the text already contains. 1 is none, and SMT's authors use
    1.1."""
    max_new_tokens: int | None = semantic(None, ge=1)
    """The largest number of tokens to generate; null for the task's own limit: 32 for commonsense,
    256 for math, 16 for the built-in tasks."""
    lower_case: bool = semantic(False)
    """Whether answers are read from the lower-cased text, as SMT's authors do. Answers that are
    letters are read from the text as it is."""
    base: bool = semantic(True)
    """Whether the base model is evaluated, too."""
    base_likelihood: bool = semantic(False)
    """Whether the base model is also evaluated by likelihood, for which it need not know the format
    of answers."""
    tuned_likelihood: bool = semantic(False)
    """Whether the tuned model is also evaluated by likelihood."""
    batch_tokens: int = execution(8192, ge=1)
    """The largest number of tokens of a generation batch, padding and new tokens included."""
    gpus_per_worker: int = execution(1, ge=1)
    """The number of GPUs of a worker. If it is above 1, the layers of the model are spread over
    them, for models that do not fit one GPU. There are as many workers as fit the GPUs of
    ``resources.num_workers`` ranks, and at least one."""

    @property
    def own_tasks(self) -> tuple[OwnTask, ...]:
        """The tasks of the user's own."""
        return tuple(task for task in self.tasks if isinstance(task, OwnTask))

    @field_validator("lm_eval")
    @classmethod
    def _distinct_tasks(cls, value: list[str]) -> list[str]:
        if not all(entry.strip() for entry in value) or len(set(value)) < len(value):
            raise ValueError("must name each task once, and none may be empty")
        return value

    @model_validator(mode="after")
    def _distinct_names(self) -> EvaluationConfig:
        names = [task.name for task in self.own_tasks]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"tasks must have different names, not twice {', '.join(twice)}")
        return self


class TrackingConfig(Section):
    """Tracking with MLflow."""

    enabled: bool = execution(True)
    """Whether the run is tracked."""
    uri: str | None = execution(None)
    """The tracking URI; null for MLFLOW_TRACKING_URI or else an sqlite file in the storage."""
    experiment: str = execution("smt_ray")
    """The name of the experiment."""
    log_model: bool = execution(False)
    """Whether the tuned model is merged at the end of the run and logged, too, as a model that
    mlflow.transformers loads and that can be registered. It is as large as the base model."""

    @model_validator(mode="after")
    def _model_has_a_tracker(self) -> TrackingConfig:
        if self.log_model and not self.enabled:
            raise ValueError("log_model needs a tracker; set enabled: true or log_model: false")
        return self

    @model_validator(mode="after")
    def _no_password(self) -> TrackingConfig:
        if self.uri and urlsplit(self.uri).password is not None:
            # An error of the field instead of the section would show the value.
            raise ValueError(
                "uri must not hold a password, because it is stored and shown with every run; set"
                " MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or the whole URI as"
                " MLFLOW_TRACKING_URI, in the environment"
            )
        return self
