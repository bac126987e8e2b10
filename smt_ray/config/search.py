"""A search: a base run, the keys that vary, and how trials are drawn and stopped."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import model_validator

from smt_ray.config.comparison import Overrides
from smt_ray.config.fields import FolderName, Section, execution, semantic
from smt_ray.config.load import is_execution_key, load_named, validate_member, with_settings
from smt_ray.config.run import RunConfig
from smt_ray.errors import UserError

_RANGES = {"uniform": 2, "loguniform": 2, "quniform": 3, "qloguniform": 3, "randint": 2,
           "lograndint": 2, "qrandint": 3, "qlograndint": 3}  # fmt: skip
"""Ray Tune's names of ranges -> the number of their arguments: low, high and maybe a quantum."""
_LISTS = ("choice", "grid_search")
DOMAINS = (*_LISTS, *_RANGES)
_UNKNOWN_STEPS = 10**9  # stands for the steps of a training whose length is given in epochs


class Domain(NamedTuple):
    """The values that one key may have.

    Attributes:
        kind: Ray Tune's name of the domain, one of :data:`DOMAINS`.
        values: The values of a list, or the arguments of a range.
    """

    kind: str
    values: list[Any]

    @property
    def is_log(self) -> bool:
        """Whether values are drawn, and pictures are drawn, on a logarithmic scale."""
        return "log" in self.kind

    def ends(self) -> list[Any]:
        """Every value of a list, or the lowest and the highest value of a range."""
        if self.kind in _LISTS:
            return self.values
        low, high = self.values[:2]
        # Ray Tune excludes the upper end of plain integer ranges.
        return [low, high - 1 if self.kind in ("randint", "lograndint") else high]


class AshaConfig(Section):
    """The settings of the ASHA scheduler."""

    grace_period: int | None = semantic(None, ge=1)
    """Optimizer steps before a trial may be stopped; null for the first validation."""
    reduction_factor: float = semantic(2, gt=1, strict=False)
    """At each comparison, the best one in this many trials continues; 2 keeps half of them."""


class SearchConfig(Section):
    """A search; a YAML file holds one.

    Trials are compared by the validation loss after their last step. Test rows play no part.
    """

    name: FolderName = execution()
    """The name of the folder under ``<storage>/searches`` and of the parent run in MLflow."""
    run: dict[str, Any] = semantic()
    """The base run, with the keys of a run's own file. The trials change some of them."""
    space: dict[str, dict[str, list[Any]]] = semantic(min_length=1)
    """Dotted key of the run -> {domain: arguments}. The domains have Ray Tune's names: choice,
    grid_search, uniform, loguniform, quniform, qloguniform, randint, lograndint, qrandint,
    qlograndint. Execution keys and ``evaluation`` cannot be searched, since they do not change the
    validation loss. Points that describe the same training are deduplicated."""
    num_samples: int = semantic(1, ge=1)
    """The number of points to draw. With grid_search, each combination of its values is drawn this
    many times."""
    algorithm: Literal["random", "optuna"] = semantic("random")
    """random draws all points before the first trial. optuna draws each point from the results so
    far; a point that it draws again is trained once."""
    scheduler: Literal["asha", "none"] = semantic("asha")
    """asha stops the worst trials early, and needs ``run.training.validate_every_steps``. none
    trains every trial to the end."""
    asha: AshaConfig = semantic(AshaConfig())
    """The settings of ``scheduler: asha``."""
    seed: int = semantic(0)
    """The seed of the drawn points; the seed of the runs is ``run.seed``."""
    max_concurrent_trials: int | None = execution(None, ge=1)
    """The largest number of trials at the same time; null for as many as the cluster holds. An
    autoscaler is asked for the nodes of this many trials, or of one trial if it is null."""

    @model_validator(mode="after")
    def _check_space(self) -> SearchConfig:
        for key, written in self.space.items():
            _check_key(key)
            _check_domain(key, written)
        if self.algorithm == "optuna":
            for key, domain in self.domains.items():
                _check_optuna_domain(key, domain)
        return self

    @property
    def draws_all_points_first(self) -> bool:
        """Whether all points are known before the first trial."""
        return self.algorithm == "random"

    @property
    def domains(self) -> dict[str, Domain]:
        """Dotted key -> the values that it may have."""
        return {
            key: Domain(kind, list(values))
            for key, domain in self.space.items()
            for kind, values in domain.items()
        }

    def make_run(self, point: Overrides) -> RunConfig:
        """The run of a point; its name follows from the point.

        Raises:
            UserError: The point breaks a rule of the run's configuration, or the scheduler cannot
                work with it.
        """
        run = validate_member(self.run_values(point), self.name)
        self._check_run(run)
        return run

    def run_values(self, point: Overrides) -> dict[str, Any]:
        """The run of a point as plain values, without a name and without defaults."""
        values = with_settings(self.run, point)
        training = values.setdefault("training", {})
        # A trial reports its validation losses at its checkpoints.
        training.setdefault("checkpoint_every_steps", training.get("validate_every_steps"))
        return values

    def asha_steps(self, runs: Iterable[RunConfig]) -> tuple[int, int]:
        """The steps before asha may stop a trial, and the steps of the longest training.

        Raises:
            UserError: Training ends before asha could stop a trial.
        """
        trainings = [run.training for run in runs]
        # The steps of an epoch are known only when the rows are read.
        most = max(training.max_steps or _UNKNOWN_STEPS for training in trainings)
        grace, field = self.asha.grace_period, "asha.grace_period"
        if grace is None:
            grace = trainings[0].validate_every_steps or 1
            field = "run.training.validate_every_steps"
        if grace > most:
            raise UserError(
                field,
                f"must be at most the steps of training ({most}), or asha never stops a trial",
                got=grace,
                fix=f"set it to at most {most}, such as a quarter of it, or set scheduler=none",
            )
        return grace, most

    def _check_run(self, run: RunConfig) -> None:
        if not run.data.has_validation:
            raise UserError(
                "run.data.validation_rows",
                "must be positive, because a search compares validation losses",
                got=run.data.validation_rows,
                fix="hold out some training rows, such as 120",
            )
        if self.scheduler == "asha" and not run.training.validate_every_steps:
            raise UserError(
                "run.training.validate_every_steps",
                "must be set, because the scheduler asha compares validation losses during"
                " training",
                got=None,
                fix="set it to a fraction of the steps, or set scheduler=none",
            )


