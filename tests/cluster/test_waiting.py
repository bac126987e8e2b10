"""A training waits for resources that other work holds; Ray itself is replaced."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import ActorDiedError
from ray.train import ControllerError, WorkerGroupError
from ray.train.v2._internal.exceptions import (
    WorkerGroupStartupFailedError,
    WorkerGroupStartupTimeoutError,
)

from smt_ray.artifacts.stages import TRAINING, Stage
from smt_ray.artifacts.storage import Storage
from smt_ray.cluster import waiting
from smt_ray.cluster.resources import ProcessResources
from smt_ray.config.run import RunConfig
from smt_ray.documents.probe import Probe
from smt_ray.documents.run import Trainable
from smt_ray.documents.stages import RankOutcome
from smt_ray.errors import UserError
from smt_ray.methods.full import FullSettings
from smt_ray.stages import training as trainer
from smt_ray.stages.jobs import TrainingJob

EACH = ProcessResources(1, 1, None)


class Cluster:
    """Stands in for Ray; other work holds the resources for some seconds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, busy_s: float) -> None:
        self.busy_s, self.now = busy_s, 0.0
        self.asked: list[Any] = []
        self.said: list[str] = []
        self.given_back = 0
        for name, stand_in in {
            "placement_group": self.place,
            "remove_placement_group": self.remove,
            "time": SimpleNamespace(monotonic=lambda: self.now),
            "say": self.said.append,
        }.items():
            monkeypatch.setattr(waiting, name, stand_in)

    def place(self, bundles: Any, strategy: str) -> Any:
        self.asked.append((bundles, strategy))
        return SimpleNamespace(wait=self.wait)

    def wait(self, seconds: float) -> bool:
        self.now += seconds
        return self.now >= self.busy_s

    def remove(self, place: Any) -> None:
        self.given_back += 1


def test_a_free_place_is_released_for_training_without_a_message(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cluster = Cluster(monkeypatch, busy_s=0)
    waiting.wait_for_place("training", 2, EACH, 3600)
    assert cluster.asked == [([{"CPU": 1, "GPU": 1}] * 2, "PACK")]
    assert (cluster.given_back, cluster.said) == (1, [])


def test_a_training_that_waits_says_so_once_and_continues(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(monkeypatch, busy_s=900)
    waiting.wait_for_place("training", 2, EACH, 3600)
    (line,) = cluster.said
    assert line.startswith("training: waiting for 2 x 1 CPU and a GPU, which other work")
    assert "3600 s at most" in line
    assert (cluster.now, cluster.given_back) == (900, 1)


def test_a_wait_ends_at_its_timeout_with_a_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(monkeypatch, busy_s=900)
    with pytest.raises(UserError, match="2 x 1 CPU and a GPU") as raised:
        waiting.wait_for_place("training", 2, EACH, 60)
    assert (raised.value.field, raised.value.got) == ("resources.wait_timeout_s", 60)
    assert "start the same run again" in raised.value.fix
    assert (cluster.now, cluster.given_back) == (60, 1)


def test_an_interrupt_of_a_wait_releases_the_request(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(monkeypatch, busy_s=900)

    def interrupted(line: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(waiting, "say", interrupted)
    with pytest.raises(KeyboardInterrupt):
        waiting.wait_for_place("training", 2, EACH, 3600)
    assert cluster.given_back == 1


OUTCOME = RankOutcome(
    metrics={}, trainable=Trainable(), num_ranks=1, zero_stage=2, dtype="float32",
    optimizer="AdamW", device="cpu", kernel="sdpa", batching="padded",
)  # fmt: skip
NO_PLACE = ControllerError(WorkerGroupStartupTimeoutError(1))
FAILURES = [
    ControllerError(WorkerGroupStartupFailedError("a node died")),
    WorkerGroupError("failed", {0: ActorDiedError()}),
]


@pytest.fixture
def fit(
    make_config: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[RankOutcome, Cluster]]:
    """A training whose tries have given outcomes, on a cluster that is soon free."""

    def fit(*ends: Exception | None) -> tuple[RankOutcome, Cluster]:
        left = list(ends)

        class Trainer:
            def __init__(self, *arguments: Any, **keywords: Any) -> None: ...

            def fit(self) -> Any:
                if end := left.pop(0):
                    raise end
                return SimpleNamespace(return_value=OUTCOME)

        cluster = Cluster(monkeypatch, busy_s=1)
        monkeypatch.setattr(trainer, "TorchTrainer", Trainer)
        config = make_config()
        stage = Stage(Storage(config.storage), TRAINING, {})
        job = TrainingJob(
            config=config,
            model=config.model,
            method=FullSettings(),
            probe=Probe(),
            num_steps=1,
            storage=config.storage,
            folder=stage.folder,
            tokens="tokens",
            resources=EACH,
        )
        return trainer.fit(job, stage, board=None), cluster

    return fit


def test_a_training_whose_place_others_took_waits_again(fit: Callable[..., Any]) -> None:
    outcome, cluster = fit(NO_PLACE, NO_PLACE, None)
    assert outcome == OUTCOME
    assert len(cluster.asked) == cluster.given_back == 3


def test_a_training_that_never_gets_a_place_ends(fit: Callable[..., Any]) -> None:
    with pytest.raises(UserError, match="waiting for 1 workers"):
        fit(*[NO_PLACE] * 10)


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: type(failure).__name__)
def test_ranks_that_failed_are_not_waited_for(fit: Callable[..., Any], failure: Exception) -> None:
    with pytest.raises(UserError, match=r"training: workers failed more than resources\.max"):
        fit(failure, None)
