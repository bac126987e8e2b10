"""The writing of tuned weights as a plain model folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from smt_ray.config.model import ModelConfig
from smt_ray.file_rights import give_usual_rights
from smt_ray.models.load import load_model, read_tokenizer


def save_model(base: ModelConfig, parameters: Mapping[str, torch.Tensor], directory: Path) -> None:
    """Writes a base model with other parameters, in the form that ``from_pretrained`` loads.

    Args:
        base: The ``model`` section of the base model.
        parameters: All parameters by the model's names, tied ones once; they are written in the
            dtype of the base model.
        directory: The folder, which gets the tokenizer, too.
    """
    model: Any = load_model(base)
    ours = dict(model.named_parameters())
    assert ours.keys() == parameters.keys(), ours.keys() ^ parameters.keys()
    for name, parameter in ours.items():
        parameter.data.copy_(parameters[name])
    model.save_pretrained(directory)
    read_tokenizer(base).save_pretrained(directory)
    give_usual_rights(directory)
