"""A search: a run, the keys of it that are varied, and how trials are drawn and stopped."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import model_validator

from smt_ray.config.comparison import Overrides
from smt_ray.config.fields import Section, execution, semantic
from smt_ray.config.load import is_execution_key, load_named, validate_member, with_settings
from smt_ray.config.run import RunConfig
from smt_ray.errors import UserError

_RANGES = {"uniform": 2, "loguniform": 2, "quniform": 3, "qloguniform": 3, "randint": 2,
           "lograndint": 2, "qrandint": 3, "qlograndint": 3}  # fmt: skip
"""Ray Tune's names of ranges, and how many numbers each has: low, high and, if any, the quantum."""
_LISTS = ("choice", "grid_search")
DOMAINS = (*_LISTS, *_RANGES)
_ENDLESS = 10**9  # steps


class Domain(NamedTuple):
    """What one key may be.

    Attributes:
        kind: One of :data:`DOMAINS`, Ray Tune's name.
        values: The values of a list; low, high and, of some, the quantum of a range.
    """

    kind: str
    values: list[Any]

    @property
    def is_log(self) -> bool:
        """Whether it is drawn, and so best drawn as a picture, on a logarithmic scale."""
        return "log" in self.kind

    def ends(self) -> list[Any]:
        """Every value of a list, or the ends of a range: those that a check tries."""
        if self.kind in _LISTS:
            return self.values
        low, high = self.values[:2]
        # Ray Tune leaves the upper end of plain integer ranges out.
        return [low, high - 1 if self.kind in ("randint", "lograndint") else high]


class AshaConfig(Section):
    """When the ASHA scheduler stops a trial."""

    grace_period: int | None = semantic(None, ge=1)
    """Optimizer steps that every trial gets; null for the first validation."""
    reduction_factor: float = semantic(2, gt=1, strict=False)
    """Of those that came as far, the best one in this many goes on."""


