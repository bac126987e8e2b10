"""The checkpoint with the lowest validation loss, in a folder of its own."""

from __future__ import annotations

import math
from pathlib import Path

from smt_ray.artifacts.storage import Storage

_RECORD = "validated.json"


class BestCheckpoint:
    """Copies a checkpoint that is better than all before it, for one writer.

    The latest ones are Ray Train's to keep. Of scores it knows one a checkpoint, which never
    changes, so that it cannot keep the last few and the best; and it does not start again where
    one that it knows of was deleted by somebody else.

    Args:
        storage: Where the folder lies.
        folder: The folder, within the storage; what an earlier attempt left there counts.
    """

    def __init__(self, storage: Storage, folder: str) -> None:
        self._storage, self._folder = storage, folder
        record = f"{folder}/{_RECORD}"
        self._loss = storage.read_json(record)["loss"] if storage.exists(record) else math.inf

    def offer(self, checkpoint: Path, num_steps: int, loss: float | None) -> None:
        """Copies a checkpoint where its loss is lower than every one offered before.

        To be called before the checkpoint counts as a place to go on from: cut off in between, a
        run does its step again and offers it again.

        Args:
            checkpoint: A local folder of files.
            num_steps: Optimizer steps done.
            loss: Validation loss of that step; None where it was not validated.
        """
        if loss is None or not loss < self._loss:
            return
        # The largest first: until it is up, what was best before is whole.
        for file in sorted(checkpoint.iterdir(), key=lambda file: -file.stat().st_size):
            self._storage.put_file(file, f"{self._folder}/{file.name}")
        self._storage.write_json(
            f"{self._folder}/{_RECORD}", {"num_steps": num_steps, "loss": loss}
        )
        self._loss = loss
