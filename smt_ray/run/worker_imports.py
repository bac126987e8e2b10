"""Imports what workers need; the fork server imports it once for all of them."""

from __future__ import annotations

import os
from typing import Any

import ray.actor


class _ActorClassID:
    """Stands for Ray's class while modules define actors.

    Ray's random numbers must not be drawn before a fork, since all forks would go on with the same
    ones, and their tasks and objects would have the same names.
    """

    @staticmethod
    def from_random() -> Any:
        return _ray_actor_class_id(os.urandom(_ray_actor_class_id.size()))


_module: Any = ray.actor
_ray_actor_class_id = _module.ActorClassID
_module.ActorClassID = _ActorClassID
try:
    import ray.train.torch
    import ray.tune

    import smt_ray.run.flow
    import smt_ray.stages.evaluator
    import smt_ray.stages.rank
    import smt_ray.stages.rank_warmup
    import smt_ray.stages.warmup_tasks
    import smt_ray.training.worker_imports  # noqa: F401
finally:
    _module.ActorClassID = _ray_actor_class_id
