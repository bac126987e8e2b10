"""The plan of a run: its rows and its stages, named before anything is computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from smt_ray.artifacts.layout import KEPT_MODEL
from smt_ray.artifacts.stages import EVALUATION, SELECTION, TOKENS, TRAINING, WARMUP, Stage
from smt_ray.artifacts.storage import Storage
from smt_ray.config.model import ModelConfig
from smt_ray.config.run import RunConfig
from smt_ray.config.running import EvaluationConfig
from smt_ray.config.stage_keys import StageKeys, stage_keys
from smt_ray.data.rows import Row, digest_rows
from smt_ray.data.splits import Split, read_split
from smt_ray.documents.rows import TokensSummary
from smt_ray.documents.run import Who, evaluation_key
from smt_ray.documents.stages import (
    PROTOCOLS,
    EvaluationSummary,
    Protocol,
    SelectionSummary,
    TrainingSummary,
    Until,
    WarmupSummary,
)
from smt_ray.evaluation.harness.tasks import HarnessTasks, read_harness
from smt_ray.evaluation.retention import read_retention
from smt_ray.evaluation.test_rows import TestRows, read_tests
from smt_ray.methods.registry import settings_of
from smt_ray.models.inspect import model_identity
from smt_ray.models.place import located
from smt_ray.models.quantisation import check_quantisation

Identity = Mapping[str, str | None]
"""The identity of a model, from :func:`smt_ray.models.inspect.model_identity`."""


@dataclass(frozen=True)
class RunPlan:
    """The rows and stages of a run.

    Attributes:
        split: The training rows and the held-out rows.
        tests: The test rows, by task.
        retention: The texts that are not trained on, by name.
        harness: The tasks of lm-evaluation-harness; None without any.
        tokens: The tokenised rows.
        warmup: The score table; None for methods and scores that need no gradients.
        selection: The selected blocks; None for methods that select none.
        training: The adapter.
        evaluations: The predictions, by model and protocol.
    """

    config: RunConfig
    storage: Storage
    identity: Identity
    split: Split
    tests: dict[str, TestRows]
    retention: dict[str, list[Row]]
    harness: HarnessTasks | None
    tokens: Stage[TokensSummary]
    warmup: Stage[WarmupSummary] | None
    selection: Stage[SelectionSummary] | None
    training: Stage[TrainingSummary]
    evaluations: dict[Who, Stage[EvaluationSummary]]

    @property
    def model(self) -> ModelConfig:
        """The base model; the path of a local folder is absolute."""
        return located(self.config.model)

    @property
    def starting_model(self) -> ModelConfig:
        """The model that training starts from and that the adapter belongs to.

        It is the base model, unless a trained warm-up updated the weights.
        """
        if not self.config.trained_warmup:
            return self.model
        assert self.warmup is not None
        return kept_model(self.model, self.warmup)

    @property
    def stages(self) -> dict[str, Stage[Any]]:
        """Every stage, by its name in the run's documents."""
        stages: dict[str, Stage[Any] | None] = {
            "tokens": self.tokens,
            "warmup": self.warmup,
            "selection": self.selection,
            "training": self.training,
            **{evaluation_key(who): stage for who, stage in self.evaluations.items()},
        }
        return {key: stage for key, stage in stages.items() if stage is not None}

    def last_stages(self, until: Until) -> dict[str, Stage[Any]]:
        """The last stages of a run that stops after ``until``."""
        if until == "evaluation":
            return {
                "training": self.training,
                **{evaluation_key(who): stage for who, stage in self.evaluations.items()},
            }
        return {until: self.stages[until]}


def make_plan(config: RunConfig) -> RunPlan:
    """Reads the rows and names the stages.

    The inputs of a stage are the semantic keys that change its artifacts, the identities of model
    and data, and the names of the stages before it. All names therefore follow from the
    configuration, the model and the rows.

    Raises:
        UserError: Rows, tasks or the model cannot be found or read.
    """
    check_quantisation(config.model.quantization)
    of_method = settings_of(config).stage_inputs(config)
    tests, retention, harness = read_tests(config), read_retention(config), read_harness(config)
    split = read_split(config.data, config.seed)
    identity = model_identity(config.model)
    storage, keys = Storage(config.storage), stage_keys(config)
    asked = _asked(identity, tests, retention, harness, keys, config.evaluation)
    rows = {"training": split.training_digest, "validation": split.validation_digest}
    tokens = Stage(storage, TOKENS, {"rows": rows, "model": identity, **keys.tokens})
    warmup = selection = None
    if keys.warmup is not None:
        warmup = Stage(storage, WARMUP, {"tokens": tokens.name, **keys.warmup})
    if keys.selection is not None:
        before = {"warmup": warmup.name} if warmup else {"model": identity}
        selection = Stage(storage, SELECTION, {**before, **keys.selection})
    chosen = {"selection": selection.name} if selection else {}
    training = Stage(
        storage, TRAINING, {"tokens": tokens.name, **chosen, **of_method, **keys.training}
    )
    evaluations = {
        who: Stage(storage, EVALUATION, {**inputs, "tuned": training.name if is_tuned else None})
        for who, (is_tuned, inputs) in asked.items()
    }
    return RunPlan(
        config, storage, identity, split, tests, retention, harness,
        tokens, warmup, selection, training, evaluations,
    )  # fmt: skip


def _asked(
    identity: Identity,
    tests: Mapping[str, TestRows],
    retention: Mapping[str, Sequence[Row]],
    harness: HarnessTasks | None,
    keys: StageKeys,
    evaluation: EvaluationConfig,
) -> dict[Who, tuple[bool, dict[str, Any]]]:
    """The evaluations: whether they use the adapter, and the other inputs of their stages.

    The base model comes first, because workers must load it again to remove an adapter.
    """
    generate, likelihood = (
        evaluation_inputs(identity, tests, keys, protocol) for protocol in PROTOCOLS
    )
    if retention:
        digests = {name: digest_rows(rows) for name, rows in retention.items()}
        generate["retention"] = {**digests, **keys.retention}
    if harness:
        generate["lm_eval"] = harness.digests
    is_asked = bool(tests or retention or harness)
    asked: dict[Who, tuple[bool, dict[str, Any]]] = {}
    if is_asked and evaluation.base:
        asked["base"] = (False, generate)
    if tests and evaluation.base_likelihood:
        asked["base_likelihood"] = (False, likelihood)
    if is_asked:
        asked["tuned"] = (True, generate)
    if tests and evaluation.tuned_likelihood:
        asked["tuned_likelihood"] = (True, likelihood)
    return asked


def evaluation_inputs(
    identity: Identity, tests: Mapping[str, TestRows], keys: StageKeys, protocol: Protocol
) -> dict[str, Any]:
    """The inputs of an evaluation stage, without the name of the training that made the model."""
    tasks = {task: test.digest for task, test in tests.items()}
    inputs = {"model": identity, "tasks": tasks, "protocol": protocol}
    if protocol == "likelihood":
        return {**inputs, **keys.likelihood}
    limits = {task: test.max_new_tokens for task, test in tests.items()}
    return {**inputs, "max_new_tokens": limits, **keys.generate}


def kept_model(base: ModelConfig, warmup: Stage[WarmupSummary]) -> ModelConfig:
    """The model whose weights a trained warm-up updated."""
    return base.replaced_by(warmup.storage.uri(warmup.path(KEPT_MODEL)))
