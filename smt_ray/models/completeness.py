"""Whether the files of a model hold its weights: transformers would initialise missing ones."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from torch import nn

from smt_ray.errors import UserError

# Buffers that older versions of transformers saved.
_OLD_BUFFERS = re.compile(r"(inv_freq|masked_bias|position_ids|attn\.bias|attention\.bias)$")
_MOST_NAMED = 2


def check_complete(place: str, model: nn.Module, found: Mapping[str, Any]) -> None:
    """Refuses a model whose weights are not those of its files. Buffers do not count.

    Args:
        place: The folder or hub name of the model.
        model: The loaded model.
        found: What ``from_pretrained`` reports; tied weights are not missing there.

    Raises:
        UserError: A weight is missing, has another shape, or belongs to nothing in the model.
    """
    parameters = {name for name, _ in model.named_parameters()}
    wrong = {
        "missing": {name for name in found["missing_keys"] if name in parameters},
        "of another shape": {name for name, *_ in found["mismatched_keys"]},
        "not part of the model": {
            name for name in found["unexpected_keys"] if not _OLD_BUFFERS.search(name)
        },
    }
    named = [f"{what}: {_listed(names)}" for what, names in wrong.items() if names]
    if named:
        raise UserError(
            "model",
            "the weights in its files must be those of the architecture in its config.json",
            got=f"{'; '.join(named)} in {place}",
            fix="download the model again, or use the config.json that belongs to these weights",
        )


def _listed(names: Collection[str]) -> str:
    first = sorted(names)[:_MOST_NAMED]
    more = len(names) - len(first)
    return ", ".join(first) + (f" and {more} others" if more else "")
