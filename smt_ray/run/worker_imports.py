"""Imports what workers need; the fork server imports it once for all of them."""

from __future__ import annotations

import ray.train.torch
import ray.tune  # noqa: F401

import smt_ray.run.flow
import smt_ray.stages.evaluator
import smt_ray.stages.rank
import smt_ray.stages.rank_warmup
import smt_ray.stages.warmup_tasks
import smt_ray.training.worker_imports  # noqa: F401
