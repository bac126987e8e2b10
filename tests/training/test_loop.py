"""Claims about when the loop validates, makes checkpoints and checks for preemption."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from smt_ray.errors import UserError
from smt_ray.training import loop as loop_module
from smt_ray.training.loop import Callbacks

CHECK_S = 5.0


class Clock:
    """A clock that only steps move.

    Attributes:
        now: The time in seconds.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(loop_module, "time", SimpleNamespace(monotonic=lambda: self.now))


class Watched:
    """The checkpoints and preemption checks of a loop.

    Args:
        clock: The clock, which steps move.
        make_loop: The fixture.
        step_s: The seconds that a step takes.
        preempted_at: The time from which on the node is being preempted.
    """

    def __init__(
        self,
        clock: Clock,
        make_loop: Callable[..., Any],
        *,
        step_s: float,
        preempted_at: float = float("inf"),
        **changes: Any,
    ) -> None:
        self.clock, self.step_s, self.preempted_at = clock, step_s, preempted_at
        self.checked_at: list[float] = []
        self.states: dict[int, float] = {}
        callbacks = Callbacks(self._record, self._checkpoint, self._preempted)
        self.engine, self.loop = make_loop(callbacks, **changes)

    def run(self) -> Watched:
        step = self.engine.step

        def timed(learning_rate: float) -> float:
            self.clock.now += self.step_s
            return float(step(learning_rate))

        self.engine.step = timed
        self.loop.run()
        return self

    def _record(self, _done: int, _metrics: Mapping[str, float]) -> None:
        pass

    def _checkpoint(self, done: int, _metrics: Mapping[str, float]) -> None:
        assert done not in self.states
        self.states[done] = self.engine.export_state()["w/param"].item()

    def _preempted(self) -> bool:
        self.checked_at.append(self.clock.now)
        return self.clock.now >= self.preempted_at


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_a_validation_loss_is_only_reported_with_the_checkpoint_of_its_step(
    make_loop: Callable[..., Any],
) -> None:
    seen: dict[int, float | None] = {}
    callbacks = Callbacks(
        lambda *_: None, lambda done, metrics: seen.update({done: metrics.get("validation/loss")})
    )
    _, loop = make_loop(
        callbacks, num_steps=14, validate_every_steps=4, checkpoint_every_steps=3,
        validation_losses={4: 0.9, 8: 0.8, 12: 0.7, 14: 0.6},
    )  # fmt: skip
    last = loop.run()
    assert seen == {3: None, 6: None, 9: None, 12: pytest.approx(0.7), 14: pytest.approx(0.6)}
    assert last["validation/loss"] == pytest.approx(0.6)


@pytest.mark.parametrize("start", [0, 5])
def test_the_loss_before_training_is_recorded_once(
    make_loop: Callable[..., Any], start: int
) -> None:
    seen: list[tuple[int, float | None]] = []
    callbacks = Callbacks(
        lambda done, metrics: seen.append((done, metrics.get("validation/loss"))), lambda *_: None
    )
    engine, loop = make_loop(
        callbacks, num_steps=9, log_every_steps=9, validation_losses={9: 0.5}
    )  # fmt: skip
    engine.num_steps = start
    loop.run(start)
    assert seen == [*([] if start else [(0, 2.0)]), (9, 0.5)]


def test_a_training_that_a_warm_up_started_continues_its_steps_and_its_schedule(
    make_loop: Callable[..., Any],
) -> None:
    def rates(first: int, last: int, **changes: Any) -> dict[int, float]:
        found: dict[int, float] = {}
        callbacks = Callbacks(
            lambda done, metrics: found.update({done: metrics.get("train/learning_rate", -1.0)}),
            lambda *_: None,
        )
        schedule = {"lr_schedule": "linear", "lr_warmup_steps": 2, "log_every_steps": 1}
        engine, loop = make_loop(callbacks, num_steps=last, first_step=first, **schedule, **changes)
        loop.run()
        assert engine.num_steps == last - first
        return {done: rate for done, rate in found.items() if rate != -1.0}

    whole = rates(0, 9)
    assert rates(0, 4, num_scheduled_steps=9) | rates(4, 9) == whole
    assert len(set(whole.values())) == 8  # the peak is reached by two steps


def test_a_preemption_causes_one_extra_checkpoint_with_the_state_of_its_step(
    clock: Clock, make_loop: Callable[..., Any]
) -> None:
    run = Watched(clock, make_loop, step_s=2.0, preempted_at=31.0, checkpoint_every_steps=25).run()
    assert set(run.states) == {16, 25, 50, 60}
    assert all(state == done for done, state in run.states.items())
    assert run.checked_at[-1] == 32.0  # the end of step 16, after which there are no more checks


def test_without_a_preemption_there_is_no_extra_checkpoint(
    clock: Clock, make_loop: Callable[..., Any]
) -> None:
    run = Watched(clock, make_loop, step_s=2.0, checkpoint_every_steps=25).run()
    assert set(run.states) == {25, 50, 60}


@pytest.mark.parametrize("step_s", [0.4, 2.0, 7.0])
def test_checks_for_preemption_are_repeated_after_more_than_five_seconds(
    clock: Clock, make_loop: Callable[..., Any], step_s: float
) -> None:
    run = Watched(clock, make_loop, step_s=step_s).run()
    gaps = [b - a for a, b in zip([0.0, *run.checked_at], run.checked_at, strict=False)]
    assert gaps
    assert min(gaps) > CHECK_S
    # A check becomes due at the start of a step and is made at its end.
    assert max(gaps) <= CHECK_S + 2 * step_s + 1e-9


def test_a_step_with_a_regular_checkpoint_has_no_check(
    clock: Clock, make_loop: Callable[..., Any]
) -> None:
    run = Watched(clock, make_loop, step_s=7.0, preempted_at=0.0, checkpoint_every_steps=1).run()
    assert set(run.states) == set(range(1, 61))
    assert not run.checked_at


def test_a_run_that_was_interrupted_after_its_last_step_does_no_more_steps(
    make_loop: Callable[..., Any],
) -> None:
    done: list[int] = []
    callbacks = Callbacks(lambda step, _: done.append(step), lambda step, _: done.append(step))
    engine, loop = make_loop(callbacks, num_steps=5)
    assert loop.run(start=5) == {}
    assert (engine.num_steps, done) == (0, [])


@pytest.mark.parametrize("section", ["training", "warmup"])
def test_a_loss_that_is_not_finite_names_the_learning_rate_of_its_section(
    make_loop: Callable[..., Any], section: str
) -> None:
    written: list[int] = []
    callbacks = Callbacks(lambda step, _: written.append(step), lambda *_: written.append(-1))
    engine, loop = make_loop(callbacks, section=section)
    engine.loss = lambda _: torch.tensor(float("inf"))
    with pytest.raises(UserError) as caught:
        loop.run()
    assert caught.value.field == section
    assert f"lower {section}.learning_rate" in str(caught.value)
    assert engine.num_steps == 1, "the loss is read after the step, so as to wait once"
    assert not written, "nothing of this step is recorded, and there is no checkpoint of it"