class SearchConfig(Section):
    """A whole search; one YAML file is one of these.

    The metric is the validation loss after the last step: test rows have no say.
    """

    name: str = execution()
    """Names the folder under ``<storage>/searches`` and the parent run in MLflow."""
    run: dict[str, Any] = semantic()
    """The run that every trial starts from, as in a run's own file."""
    space: dict[str, dict[str, list[Any]]] = semantic(min_length=1)
    """Dotted key of the run -> {kind: values}: choice, grid_search, uniform, loguniform, quniform,
    qloguniform, randint, lograndint, qrandint, qlograndint as Ray Tune has them. Keys that change
    no validation loss are refused: execution keys, ``evaluation``. Points of one training are one
    trial."""
    num_samples: int = semantic(1, ge=1)
    """Points that are drawn; grid_search keys are crossed, and each of their combinations is drawn
    this often."""
    algorithm: Literal["random", "optuna"] = semantic("random")
    """random draws all points beforehand; optuna draws each after those before it, maybe again one
    that it drew before, which is then trained once."""
    scheduler: Literal["asha", "none"] = semantic("asha")
    """asha stops trials that are behind the others; it needs ``run.training.validate_every_steps``.
    none trains all to the end."""
    asha: AshaConfig = semantic(AshaConfig())
    """Of the scheduler asha."""
    seed: int = semantic(0)
    """Of the draws; the runs' own is ``run.seed``."""
    max_concurrent_trials: int | None = execution(None, ge=1)
    """Trials at a time; null for as many as the cluster holds. An autoscaler is asked for so many
    trials' nodes, or for one trial's."""

    @model_validator(mode="after")
    def _check_space(self) -> SearchConfig:
        for key, written in self.space.items():
            _check_key(key)
            _check_domain(key, written)
        if self.algorithm == "optuna":
            for key, domain in self.domains.items():
                if domain.kind == "grid_search":
                    raise ValueError(f"space.{key}: optuna draws no grid; say choice")
                if domain.kind in ("qloguniform", "qlograndint"):
                    raise ValueError(
                        f"space.{key}: optuna draws no quantum on a logarithmic scale; leave it out"
                    )
                if any(isinstance(value, (list, dict)) for value in domain.values):
                    raise ValueError(f"space.{key}: optuna takes plain values alone")
        return self

    @property
    def domains(self) -> dict[str, Domain]:
        """By dotted key."""
        return {
            key: Domain(kind, list(values))
            for key, domain in self.space.items()
            for kind, values in domain.items()
        }

    def make_run(self, point: Overrides) -> RunConfig:
        """The run of a point, named after it.

        Raises:
            UserError: The point breaks a rule of the run's config, or the scheduler cannot work.
        """
        run = validate_member(self.run_values(point), self.name)
        self._check_run(run)
        return run

    def run_values(self, point: Overrides) -> dict[str, Any]:
        """A point's run as plain values, without a name and without defaults."""
        values = with_settings(self.run, point)
        training = values.setdefault("training", {})
        # A trial says where it is at its checkpoints.
        training.setdefault("checkpoint_every_steps", training.get("validate_every_steps"))
        return values

    def asha_steps(self, runs: Iterable[RunConfig]) -> tuple[int, int]:
        """Steps that asha gives every trial, and the most that any has.

        Args:
            runs: The search's.

        Raises:
            UserError: Training ends before asha would look at it.
        """
        trainings = [run.training for run in runs]
        # Where passes over the rows are given, their steps are known only once they are read.
        most = max(training.max_steps or _ENDLESS for training in trainings)
        grace, field = self.asha.grace_period, "asha.grace_period"
        if grace is None:
            grace, field = (
                trainings[0].validate_every_steps or 1,
                "run.training.validate_every_steps",
            )
        if grace > most:
            raise UserError(
                field,
                f"must be within the steps of training ({most}): asha stops no trial before it",
                got=grace,
                fix=f"at most {most}, such as a quarter of it, or scheduler=none",
            )
        return grace, most

    def _check_run(self, run: RunConfig) -> None:
        if not run.data.validation_rows:
            raise UserError(
                "run.data.validation_rows",
                "a search needs rows to choose by",
                got=run.data.validation_rows,
                fix="hold some training rows out, such as 120",
            )
        if self.scheduler == "asha" and not run.training.validate_every_steps:
            raise UserError(
                "run.training.validate_every_steps",
                "the scheduler asha needs validation losses on the way",
                got=None,
                fix="set it to a fraction of the steps, or scheduler: none",
            )


def _check_key(key: str) -> None:
    if is_execution_key(key):
        raise ValueError(f"space.{key} changes no result: set run.{key} instead")
    if key.partition(".")[0] == "evaluation":
        raise ValueError(
            f"space.{key} changes no validation loss, which a search chooses by: set run.{key}"
        )


def _check_domain(key: str, domain: dict[str, list[Any]]) -> None:
    if len(domain) != 1 or next(iter(domain)) not in DOMAINS:
        raise ValueError(f"space.{key} must be one of {', '.join(DOMAINS)}; got {list(domain)}")
    kind, values = next(iter(domain.items()))
    if kind in _LISTS:
        if not values:
            raise ValueError(f"space.{key}: {kind} needs at least one value")
        return
    numbers = _RANGES[kind]
    if len(values) != numbers or not all(isinstance(value, (int, float)) for value in values):
        wanted = "[low, high]" if numbers == 2 else "[low, high, quantum]"
        raise ValueError(f"space.{key}: {kind} needs numbers {wanted}; got {values}")
    if not values[0] < values[1]:
        raise ValueError(f"space.{key}: {kind} needs low below high; got {values}")
    if "int" in kind and not all(isinstance(value, int) for value in values):
        raise ValueError(f"space.{key}: {kind} needs whole numbers; got {values}")


def load_search(path: str | Path, overrides: list[str]) -> SearchConfig:
    """Reads a search's YAML; see :func:`smt_ray.config.load.load_named`."""
    return load_named(SearchConfig, path, overrides)
