"""The flow of a run: each stage once, in order, skipped where it is finished."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import ray
import ray.train

from smt_ray.artifacts.runs import RunFolder
from smt_ray.artifacts.stages import Stage
from smt_ray.cluster.nodes import cluster_nodes, ray_for
from smt_ray.cluster.resources import ProcessResources, plan_processes
from smt_ray.cluster.shared_places import check_shared
from smt_ray.cluster.waiting import wait_for_place
from smt_ray.config.run import RunConfig
from smt_ray.data.batches import StepPlan
from smt_ray.data.cache import FILE as TOKENS
from smt_ray.errors import UserError
from smt_ray.imports import large_imports
from smt_ray.methods.blocks import Preflight, check_lora, check_model, skeleton_of
from smt_ray.models.load import import_transformers
from smt_ray.reporting.text.progress import progress, say
from smt_ray.run import record as run_record
from smt_ray.run.report import try_to_write_report
from smt_ray.run.tracking import RunTracking
from smt_ray.stages.evaluation import evaluation_pool, publish_predictions
from smt_ray.stages.plan import MODEL, RunPlan, make_plan
from smt_ray.stages.rank import PROGRESS as TRAINING
from smt_ray.stages.tokens import make_tokens
from smt_ray.stages.trained_warmup import run_trained_warmup
from smt_ray.stages.training import ADAPTER, METRICS, fit, training_job
from smt_ray.stages.warmup import (
    PROGRESS,
    SELECTION,
    TABLE,
    launch_selection,
    run_warmup,
    selection_job,
    warmup_job,
)
from smt_ray.tracking.protocol import Status
from smt_ray.training.metrics_log import write_records

UNTIL = ("warmup", "selection", "training", "evaluation")


def run(config: RunConfig, until: str = "evaluation") -> dict[str, Any]:
    """Carries out a run, from rows to metrics.

    Args:
        config: The run's configuration.
        until: The last stage to carry out, one of ``UNTIL``.

    Returns:
        What ``runs/<name>/metrics.json`` holds.

    Raises:
        UserError: Bad input. Finished stages stay; the same run goes on from them.
    """
    return Flow(config).run(until)


class Flow:
    """One run under way.

    Args:
        config: The run's configuration.
        parent_run_id: MLflow's id of the comparison or search that it is part of.
        callbacks: Ray Train's, of its training.
    """

    def __init__(
        self,
        config: RunConfig,
        parent_run_id: str | None = None,
        callbacks: Sequence[ray.train.UserCallback] = (),
    ) -> None:
        self.config, self.parent_run_id, self.callbacks = config, parent_run_id, callbacks
        self.plan: RunPlan = make_plan(config)
        self.storage = self.plan.storage
        self.storage.check_writable()
        self.folder = RunFolder(self.storage, config.name)
        self.tracking = RunTracking(self.folder, config)
        self.began = time.monotonic()
        self.board: Any = None  # until it is started

    def run(self, until: str) -> dict[str, Any]:
        """See :func:`run`."""
        self._check_until(until)
        self.check()
        run_record.begin(self.folder, self.plan)
        if self.parent_run_id:
            self.folder.update(mlflow_parent_run_id=self.parent_run_id)
        status: Status = "FAILED"
        try:
            self._tokens()
            with ray_for(self._asking(until)):
                check_shared(self.config)
                self.board = self.tracking.start()
                try:
                    self._check_resources(until)
                    self._stages(until)
                    metrics = run_record.finish(self.folder, self.plan, self._seconds())
                    status = "FINISHED"
                except KeyboardInterrupt:
                    status = "KILLED"
                    raise
                finally:
                    run_record.end(self.folder, status)
                    if status == "FINISHED":  # before tracking reads what there is to send
                        try_to_write_report(self.folder)
                    self.tracking.finish()
            return run_record.add_page(self.folder, metrics, self.tracking.page)
        finally:
            if status == "FAILED":
                run_record.end(self.folder, status)

    def _check_until(self, until: str) -> None:
        """Refuses to stop at a stage that the run has not."""
        config, plan = self.config, self.plan
        without = {"warmup": plan.warmup is None, "selection": plan.selection is None}
        if without.get(until):
            if plan.selection is None:
                what = f"method {config.method}"
            else:
                what = f"selection.score {config.selection.score}"
            raise UserError(
                "--until",
                f"{what} has no {until}: must be one of"
                f" {', '.join(stage for stage in UNTIL if not without.get(stage))}",
                got=until,
                fix="leave it out, or choose another method or score",
            )

    def _asking(self, until: str) -> list[RunConfig]:
        """The run, where anything of it is still to be made."""
        if until in ("warmup", "selection"):
            unfinished = self.plan.stages[until].manifest() is None
        else:
            unfinished = bool(self.plan.unfinished())
        return [self.config] if unfinished else []

    def _stages(self, until: str) -> None:
        if self.plan.warmup:
            self._make_or_reuse_warmup(until)
        if self.plan.selection and until != "warmup":
            self._once("selection", self.plan.selection, self._make_selection)
        if until in ("warmup", "selection"):
            return
        self._training()
        if until == "evaluation":
            self._evaluation()

    def _seconds(self) -> float:
        return round(time.monotonic() - self.began, 1)

    def _once(self, kind: str, stage: Stage, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """A stage's manifest: the one there is, or what making the stage gives."""
        manifest = stage.manifest()
        reused = manifest is not None
        if manifest is None:
            manifest = make()
        say(
            f"{kind}: finished before, reused ({stage.name})"
            if reused
            else f"{kind}: done in {manifest['seconds']:.1f} s ({stage.name})"
        )
        self.folder.add_stage(kind, stage.name, seconds=manifest["seconds"], reused=reused)
        return manifest

    def _tokens(self) -> None:
        self._once("tokens", self.plan.tokens, lambda: make_tokens(self.plan))

    def check(self) -> None:
        """Refuses what cannot work before Ray is started or anything long is done."""
        plan = self.plan
        choosing = [plan.selection] if plan.selection else []
        if plan.warmup and self.needs_warmup():
            choosing.append(plan.warmup)
        if None in [stage.manifest() for stage in choosing]:
            _ = self._preflight
        if plan.trained.manifest() is None:
            _ = self._method_settings
        for stage in (plan.tokens, plan.trained, *plan.evaluations.values(), *choosing):
            stage.manifest()  # raises where an artifact is no longer whole

    @cached_property
    def _preflight(self) -> Preflight:
        """What the model makes of the config."""
        with large_imports():
            import_transformers()
        return check_model(self.config, skeleton_of(self.plan))

    @cached_property
    def _method_settings(self) -> dict[str, Any]:
        """What the method trains with, as plain values; checked on the model before it is used."""
        if self.config.method in ("lora", "dora"):
            return check_lora(self.config, skeleton_of(self.plan))
        return {"selection": self.plan.selection.path(SELECTION)} if self.plan.selection else {}

    def _check_resources(self, until: str) -> None:
        """Refuses what the cluster cannot hold before a warm-up is spent on it."""
        if until in ("training", "evaluation") and self.plan.unfinished():
            self._worker_resources()

    def _worker_resources(self) -> ProcessResources:
        """What each of the ranks, or of the evaluation workers, gets."""
        resources = self.config.resources
        return plan_processes(
            resources, resources.num_workers, cluster_nodes(), "resources.num_workers"
        )

    def needs_warmup(self) -> bool:
        """Whether what comes after the warm-up cannot do without it."""
        assert self.plan.selection is not None
        # What a warm-up kept is what adapters are put on.
        return self.config.trained_warmup or self.plan.selection.manifest() is None

    def _make_or_reuse_warmup(self, until: str) -> None:
        assert self.plan.warmup is not None
        # A selection needs no warm-up any more, but one that is there is still the run's.
        if until == "warmup" or self.needs_warmup() or self.plan.warmup.manifest() is not None:
            trained = self.config.trained_warmup
            make = self._make_trained_warmup if trained else self._make_warmup
            self._once("warmup", self.plan.warmup, make)

    def _make_warmup(self) -> dict[str, Any]:
        began, warmup, config = time.monotonic(), self.config.warmup, self.config
        stage = self.plan.warmup
        assert stage is not None
        # Shards can take turns: one at a time is enough.
        resources = plan_processes(
            config.resources, 1, cluster_nodes(), "warmup.num_shards",
            gpus_each=warmup.gpus_per_shard,
        )  # fmt: skip
        wait_for_place("warmup", 1, resources, config.resources.wait_timeout_s)
        job = warmup_job(self.plan, self._preflight, resources)
        modules = list(self._preflight.shapes)
        with progress("warm-up", warmup.num_steps, lambda: self._done(PROGRESS)):
            summary = run_warmup(job, modules, resources, self.board)
        starts = ray.get(self.board.starts.remote(PROGRESS))
        summary["attempts"] = {str(shard): len(pids) for shard, pids in sorted(starts.items())}
        for shard, pids in sorted(starts.items()):
            if len(pids) > 1:
                say(f"warmup: shard {shard} was lost and run again ({len(pids)} attempts)")
        records = ray.get(self.board.measured.remote(PROGRESS))
        write_records(self.storage, stage.path(METRICS), records)
        return stage.publish([TABLE, METRICS], summary, time.monotonic() - began)

    def _make_trained_warmup(self) -> dict[str, Any]:
        began, stage, num_steps = time.monotonic(), self.plan.warmup, self.config.warmup.num_steps
        assert stage is not None
        resources, preflight = self._worker_resources(), self._preflight
        with progress("warm-up", num_steps, lambda: self._done(PROGRESS)):
            summary = run_trained_warmup(self.plan, preflight, resources, self.board)
        self._say_how("warmup", summary)
        files = [f"{MODEL}/{file}" for file in self.storage.list_files(stage.path(MODEL))]
        return stage.publish([TABLE, METRICS, *files], summary, time.monotonic() - began)

    def _done(self, task: str) -> tuple[int, str]:
        done: tuple[int, str] = ray.get(self.board.done.remote(task))
        return done

    def _make_selection(self) -> dict[str, Any]:
        began, stage = time.monotonic(), self.plan.selection
        assert stage is not None
        job = selection_job(self.plan, stage, self._preflight)
        summary = ray.get(launch_selection(job))
        say(summary["summary"])
        return stage.publish([SELECTION, "selection.png"], summary, time.monotonic() - began)

    def _training(self) -> None:
        self._once("training", self.plan.trained, self._make_training)

    def _make_training(self) -> dict[str, Any]:
        began, stage, config = time.monotonic(), self.plan.trained, self.config
        resources, method = self._worker_resources(), self._method_settings
        tokens = self.plan.tokens.manifest()
        assert tokens is not None
        num_rows = tokens["summary"]["training"]["num_rows"]
        steps = StepPlan(num_rows, config.training.batch_size, config.seed)
        num_steps = steps.num_steps(config.training.num_epochs, config.training.max_steps)
        job = training_job(
            config,
            stage,
            tokens=self.plan.tokens.path(TOKENS),
            model=self.plan.starting_model,
            method=method,
            num_steps=num_steps,
            resources=resources,
        )
        with progress("training", num_steps, lambda: self._done(TRAINING)):
            outcome = fit(config, job, stage, resources, self.board, callbacks=self.callbacks)
        self._say_how("training", outcome)
        files = [METRICS] + [f"{ADAPTER}/{f}" for f in self.storage.list_files(stage.path(ADAPTER))]
        summary = {
            "num_steps": num_steps,
            "num_ranks": config.resources.num_workers,
            "zero_stage": config.deepspeed.zero_stage,
            "dtype": config.model.dtype,
            **({"starts_from": self.plan.warmup.path(MODEL)} if config.trained_warmup else {}),
            **({"lora": method} if "rank" in method else {}),
            **outcome,
        }
        return stage.publish(files, summary, time.monotonic() - began)

    def _say_how(self, kind: str, outcome: dict[str, Any]) -> None:
        """What is worth a line of how a training went; what is said need not be kept."""
        if outcome["resumed_from"]:
            say(f"{kind}: went on from the checkpoint of step {outcome['resumed_from']}")
        if reason := outcome.pop("batching_fallback"):
            say(f"{kind}: not {self.config.batching.mode}, but {outcome['batching']}: {reason}")

    def _evaluation(self) -> None:
        wanted = self.plan.evaluations
        missing = {name: stage for name, stage in wanted.items() if stage.manifest() is None}
        if not missing:
            for name, stage in wanted.items():
                self._once(f"evaluation of {name}", stage, dict)
            return
        with evaluation_pool(self.config, self.board) as pool:
            for name, stage in wanted.items():
                self._once(
                    f"evaluation of {name}", stage, lambda n=name, s=stage: self._ask(pool, n, s)
                )

    def _ask(self, pool: Any, name: str, stage: Stage) -> dict[str, Any]:
        began = time.monotonic()
        protocol = stage.inputs["protocol"]
        model, adapter = self.plan.model, None
        if name in ("tuned", "tuned_likelihood"):
            model = self.plan.starting_model
            adapter = self.storage.uri(self.plan.trained.path(ADAPTER))
        predictions = pool.evaluate(
            f"evaluate {name}", self.plan.tasks, protocol=protocol, model=model, adapter=adapter
        )
        return publish_predictions(stage, protocol, predictions, time.monotonic() - began)
