"""What a run consists of: its stages, named before anything is computed.

A stage's inputs are the semantic keys that touch it, the identities of model and data, and the
names of the stages before it. So all names follow from the config and the rows alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from smt_ray.artifacts.stages import Stage
from smt_ray.artifacts.storage import Storage
from smt_ray.config.run import RunConfig
from smt_ray.data.rows import Row
from smt_ray.data.sources import digest_rows, read_task_rows, read_training_rows, split_rows
from smt_ray.errors import UserError
from smt_ray.evaluation.tasks import Task, find_task, find_tasks
from smt_ray.models.inspect import model_identity

# Keys of the data section that decide which rows there are; the rows' own digest stands for them.
_ROW_KEYS = ("dir", "train", "max_rows", "validation_rows")
# Keys of the training section that touch a warm-up that trains; its learning rate may be its own,
# and does not decay.
_WARMUP_KEYS = ("lr_warmup_steps", "weight_decay", "adam_betas", "adam_epsilon", "max_grad_norm")

MODEL = "model"  # the folder of a warm-up's stage that holds the weights it updated


@dataclass(frozen=True)
class RunPlan:
    """A run's rows and stages.

    Attributes:
        training, validation: Rows to learn from and to hold out.
        tasks: Test rows by task.
        warmup: None unless the method is smt, and its score one of gradients or its warm-up one
            that trains.
        selection: None unless the method is smt.
        evaluations: ``base``, ``base_likelihood``, ``tuned``, ``tuned_likelihood`` -> its stage,
            where wanted.
    """

    config: RunConfig
    storage: Storage
    identity: dict[str, Any]
    training: list[Row]
    validation: list[Row]
    tasks: dict[str, list[Row]]
    tokens: Stage
    warmup: Stage | None
    selection: Stage | None
    trained: Stage
    evaluations: dict[str, Stage]

    @property
    def model(self) -> dict[str, Any]:
        """The base model, as the model section's plain values."""
        return self.config.model.spec()

    @property
    def starting_model(self) -> dict[str, Any]:
        """What training starts from and adapters belong on, as :attr:`model` says it.

        The base model, or the one that a warm-up with ``mode: trained`` keeps.
        """
        if not self.config.trained_warmup:
            return self.model
        assert self.warmup is not None
        return kept_model(self.model, self.warmup)

    @property
    def stages(self) -> dict[str, Stage]:
        """Every stage, by what the run's table calls it."""
        stages = {
            "tokens": self.tokens,
            "warmup": self.warmup,
            "selection": self.selection,
            "training": self.trained,
            **{f"evaluation of {name}": stage for name, stage in self.evaluations.items()},
        }
        return {kind: stage for kind, stage in stages.items() if stage is not None}

    def unfinished(self) -> list[str]:
        """The stages from training on that are still to be made."""
        return [
            kind
            for kind, stage in self.stages.items()
            if kind.startswith(("training", "evaluation")) and stage.manifest() is None
        ]


def make_plan(config: RunConfig) -> RunPlan:
    """Reads the rows and names the stages.

    Raises:
        UserError: Rows, tasks or the model cannot be found or read.
    """
    storage = Storage(config.storage)
    spec = config.model.spec()
    training, validation = read_rows(config)
    tasks = read_tasks(config)
    identity = model_identity(spec)
    data = {k: v for k, v in config.data.semantic().items() if k not in _ROW_KEYS}
    rows = {"training": digest_rows(training), "validation": digest_rows(validation)}
    tokens = Stage(
        storage,
        "tokens",
        {"rows": rows, "data": data, "model": identity, **_tokenised(training, validation)},
    )
    warmup: Stage | None = None
    selection: Stage | None = None
    if config.method == "smt":
        warmup, selection = _choice(config, storage, tokens, identity)
    trained = Stage(
        storage,
        "training",
        {
            "tokens": tokens.name,
            **({"selection": selection.name} if selection else {}),
            "method": config.method,
            **({"lora": config.lora.semantic()} if config.method in ("lora", "dora") else {}),
            "seed": config.seed,
            "training": config.training.semantic(),
            "deepspeed": config.deepspeed.semantic(),
        },
    )
    evaluations = _evaluations(config, storage, identity, tasks, trained)
    return RunPlan(
        config, storage, identity, training, validation, tasks,
        tokens, warmup, selection, trained, evaluations,
    )  # fmt: skip


def _tokenised(*sets: list[Row]) -> dict[str, str]:
    """How conversations are tokenised, where there are any: once piece by piece, now whole."""
    return {"chat": "whole"} if any(row.messages for rows in sets for row in rows) else {}


def _choice(
    config: RunConfig, storage: Storage, tokens: Stage, identity: dict[str, Any]
) -> tuple[Stage | None, Stage]:
    """What smt does before it trains: the warm-up, unless it is not needed; the selection."""
    chosen = {"selection": config.selection.semantic()}
    seed = {"seed": config.seed} if config.selection.score == "random" else {}
    if config.selection.needs_gradients or config.trained_warmup:
        warmup = _warmup(config, storage, tokens)
        return warmup, Stage(storage, "selection", {"warmup": warmup.name, **seed, **chosen})
    keys = ("target_modules", "table_block_size")
    settings = {key: config.warmup.semantic()[key] for key in keys}
    control = {"model": identity, "warmup": settings, **seed, **chosen}
    return None, Stage(storage, "selection", control)


