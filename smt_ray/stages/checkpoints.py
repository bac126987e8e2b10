"""The checkpoints of a stage: which are kept, and which of them a training can resume from.

Ray Train keeps a list of them in a file. It refuses to start if the list or a checkpoint is gone,
and does not look into checkpoints.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import ray
import ray.train
from ray.train.v2._internal.constants import CHECKPOINT_MANAGER_SNAPSHOT_FILENAME
from ray.train.v2._internal.execution.checkpoint.checkpoint_manager import _CheckpointManagerState

from smt_ray.artifacts.layout import BEST_STEP, CHECKPOINTS
from smt_ray.artifacts.stages import Stage
from smt_ray.documents.checkpoint import BestStep
from smt_ray.errors import UserError
from smt_ray.reporting.text.progress import say
from smt_ray.training.best_step import SCORE, checkpoint_score
from smt_ray.training.state import checkpoint_name, find_damage, is_checkpoint

_LIST = f"{CHECKPOINTS}/{CHECKPOINT_MANAGER_SNAPSHOT_FILENAME}"


def kept_checkpoints(number: int) -> ray.train.CheckpointConfig:
    """The latest checkpoint and those with the lowest validation losses.

    Checkpoints of steps that are not validated come after all others, the later ones first.
    """
    return ray.train.CheckpointConfig(
        num_to_keep=number, checkpoint_score_attribute=SCORE, checkpoint_score_order="max"
    )


def forget_checkpoints(stage: Stage[Any]) -> None:
    """Deletes the checkpoints of a finished stage, from which nothing resumes any more."""
    stage.storage.delete_folder(stage.path(CHECKPOINTS))


def check_checkpoints(stage: Stage[Any]) -> None:
    """Deletes checkpoints that cannot be used, so that the one before them is the latest.

    Their files are compared with their checksums.
    """
    folder = stage.path(CHECKPOINTS)
    if not stage.storage.exists(folder):
        return
    known = _read_list(stage)
    damages = {name: find_damage(stage.storage, f"{folder}/{name}") for name in known.names}
    unusable = {name: damage for name, damage in damages.items() if damage}
    for name, damage in unusable.items():
        say(f"{stage.kind.name}: the checkpoint {name} cannot be used: {damage}")
        stage.storage.delete_folder(f"{folder}/{name}")
    if unusable or known.is_new:
        stage.storage.write_json(stage.path(_LIST), known.without(unusable))
    _check_best(stage, damages.keys() - unusable)


def _read_list(stage: Stage[Any]) -> _List:
    """Ray Train's list; if it cannot be read, a list of the folders that are there."""
    place = stage.path(_LIST)
    folders = [f for f in stage.storage.list_folders(stage.path(CHECKPOINTS)) if is_checkpoint(f)]
    if stage.storage.exists(place):
        try:
            return _List(stage.storage.read_json(place))
        except (ValueError, RecursionError) as error:
            reason = str(error).splitlines()[0]
            say(f"{stage.kind.name}: the list of checkpoints cannot be read: {reason}")
    return _List.of(folders)


def _check_best(stage: Stage[Any], names: Collection[str]) -> None:
    """Forgets which step was the best one if that cannot be read or its checkpoint is gone."""
    path = stage.path(f"{CHECKPOINTS}/{BEST_STEP}")
    if not stage.storage.exists(path):
        return
    try:
        best = stage.storage.read_document(BestStep, path, fix="")
    except UserError:
        best = None
    if best is None or checkpoint_name(best.num_steps) not in names:
        say(f"{stage.kind.name}: the step with the lowest validation loss so far is lost")
        stage.storage.delete_file(path)


class _List:
    """Ray Train's list of checkpoints.

    Args:
        state: The content of its file.

    Attributes:
        is_new: Whether it is not that of the file.

    Raises:
        ValueError: Ray Train would not accept it.
    """

    def __init__(self, state: dict[str, Any], *, is_new: bool = False) -> None:
        _CheckpointManagerState.parse_obj(state)
        self.is_new = is_new
        self._state = state
        self._results = {r["checkpoint_dir_name"]: r for r in state["checkpoint_results"]}
        self._indices = dict(zip(self._results, state["checkpoint_report_indices"], strict=True))
        latest = state.get("latest_checkpoint_result")
        if latest and latest["checkpoint_dir_name"] not in self._results:
            raise ValueError("the latest checkpoint is not in it")

    @classmethod
    def of(cls, names: Sequence[str]) -> _List:
        """The list of checkpoints of which only the folders are known, in order."""
        results = [
            {"checkpoint_dir_name": name, "metrics": {SCORE: checkpoint_score(None)}}
            for name in sorted(names)
        ]
        state = {
            "ray_version": ray.__version__,
            "checkpoint_results": results,
            "checkpoint_report_indices": list(range(1, len(results) + 1)),
            "latest_checkpoint_result": results[-1] if results else None,
            "pending_training_results": [],
            "pending_validation_specs": [],
            "current_report_index": len(results),
            "validated_checkpoint_dir_names": [],
            "timed_out_validation_checkpoint_dir_names": [],
            "failed_validation_checkpoint_dir_names": [],
        }
        return cls(state, is_new=True)

    @property
    def names(self) -> list[str]:
        """The folders of the checkpoints."""
        return list(self._results)

    def without(self, names: Collection[str]) -> dict[str, Any]:
        """The content of the file without some checkpoints."""
        left = {name: index for name, index in self._indices.items() if name not in names}
        latest = max(left, key=left.__getitem__, default=None)
        return {
            **self._state,
            "checkpoint_results": [self._results[name] for name in left],
            "checkpoint_report_indices": list(left.values()),
            "latest_checkpoint_result": self._results[latest] if latest else None,
        }
