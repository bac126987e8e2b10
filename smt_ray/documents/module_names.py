"""The layer and the projection of a module, from its name."""

from __future__ import annotations

import re


def parse_module_name(name: str) -> tuple[int | None, str]:
    """The layer number and the projection of a module.

    >>> parse_module_name("model.layers.12.self_attn.v_proj")
    (12, 'v_proj')
    >>> parse_module_name("lm_head")
    (None, 'lm_head')
    """
    number = re.search(r"(?:^|\.)(\d+)(?=\.)", name)
    return int(number.group(1)) if number else None, name.rpartition(".")[2]
