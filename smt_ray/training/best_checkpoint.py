"""The checkpoint with the lowest validation loss, which has its own folder."""

from __future__ import annotations

import math
from pathlib import Path

from smt_ray.artifacts.storage import Storage
from smt_ray.documents.checkpoint import Validated

_RECORD = "validated.json"


class BestCheckpoint:
    """Copies a checkpoint if it is better than all before it, for one writer.

    Ray Train only keeps the latest checkpoints. It could keep the best ones instead, but not the
    latest and the best, and it does not restart if somebody else deleted one that it knows of.

    Args:
        storage: The storage of the folder.
        folder: The folder, within the storage; it may hold the checkpoint of an earlier attempt.

    Raises:
        UserError: The record of the earlier attempt is damaged.
    """

    def __init__(self, storage: Storage, folder: str) -> None:
        self._storage, self._folder = storage, folder
        self._loss = self._earlier_loss()

    def offer(self, checkpoint: Path, num_steps: int, loss: float | None) -> None:
        """Copies a checkpoint if its loss is lower than that of every earlier one.

        It must be called before a run can resume from the checkpoint. A run that is interrupted in
        between then repeats the step and offers the checkpoint again.

        Args:
            checkpoint: A local folder of files.
            num_steps: The number of finished optimizer steps.
            loss: The validation loss of the last step; None if that step was not validated.
        """
        if loss is None or not loss < self._loss:
            return
        # The largest file comes first: until it is replaced, the previous best is complete.
        for file in sorted(checkpoint.iterdir(), key=lambda file: -file.stat().st_size):
            self._storage.put_file(file, f"{self._folder}/{file.name}")
        validated = Validated(num_steps=num_steps, loss=loss)
        self._storage.write_json(f"{self._folder}/{_RECORD}", validated.to_json())
        self._loss = loss

    def _earlier_loss(self) -> float:
        record = f"{self._folder}/{_RECORD}"
        if not self._storage.exists(record):
            return math.inf
        fix = f"delete {self._storage.uri(self._folder)}: the next best checkpoint replaces it"
        return self._storage.read_document(Validated, record, fix=fix).loss
