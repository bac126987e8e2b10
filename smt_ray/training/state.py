"""A checkpoint: trained parameters, Adam's moments and the number of steps, for any ranks.

It holds fp32 tensors by ``<parameter>/param``, ``/exp_avg``, ``/exp_avg_sq``. A large state is
written in shares by several ranks: ``state.safetensors`` is a whole one, and
``state-00001-of-00004.safetensors`` the first of four shares. The file of that name with ``.json``
holds its checksum. ``position.json`` holds the number of steps and of shares. There is no random
state: the order of rows is a function of (seed, epoch), and the randomness of a step is seeded from
(seed, step, rank).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from torch import Tensor

from smt_ray.artifacts.storage import Storage
from smt_ray.documents.checkpoint import Position
from smt_ray.documents.stages import FileDigest
from smt_ray.errors import UserError
from smt_ray.file_rights import save_file
from smt_ray.smt.tensorfile import SavedTensors, share_file

_STATE, _POSITION = "state", "position.json"
_VALUE = "/param"  # ends the name of a parameter's value
_SMALLEST_SHARE = 2**28  # parameters, whose state takes 3 GiB


def share_out(
    sizes: Mapping[str, int], num_ranks: int, smallest: int = _SMALLEST_SHARE
) -> list[list[str]]:
    """Divides parameters among ranks, which save them; a small state is one share, rank 0's.

    Args:
        sizes: The number of elements of each parameter.
        num_ranks: The largest number of shares.
        smallest: The number of elements that a share has at least, besides the last one.
    """
    enough = max(smallest, -(-sum(sizes.values()) // num_ranks))
    shares: list[list[str]] = [[]]
    in_share = 0
    for name, size in sizes.items():
        if in_share >= enough:
            shares.append([])
            in_share = 0
        shares[-1].append(name)
        in_share += size
    return shares


def save_state(
    directory: Path,
    state: Mapping[str, Tensor],
    num_steps: int,
    share: int = 0,
    num_shares: int = 1,
) -> None:
    """Writes a checkpoint, or a share of one, into an existing folder."""
    file = directory / share_file(_STATE, share, num_shares)
    save_file(dict(state), file)
    digest = Storage(str(directory)).digest(file.name)
    (directory / _digest_of(file.name)).write_text(digest.model_dump_json() + "\n")
    if share == 0:
        position = Position(num_steps=num_steps, num_shares=num_shares)
        (directory / _POSITION).write_text(position.model_dump_json() + "\n")


def _digest_of(file: str) -> str:
    return f"{file}.json"


def find_damage(storage: Storage, folder: str) -> str | None:
    """What is wrong with the checkpoint in a folder of a storage; None if it can be used.

    All of its files are read.
    """
    try:
        position = storage.read_document(Position, f"{folder}/{_POSITION}", fix="")
        for share in range(position.num_shares):
            file = f"{folder}/{share_file(_STATE, share, position.num_shares)}"
            expected = storage.read_document(FileDigest, _digest_of(file), fix="")
            if storage.digest(file) != expected:
                return f"{file.rpartition('/')[2]} was truncated or edited"
    except (UserError, FileNotFoundError) as error:
        return " ".join(str(error).split())
    return None


def checkpoint_name(num_steps: int) -> str:
    """The name of the folder of a checkpoint."""
    return f"step-{num_steps:07d}"


def is_checkpoint(folder: str) -> bool:
    """Whether a folder has the name of a checkpoint."""
    return bool(re.fullmatch(r"step-\d{7,}", folder))


def load_parameters(directory: Path) -> SavedTensors:
    """The trained parameters of a checkpoint by name, without Adam's moments.

    Raises:
        UserError: The checkpoint is damaged.
    """
    return _load(directory, _VALUE)[0]


def load_state(directory: Path) -> tuple[SavedTensors, int]:
    """The tensors and the number of steps of a checkpoint.

    Raises:
        UserError: The checkpoint is damaged.
    """
    return _load(directory, "")


def _load(directory: Path, suffix: str) -> tuple[SavedTensors, int]:
    try:
        position = Position.from_json(
            json.loads((directory / _POSITION).read_text()), place=_POSITION
        )
        number = position.num_shares
        # Others may be left of an attempt with another number of ranks.
        files = [directory / share_file(_STATE, share, number) for share in range(number)]
        return SavedTensors(files, suffix), position.num_steps
    except (OSError, ValueError, RecursionError, SafetensorError) as error:
        raise UserError(
            str(directory), f"the checkpoint cannot be read ({error})", fix="delete its folder"
        ) from None
