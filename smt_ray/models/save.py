"""Writing tuned weights as a plain model folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from smt_ray.models.load import load_model, load_tokenizer


def save_model(
    spec: dict[str, Any], parameters: Mapping[str, torch.Tensor], directory: Path
) -> None:
    """Writes what ``from_pretrained`` loads: a model like another but for its parameters.

    Args:
        spec: The other model's section (``ModelConfig.spec()``).
        parameters: All parameters by the model's names, tied ones once; written in the model's
            dtype.
        directory: Where to; the tokenizer goes there too.
    """
    model: Any = load_model(spec)
    ours = dict(model.named_parameters())
    assert ours.keys() == parameters.keys(), ours.keys() ^ parameters.keys()
    for name, parameter in ours.items():
        parameter.data.copy_(parameters[name])
    model.save_pretrained(directory)
    load_tokenizer(spec).save_pretrained(directory)
