"""A checkpoint: trained parameters, Adam's moments and the number of steps, for any ranks.

``state.safetensors`` holds fp32 tensors by ``<parameter>/param``, ``/exp_avg``, ``/exp_avg_sq``;
``position.json`` holds the number of steps. There is no random state: the order of rows is a
function of (seed, epoch), and the randomness of a step is seeded from (seed, step, rank).
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from smt_ray.documents.checkpoint import Position
from smt_ray.errors import UserError

_STATE, _POSITION = "state.safetensors", "position.json"
_VALUE = "/param"  # ends the name of a parameter's value


def save_state(directory: Path, state: dict[str, torch.Tensor], num_steps: int) -> None:
    """Writes a checkpoint into an existing folder."""
    save_file(state, directory / _STATE)
    (directory / _POSITION).write_text(Position(num_steps=num_steps).model_dump_json() + "\n")


def checkpoint_name(num_steps: int) -> str:
    """The name of the folder of a checkpoint."""
    return f"step-{num_steps:07d}"


def load_parameters(directory: Path) -> dict[str, torch.Tensor]:
    """Reads the trained parameters of a checkpoint by name, without Adam's moments.

    Raises:
        UserError: The checkpoint is damaged.
    """
    state, _ = load_state(directory)
    return {n.removesuffix(_VALUE): t for n, t in state.items() if n.endswith(_VALUE)}


def load_state(directory: Path) -> tuple[dict[str, torch.Tensor], int]:
    """Reads the tensors and the number of steps of a checkpoint.

    Raises:
        UserError: The checkpoint is damaged.
    """
    try:
        position = Position.from_json(
            json.loads((directory / _POSITION).read_text()), place=_POSITION
        )
        return load_file(directory / _STATE), position.num_steps
    except (OSError, ValueError, RecursionError, SafetensorError) as error:
        raise UserError(
            str(directory), f"the checkpoint cannot be read ({error})", fix="delete its folder"
        ) from None