def _check_key(key: str) -> None:
    if is_execution_key(key):
        raise ValueError(f"space.{key} does not change results; set run.{key} instead")
    if key.partition(".")[0] == "evaluation":
        raise ValueError(
            f"space.{key} does not change the validation loss, by which a search compares trials;"
            f" set run.{key} instead"
        )


def _check_domain(key: str, domain: dict[str, list[Any]]) -> None:
    if len(domain) != 1 or next(iter(domain)) not in DOMAINS:
        raise ValueError(f"space.{key} must be one of {', '.join(DOMAINS)}; got {list(domain)}")
    kind, values = next(iter(domain.items()))
    if kind in _LISTS:
        if not values:
            raise ValueError(f"space.{key}: {kind} needs at least one value")
        return
    num_arguments = _RANGES[kind]
    if len(values) != num_arguments or not all(isinstance(value, (int, float)) for value in values):
        wanted = "[low, high]" if num_arguments == 2 else "[low, high, quantum]"
        raise ValueError(f"space.{key}: {kind} needs the numbers {wanted}; got {values}")
    if not values[0] < values[1]:
        raise ValueError(f"space.{key}: {kind} needs low below high; got {values}")
    if "int" in kind and not all(isinstance(value, int) for value in values):
        raise ValueError(f"space.{key}: {kind} needs whole numbers; got {values}")


def _check_optuna_domain(key: str, domain: Domain) -> None:
    if domain.kind == "grid_search":
        raise ValueError(f"space.{key}: optuna has no grid_search; use choice")
    if domain.kind in ("qloguniform", "qlograndint"):
        without = domain.kind.removeprefix("q")
        raise ValueError(
            f"space.{key}: optuna has no quantum on a logarithmic scale; use {without}"
        )
    if any(isinstance(value, (list, dict)) for value in domain.values):
        raise ValueError(f"space.{key}: optuna does not support lists or mappings as values")


def load_search(path: str | Path, overrides: list[str]) -> SearchConfig:
    """Reads the YAML file of a search; see :func:`smt_ray.config.load.load_named`."""
    return load_named(SearchConfig, path, overrides)
