"""How and where a run is executed, evaluated and tracked."""

from __future__ import annotations

from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import model_validator

from smt_ray.config.fields import Section, execution, semantic


class BatchingConfig(Section):
    """How the rows of a step become micro-batches; changes no result."""

    mode: Literal["prefix_packed", "packed", "padded"] = execution("prefix_packed")
    """packed: rows one after the other, no padding, attention within each; prefix_packed: and what
    a pack's rows begin with alike computed once; padded: rows of like length, padded to the
    longest. Where a model or dropout does not allow packing exactly, the run says so and does the
    next best."""
    max_tokens: int = execution(1024, ge=1)
    """Tokens of a micro-batch, after packing or with padding; a longer row stands alone."""


class DeepSpeedConfig(Section):
    """What DeepSpeed is asked for."""

    zero_stage: Literal[0, 1, 2, 3] = execution(2)
    """ZeRO stage: 1 shards optimizer states, 2 gradients too, 3 weights too."""
    extra: dict[str, Any] = semantic({})
    """Further keys of DeepSpeed's own configuration, merged over ours; they may change results."""


class ResourcesConfig(Section):
    """What processes get. Every value is per process."""

    num_workers: int = execution(1, ge=1)
    """Training ranks, and evaluation workers."""
    use_gpu: bool | Literal["auto"] = execution("auto")
    """One GPU a process; auto uses them where the cluster has any."""
    cpus_per_worker: float = execution(1, gt=0)
    """CPUs that a process asks Ray for; also its threads."""
    accelerator_type: str | None = execution(None)
    """Ray accelerator type such as H100; null for any."""
    max_failures: int = execution(3, ge=0)
    """How often lost training workers are replaced."""
    wait_timeout_s: float = execution(3600, ge=0)
    """Seconds that a stage waits for CPUs or GPUs which other work on the cluster holds."""
    autoscale_timeout_s: float = execution(0, ge=0)
    """Seconds that a cluster's autoscaler is given to start the nodes that the workers need; they
    stay until the run's end. 0 takes the cluster as it is."""

    @model_validator(mode="after")
    def _known_what_to_ask_for(self) -> ResourcesConfig:
        if self.autoscale_timeout_s and self.use_gpu == "auto":
            raise ValueError(
                "autoscale_timeout_s needs use_gpu to be true or false, as auto goes by what is"
                f" there already; got {self.autoscale_timeout_s:g}"
            )
        return self


class EvaluationConfig(Section):
    """Test tasks and the published protocol."""

    tasks: list[str] = semantic([])
    """Task names; empty skips evaluation."""
    max_rows: int | None = semantic(None, ge=1)
    """Use only the first rows of each task; null for all."""
    num_beams: int = semantic(1, ge=1)
    """1 is greedy; the published protocol has 4."""
    repetition_penalty: float = semantic(1.0, gt=0)
    """What scores of tokens that are there already are divided by; 1 is none, SMT's authors have
    1.1."""
    max_new_tokens: int | None = semantic(None, ge=1)
    """Most tokens to generate; null for the task's: 32 of commonsense, 256 of math."""
    lower_case: bool = semantic(False)
    """Whether generated texts are read in lower case, as SMT's authors do; letters never are."""
    base: bool = semantic(True)
    """Whether the base model is evaluated too."""
    base_likelihood: bool = semantic(False)
    """Whether the base is also scored by likelihood, which needs no format learning."""
    tuned_likelihood: bool = semantic(False)
    """Whether the tuned model is scored by likelihood too, beside what it generates."""
    batch_tokens: int = execution(8192, ge=1)
    """Tokens of a generation batch, padding and new tokens included."""


class TrackingConfig(Section):
    """MLflow."""

    enabled: bool = execution(True)
    """Whether runs are tracked."""
    uri: str | None = execution(None)
    """Tracking URI; null takes MLFLOW_TRACKING_URI, else an sqlite file in the storage."""
    experiment: str = execution("smt_ray")
    """Experiment name."""

    @model_validator(mode="after")
    def _no_password(self) -> TrackingConfig:
        if self.uri and urlsplit(self.uri).password is not None:
            raise ValueError(  # of the section, so that the message does not repeat the value
                "uri must not hold a password, for it is kept and shown with every run; set"
                " MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or the whole of it as"
                " MLFLOW_TRACKING_URI, in the environment"
            )
        return self
