"""The flow of a run: it makes the stages in order and reuses finished ones."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import ray.train
from torch import nn

from smt_ray.artifacts.layout import SELECTION
from smt_ray.artifacts.runs import RunFolder
from smt_ray.artifacts.scratch import remove_incomplete
from smt_ray.artifacts.stages import Finished
from smt_ray.artifacts.use import in_use, use_of_run
from smt_ray.cluster.board import make_board
from smt_ray.cluster.memory import memory_explained
from smt_ray.cluster.nodes import evaluator_resources, rank_resources, ray_for
from smt_ray.cluster.session import early_imports
from smt_ray.cluster.shared_places import check_shared
from smt_ray.cluster.turns import turn
from smt_ray.cluster.writer import TrackedRun
from smt_ray.config.run import RunConfig
from smt_ray.documents.probe import Probe
from smt_ray.documents.run import RunMetrics, Status, evaluation_key
from smt_ray.documents.stages import UNTIL, Until
from smt_ray.errors import UserError
from smt_ray.methods.blocks import EligibleBlocks, check_blocks
from smt_ray.methods.protocol import MethodSettings
from smt_ray.methods.registry import settings_of
from smt_ray.models.load import import_transformers, shared_skeleton
from smt_ray.probe.probe import keep_probe, kept_probe
from smt_ray.reporting.text.progress import say
from smt_ray.reporting.text.values import stage_text
from smt_ray.run import record
from smt_ray.run.export.logged_model import merged_or_none
from smt_ray.run.report import try_to_write_report
from smt_ray.run.snapshot import read_snapshot, read_start
from smt_ray.stages.asked import check_asked
from smt_ray.stages.evaluation import evaluation_pool, make_evaluation
from smt_ray.stages.plan import RunPlan, make_plan
from smt_ray.stages.selection import make_selection
from smt_ray.stages.tokens import make_tokens
from smt_ray.stages.trained_warmup import make_trained_warmup
from smt_ray.stages.training import make_training
from smt_ray.stages.warmup import make_warmup
from smt_ray.tracking.connect import TRACKER, tracker_settings
from smt_ray.training.batching_mode import check_probe

_PATIENCE_S = 30.0  # the most time that sending a run may take at its end
_MODEL_PATIENCE_S = 600.0  # the same with the tuned model


def run(config: RunConfig, until: Until = "evaluation") -> RunMetrics:
    """Carries out a run, from rows to metrics; returns the content of ``metrics.json``.

    Raises:
        UserError: Bad input. Finished stages are kept, and the same run resumes from them.
    """
    return Flow(config).run(until)


class Flow:
    """One run.

    Args:
        parent_run_id: The tracker's id of the comparison or search that the run belongs to.
        callbacks: Callbacks of Ray Train.
        in_turns: Whether other runs are carried out at the same time. A stage that several of them
            need is then made by the first one, while the others wait for it.
    """

    def __init__(
        self,
        config: RunConfig,
        parent_run_id: str | None = None,
        callbacks: Sequence[ray.train.UserCallback] = (),
        *,
        in_turns: bool = False,
    ) -> None:
        self.config, self.parent_run_id, self.callbacks = config, parent_run_id, callbacks
        self.in_turns = in_turns
        self.plan: RunPlan = make_plan(config)
        self.storage = self.plan.storage
        self.folder = RunFolder(self.storage, config.name)
        self.tracker = tracker_settings(config.tracking, self.storage.root)
        self.board: Any = None  # until Ray is started

    def run(self, until: Until) -> RunMetrics:
        """Carries out the run up to a stage; see :func:`run`."""
        began = time.monotonic()
        self.check_until(until)
        self.storage.check_writable()
        if self.storage.is_local:
            remove_incomplete(Path(self.storage.root))
        with (
            in_use(self.storage, use_of_run(self.folder.name)),
            early_imports(needed=bool(self.runs_that_need_ray(until))),
        ):
            return self._run(until, began)

    def _run(self, until: Until, began: float) -> RunMetrics:
        self.check()
        probe = None
        if "_probe" in vars(self):  # a finished run needs none
            probe = keep_probe(self._skeleton(), self._probe, self.storage)
        record.begin(self.folder, self.plan, self.parent_run_id, probe)
        status: Status = "FAILED"
        try:
            self._make_or_reuse("tokens", lambda: make_tokens(self.plan))
            with ray_for(self.runs_that_need_ray(until)):
                check_shared(self.config)
                tracked = self._start_tracking()
                try:
                    self.check_resources(until)
                    self._stages(until)
                    seconds = round(time.monotonic() - began, 1)
                    metrics = record.finish(self.folder, self.plan, seconds)
                    status = "FINISHED"
                except KeyboardInterrupt:
                    status = "KILLED"
                    raise
                finally:
                    record.end(self.folder, status)
                    if status == "FINISHED":  # before the tracker reads the files to send
                        try_to_write_report(self.folder)
                    is_whole = status == "FINISHED" and until == "evaluation"
                    url = self._finish_tracking(tracked, is_whole)
            return record.add_tracked_run(self.folder, metrics, url)
        finally:
            if status == "FAILED":
                record.end(self.folder, status)

    def check(self) -> None:
        """Finds errors before Ray is started and before any long computation.

        Raises:
            UserError: The model does not allow what the config asks for, or an artifact of a
                finished stage is damaged.
        """
        plan = self.plan
        for stage in plan.stages.values():
            if stage is not plan.warmup or self.needs_warmup():
                stage.verify()
        self._check_model()
        if not all(stage.is_done() for stage in plan.evaluations.values()):
            check_asked(plan)

    def needs_warmup(self) -> bool:
        """Whether a later stage needs the warm-up."""
        if self.plan.warmup is None:
            return False
        assert self.plan.selection is not None
        # Adapters are put on the weights that a trained warm-up keeps.
        return self.config.trained_warmup or not self.plan.selection.is_done()

    def _check_model(self) -> None:
        """Checks the model for the stages that are not finished."""
        plan = self.plan
        choosing = [plan.selection, plan.warmup if self.needs_warmup() else None]
        if any(stage is not None and not stage.is_done() for stage in choosing):
            _ = self._blocks
        if not plan.training.is_done():
            check_probe(self._skeleton(), self._probe)
            _ = self._method

    @cached_property
    def _blocks(self) -> EligibleBlocks:
        """The eligible blocks, checked on the model."""
        return check_blocks(self.config, self._skeleton(), self._probe)

    @cached_property
    def _probe(self) -> Probe:
        """What the architecture of the model allows."""
        return kept_probe(self._skeleton(), self.storage)

    @cached_property
    def _method(self) -> MethodSettings:
        """The settings of the method, checked on the model."""
        selection = self.plan.selection.path(SELECTION) if self.plan.selection else None
        settings = settings_of(self.config)
        return settings.check(self.config, self._skeleton, self._probe, selection)

    def _skeleton(self) -> nn.Module:
        import_transformers()
        return shared_skeleton(self.plan.model, self.plan.identity)

    def check_until(self, until: Until) -> None:
        """Refuses to stop at a stage that the run does not have."""
        stages = self.plan.stages
        if until in ("warmup", "selection") and until not in stages:
            if self.plan.selection is None:
                what = f"method {self.config.method}"
            else:
                what = f"selection.score {self.config.selection.score}"
            has = [stage for stage in UNTIL if stage in stages or stage == "evaluation"]
            raise UserError(
                "--until",
                f"must be one of {', '.join(has)}, because {what} has no {until}",
                got=until,
                fix="leave it out, or choose another method or score",
            )

    def runs_that_need_ray(self, until: Until) -> list[RunConfig]:
        """The config if the run needs Ray: if one of its last stages is not finished."""
        stages = self.plan.last_stages(until).values()
        return [] if all(stage.is_done() for stage in stages) else [self.config]

    def check_resources(self, until: Until) -> None:
        """Refuses ranks that the cluster cannot hold, before the warm-up is computed."""
        if until in ("training", "evaluation") and self.runs_that_need_ray(until):
            rank_resources(self.config)
            if until == "evaluation":
                evaluator_resources(self.config)

    def _stages(self, until: Until) -> None:
        self._warmup(until)
        if self.plan.selection and until != "warmup":
            self._make_or_reuse("selection", lambda: make_selection(self.plan, self._blocks))
        if until in ("warmup", "selection"):
            return
        self._make_or_reuse(
            "training",
            lambda: make_training(self.plan, self._method, self._probe, self.board, self.callbacks),
        )
        if until == "evaluation":
            self._evaluation()

    def _warmup(self, until: Until) -> None:
        stage = self.plan.warmup
        # A finished selection needs no warm-up, but a finished warm-up still belongs to the run.
        if stage and (until == "warmup" or self.needs_warmup() or stage.is_done()):
            make = make_trained_warmup if self.config.trained_warmup else make_warmup
            self._make_or_reuse(
                "warmup", lambda: make(self.plan, self._blocks, self._probe, self.board)
            )

    def _evaluation(self) -> None:
        stages = {evaluation_key(who): (who, s) for who, s in self.plan.evaluations.items()}
        if all(stage.is_done() for _, stage in stages.values()):
            for key in stages:
                self._make_or_reuse(key, None)
            return
        with evaluation_pool(self.config, self.board) as pool:
            for key, (who, _) in stages.items():
                self._make_or_reuse(
                    key, partial(make_evaluation, self.plan, pool, self._probe, who)
                )

    def _make_or_reuse(self, key: str, make: Callable[[], Finished[Any]] | None) -> None:
        """Makes a stage unless it is finished, and adds it to the run's manifest."""
        stage = self.plan.stages[key]
        with turn(stage.name) if self.in_turns and not stage.is_done() else nullcontext():
            reused = stage.verify()
            if not reused:
                assert make is not None
                with memory_explained(stage.kind.name):
                    make()
        seconds = stage.read().seconds
        name = stage_text(key)
        say(
            f"{name}: reused ({stage.name})"
            if reused
            else f"{name}: done in {seconds:.1f} s ({stage.name})"
        )
        self.folder.add_stage(key, stage.name, seconds=seconds, reused=reused)

    def _start_tracking(self) -> TrackedRun:
        name, root = self.folder.name, self.storage.root
        tracked = TrackedRun(self.tracker, f"smt-ray log {name} --storage {root} sends it")
        if self.tracker:
            tracked.start(read_start(self.folder))
        self.board = make_board(tracked.writer)
        return tracked

    def _finish_tracking(self, tracked: TrackedRun, is_whole: bool) -> str | None:
        """Sends the rest of the run; returns the address of its page, if it has one.

        Args:
            is_whole: Whether the run reached its end, so that its model is sent, too.
        """
        if is_whole and self.tracker and self.config.tracking.log_model:
            with merged_or_none(self.folder) as model:
                snapshot = read_snapshot(self.folder, model)
                sent = tracked.finish(snapshot, _MODEL_PATIENCE_S)
        else:
            sent = tracked.finish(read_snapshot(self.folder), _PATIENCE_S)
        if sent is None or not sent.run_id:
            return None
        self.folder.update(tracked={TRACKER: sent.run_id})
        return sent.url
