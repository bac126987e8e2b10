"""The plan of a run: its rows and its stages, named before anything is computed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from smt_ray.artifacts.layout import KEPT_MODEL
from smt_ray.artifacts.stages import EVALUATION, SELECTION, TOKENS, TRAINING, WARMUP, Stage
from smt_ray.artifacts.storage import Storage
from smt_ray.config.model_and_data import ModelConfig
from smt_ray.config.run import RunConfig
from smt_ray.data.splits import Split, read_split
from smt_ray.documents.run import Who
from smt_ray.documents.stages import (
    EvaluationSummary,
    Protocol,
    SelectionSummary,
    TokensSummary,
    TrainingSummary,
    WarmupSummary,
)
from smt_ray.evaluation.test_rows import TestRows, read_tests
from smt_ray.methods.registry import settings_of
from smt_ray.models.inspect import model_identity
from smt_ray.stages.inputs import (
    Identity,
    evaluation_inputs,
    selection_inputs,
    tokens_inputs,
    training_inputs,
    warmup_inputs,
)

Until = Literal["warmup", "selection", "training", "evaluation"]
"""The last stage that a run carries out."""

UNTIL: tuple[Until, ...] = ("warmup", "selection", "training", "evaluation")


@dataclass(frozen=True)
class RunPlan:
    """The rows and stages of a run.

    Attributes:
        config: The configuration.
        storage: The storage that keeps the stages.
        identity: The identity of the base model.
        split: The rows to learn from and the rows that are held out.
        tests: The test rows by task.
        tokens: The tokenised rows.
        warmup: The score table; None for methods and scores that need no gradients.
        selection: The selected blocks; None for methods that select none.
        training: The adapter.
        evaluations: The predictions, by what is evaluated.
    """

    config: RunConfig
    storage: Storage
    identity: Identity
    split: Split
    tests: dict[str, TestRows]
    tokens: Stage[TokensSummary]
    warmup: Stage[WarmupSummary] | None
    selection: Stage[SelectionSummary] | None
    training: Stage[TrainingSummary]
    evaluations: dict[Who, Stage[EvaluationSummary]]

    @property
    def model(self) -> ModelConfig:
        """The base model; the path of a local folder is absolute."""
        return self.config.model.resolved()

    @property
    def starting_model(self) -> ModelConfig:
        """The model that training starts from and that the adapter belongs on.

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
        """The stages that a run ends with."""
        if until == "evaluation":
            return {
                "training": self.training,
                **{evaluation_key(who): stage for who, stage in self.evaluations.items()},
            }
        return {until: self.stages[until]}


def evaluation_key(who: Who) -> str:
    """The name of an evaluation stage in the run's documents."""
    return f"evaluation_{who}"


def make_plan(config: RunConfig) -> RunPlan:
    """Reads the rows and names the stages.

    Raises:
        UserError: Rows, tasks or the model cannot be found or read.
    """
    tests = read_tests(config)
    split = read_split(config.data, config.seed)
    identity = model_identity(config.model.resolved())
    return name_stages(config, tests, split, identity)


def name_stages(
    config: RunConfig, tests: dict[str, TestRows], split: Split, identity: Identity
) -> RunPlan:
    """The plan of a run whose rows are read and whose model is known.

    Args:
        config: The configuration.
        tests: The test rows by task.
        split: The rows to learn from and the rows that are held out.
        identity: The identity of the base model.
    """
    storage = Storage(config.storage)
    tokens = Stage(storage, TOKENS, tokens_inputs(config, split, identity))
    warmup = selection = None
    if config.has_warmup:
        warmup = Stage(storage, WARMUP, warmup_inputs(config, tokens.name))
    if config.selects_blocks:
        before = warmup.name if warmup else None
        selection = Stage(storage, SELECTION, selection_inputs(config, before, identity))
    chosen = selection.name if selection else None
    of_method = settings_of(config).stage_inputs(config)
    training = Stage(storage, TRAINING, training_inputs(config, tokens.name, chosen, of_method))
    digests = {task: test.digest for task, test in tests.items()}
    evaluations: dict[Who, Stage[EvaluationSummary]] = {
        who: evaluation_stage(
            config, storage, identity, training.name if tuned else None, digests, protocol
        )
        for who, (tuned, protocol) in (_wanted(config).items() if tests else ())
    }
    return RunPlan(
        config, storage, identity, split, tests, tokens, warmup, selection, training, evaluations
    )


def evaluation_stage(
    config: RunConfig,
    storage: Storage,
    identity: Identity,
    tuned: str | None,
    tasks: Mapping[str, str],
    protocol: Protocol,
) -> Stage[EvaluationSummary]:
    """The stage of one model's predictions by one protocol.

    Args:
        config: The configuration, for the prompt and for decoding.
        storage: The storage that keeps the stage.
        identity: The identity of the base model.
        tuned: The name of the training stage, or the digest of an adapter; None for the base.
        tasks: Task -> the digest of its test rows.
        protocol: ``generate`` or ``likelihood``.
    """
    inputs = evaluation_inputs(
        identity, tuned, tasks, protocol, config.data.prompt, config.evaluation
    )
    return Stage(storage, EVALUATION, inputs)


def _wanted(config: RunConfig) -> dict[Who, tuple[bool, Protocol]]:
    """What is evaluated: whether with the adapter, and by which protocol.

    The base model comes first, since taking an adapter off means loading the base again.
    """
    evaluation = config.evaluation
    wanted: dict[Who, tuple[bool, Protocol]] = {}
    if evaluation.base:
        wanted["base"] = (False, "generate")
    if evaluation.base_likelihood:
        wanted["base_likelihood"] = (False, "likelihood")
    wanted["tuned"] = (True, "generate")
    if evaluation.tuned_likelihood:
        wanted["tuned_likelihood"] = (True, "likelihood")
    return wanted


def kept_model(base: ModelConfig, warmup: Stage[WarmupSummary]) -> ModelConfig:
    """The model whose weights a trained warm-up updated.

    Args:
        base: The base model.
        warmup: The stage of the warm-up.
    """
    return base.replaced_by(warmup.storage.uri(warmup.path(KEPT_MODEL)))
