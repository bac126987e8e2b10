"""Claims about trainings that wait for others on a cluster; Ray is not started."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from ray.exceptions import ActorDiedError
from ray.train import ControllerError, WorkerGroupError
from ray.train.v2._internal.exceptions import (
    WorkerGroupStartupFailedError,
    WorkerGroupStartupTimeoutError,
)

from smt_ray.artifacts.stages import Stage
from smt_ray.artifacts.storage import Storage
from smt_ray.config.run import RunConfig
from smt_ray.errors import UserError
from smt_ray.orchestration import session, trainer, waiting
from smt_ray.orchestration.resources import ProcessResources
from smt_ray.orchestration.session import START_TIMEOUT, worker_environment

EACH = ProcessResources(1, 1, None)
Groups = dict[str, dict[str, Any]]


def group(state: str, num_ranks: int = 2) -> dict[str, Any]:
    return {"state": state, "bundles": dict(enumerate([EACH.bundle] * num_ranks))}


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """What is said of a training of two ranks while the cluster has groups, one table after it."""

    def watch(before: Groups, *during: Groups) -> list[str]:
        tables, lines = [before, *during], []
        monkeypatch.setattr(waiting, "_ASK_EVERY_S", 0.001)
        monkeypatch.setattr(waiting, "say", lines.append)
        monkeypatch.setattr(
            waiting, "placement_group_table", lambda: tables.pop(0) if tables[1:] else tables[0]
        )
        with waiting.waits_said("training", 2, EACH):
            deadline = time.monotonic() + 10
            while tables[1:] and time.monotonic() < deadline:
                time.sleep(0.001)
            time.sleep(0.02)  # the last one is seen more than once
        return lines

    return watch


def test_a_training_that_waits_for_a_place_says_so_once(
    said: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(START_TIMEOUT, "90")
    (line,) = said({}, {"ours": group("PENDING")})
    assert line.startswith("training: waits for a place: ")
    assert "2 x 1 CPU and a GPU" in line
    assert "90 s at most" in line


def test_it_says_so_again_when_a_lost_rank_s_place_is_waited_for(
    said: Callable[..., list[str]],
) -> None:
    lost = {"first": group("REMOVED"), "second": group("PENDING")}
    assert len(said({}, {"first": group("PENDING")}, {"first": group("CREATED")}, lost)) == 2


def test_what_others_wait_for_is_not_said_of_this_training(
    said: Callable[..., list[str]],
) -> None:
    earlier, larger = {"earlier": group("PENDING")}, {"larger": group("PENDING", 8)}
    assert said(earlier, earlier | larger) == []
    assert said({}, {"ours": group("CREATED"), "later": group("PENDING")}) == []
    # Ours waited first.
    placed = {"ours": group("CREATED"), "later": group("PENDING")}
    assert len(said({}, {"ours": group("PENDING")}, placed)) == 1


def test_a_cluster_that_does_not_answer_ends_no_training(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers = iter([{}])
    monkeypatch.setattr(waiting, "_ASK_EVERY_S", 0.001)
    monkeypatch.setattr(waiting, "placement_group_table", lambda: next(answers))
    with waiting.waits_said("training", 2, EACH):
        time.sleep(0.02)


def test_ranks_wait_for_others_for_an_hour_wherever_the_training_is_driven_from(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in session._FORWARDED:
        if name.startswith("RAY_TRAIN_"):
            monkeypatch.setenv(name, "unknown to monkeypatch otherwise, which is to put it back")
            monkeypatch.delenv(name)
    session._quieten()
    assert worker_environment()[START_TIMEOUT] == "3600"
    monkeypatch.setenv(START_TIMEOUT, "90")  # what is asked for stands
    session._quieten()
    assert worker_environment()[START_TIMEOUT] == "90"


def test_ranks_that_found_no_place_are_told_from_ranks_that_failed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(START_TIMEOUT, "90")
    assert waiting.waited_for(ControllerError(WorkerGroupStartupTimeoutError(4))) == 90
    failed = WorkerGroupStartupFailedError("a node died")
    assert waiting.waited_for(ControllerError(failed)) is None
    assert waiting.waited_for(WorkerGroupError("failed", {0: ActorDiedError()})) is None


@pytest.mark.parametrize(
    ("failure", "rule"),
    [
        (WorkerGroupStartupTimeoutError(1), "had no place for 1 x 1 CPU and a GPU within"),
        (WorkerGroupStartupFailedError("a node died"), "workers failed more than"),
    ],
)
def test_a_training_that_found_no_place_does_not_say_that_ranks_failed(
    make_config: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch,
    failure: Exception, rule: str,
) -> None:  # fmt: skip
    class Trainer:
        def __init__(self, *arguments: Any, **keywords: Any) -> None: ...

        def fit(self) -> None:
            raise ControllerError(failure)

    monkeypatch.setattr(trainer, "TorchTrainer", Trainer)
    monkeypatch.setattr(waiting, "placement_group_table", dict)
    config = make_config()
    stage = Stage(Storage(config.storage), "training", {})
    with pytest.raises(UserError, match=rule) as raised:
        trainer.fit(config, {}, stage, EACH, board=None)
    assert raised.value.field == "training"