def _warmup(config: RunConfig, storage: Storage, tokens: Stage) -> Stage:
    settings, training = config.warmup.semantic(), config.training.semantic()
    # Warm-up steps are training's: its batches and its order.
    inputs = {"tokens": tokens.name, "seed": config.seed, "batch_size": training["batch_size"]}
    if config.trained_warmup:
        del settings["learning_rate"]  # what it comes to counts, not where that is said
        inputs["training"] = {
            "learning_rate": config.warmup_learning_rate,
            **{key: training[key] for key in _WARMUP_KEYS},
        }
        inputs["deepspeed"] = config.deepspeed.semantic()
    return Stage(storage, "warmup", {**inputs, "warmup": settings})


def kept_model(base: dict[str, Any], warmup: Stage) -> dict[str, Any]:
    """The model section of the weights that a warm-up with ``mode: trained`` updated.

    Args:
        base: That of the base model.
        warmup: The warm-up's stage.
    """
    elsewhere = dict.fromkeys(("builtin", "revision", "gguf_file"))
    return {**base, **elsewhere, "path": warmup.storage.uri(warmup.path(MODEL))}


def read_rows(config: RunConfig) -> tuple[list[Row], list[Row]]:
    """The rows to learn from and those to hold out.

    Raises:
        UserError: A source cannot be read, or nothing is left to train on.
    """
    return split_rows(
        read_training_rows(config.data.model_dump(mode="json")["train"], config.data.dir),
        max_rows=config.data.max_rows,
        validation_rows=config.data.validation_rows,
        seed=config.seed,
    )


def read_tasks(config: RunConfig) -> dict[str, list[Row]]:
    """The test rows of the config's tasks.

    Raises:
        UserError: A task is unknown, its file is missing or bad, or it cannot be scored as asked.
    """
    found = {}
    for task in find_tasks(config.evaluation.tasks):
        for key in ("base_likelihood", "tuned_likelihood"):
            if getattr(config.evaluation, key):
                check_candidates(task, f"evaluation.{key}", got=True, fix="set it to false")
        rows = read_task_rows(task.name, config.data.dir, builtin=task.suite == "builtin")
        found[task.name] = rows[: config.evaluation.max_rows]
    return found


def check_candidates(task: Task, field: str, *, got: Any, fix: str) -> None:
    """Refuses to score a task by likelihood that has no candidates.

    Args:
        task: What is to be scored.
        field: What asks for it, with the value ``got``.
        fix: How to ask for something else.

    Raises:
        UserError: It is answered in prose.
    """
    if task.candidates is None:
        raise UserError(
            field,
            f"{task.name} has no closed set of answers to choose from",
            got=got,
            fix=f"{fix}, or leave the task out",
        )


def evaluation_stage(
    storage: Storage,
    *,
    identity: dict[str, Any],
    tuned: str | None,
    tasks: dict[str, list[Row]],
    protocol: str,
    prompt: str,
    decoding: dict[str, Any],
) -> Stage:
    """The stage of one model's predictions under one protocol.

    Args:
        storage: Where stages are kept.
        identity: The base model's.
        tuned: What tells the adapter apart (a stage's name or a digest), or None for the base.
        tasks: Test rows by task.
        protocol: ``generate`` or ``likelihood``.
        prompt: The prompt's form.
        decoding: Of generation; see :meth:`EvaluationConfig.decoding`.
    """
    inputs: dict[str, Any] = {
        "model": identity,
        "tuned": tuned,
        "tasks": {task: digest_rows(rows) for task, rows in tasks.items()},
        "protocol": protocol,
        "prompt": prompt,
    }
    if protocol == "generate":
        limit = decoding["max_new_tokens"]
        inputs["num_beams"] = decoding["num_beams"]
        inputs["max_new_tokens"] = {task: limit or find_task(task).max_new_tokens for task in tasks}
        # What has no effect stands in no name, so that older evaluations keep theirs.
        if decoding["repetition_penalty"] != 1:
            inputs["repetition_penalty"] = decoding["repetition_penalty"]
        if decoding["lower_case"]:
            # Not True, as where texts were not cut at a further response first.
            inputs["lower_case"] = "after the cut"
    return Stage(storage, "evaluation", inputs)


def _evaluations(
    config: RunConfig, storage: Storage, identity: dict[str, Any], tasks: dict[str, list[Row]],
    trained: Stage,
) -> dict[str, Stage]:  # fmt: skip
    if not tasks:
        return {}
    # The base model first: what takes an adapter off is loading the base anew.
    wanted: dict[str, tuple[str, str | None]] = {}
    if config.evaluation.base:
        wanted["base"] = ("generate", None)
    if config.evaluation.base_likelihood:
        wanted["base_likelihood"] = ("likelihood", None)
    wanted["tuned"] = ("generate", trained.name)
    if config.evaluation.tuned_likelihood:
        wanted["tuned_likelihood"] = ("likelihood", trained.name)
    return {
        name: evaluation_stage(
            storage,
            identity=identity,
            tuned=tuned,
            tasks=tasks,
            protocol=protocol,
            prompt=config.data.prompt,
            decoding=config.evaluation.decoding(),
        )
        for name, (protocol, tuned) in wanted.items()
    }
