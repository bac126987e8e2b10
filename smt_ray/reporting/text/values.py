"""Values as text: numbers, settings, and values that are not known."""

from __future__ import annotations

import math
from collections.abc import Mapping

from smt_ray.documents.run import BlockShape

MISSING = "-"
"""The text of a value that is not known."""

STARTS_FROM = "starts from"
"""The name of the fact which adapter a training started from."""


def stage_text(key: str) -> str:
    """The name of a stage, from its key in the documents of a run.

    >>> [stage_text(key) for key in ("training", "evaluation_base_likelihood")]
    ['training', 'evaluation of base by likelihood']
    """
    kind, _, who = key.partition("_")
    return f"{kind} of {who.replace('_', ' by ')}" if who else kind


def blocks_label(shape: BlockShape) -> str:
    """What was selected, in the plural."""
    return "blocks" if shape == "square" else f"{shape}s"


def blocks_text(number: str, shape: BlockShape, size: int | None) -> str:
    """A number of selected blocks, columns or elements.

    >>> [blocks_text("144", "square", 16), blocks_text("36,864", "element", 1)]
    ['144 of 16 x 16', '36,864']
    """
    if shape != "square":
        return number
    side = "?" if size is None else size
    return f"{number} of {side} x {side}"


def number_text(value: float | None, template: str, factor: int = 1) -> str:
    """A number by a format template; ``MISSING`` for None and for NaN or infinity.

    >>> number_text(0.125, "{:.1f}", 100)
    '12.5'
    """
    if value is None or not math.isfinite(value):
        return MISSING
    return template.format(value * factor)


def value_text(value: object) -> str:
    """The value of a setting; floats have four digits.

    >>> [value_text(value) for value in (0.0012345, 8, None, ["k_proj", "v_proj"])]
    ['0.001234', '8', 'none', 'k_proj + v_proj']
    """
    if isinstance(value, Mapping):
        return " + ".join(f"{key} {value_text(part)}" for key, part in value.items())
    if isinstance(value, (list, tuple)):
        return " + ".join(map(value_text, value))
    if isinstance(value, float):
        return f"{value:.4g}"
    return "none" if value is None else str(value)


def settings_text(settings: Mapping[str, object]) -> str:
    """Settings in one line.

    >>> settings_text({"selection.budget": 0.05, "selection.target_modules": ["k_proj", "v_proj"]})
    'selection.budget 0.05, selection.target_modules k_proj + v_proj'
    """
    return ", ".join(f"{key} {value_text(value)}" for key, value in settings.items())


def method_facts(settings: Mapping[str, object]) -> list[tuple[str, str]]:
    """(name, text) pairs: the adapter that a training started from, and the method's own settings.

    >>> method_facts({"rank": 8, "alpha": 16, "target_modules": ["q_proj", "v_proj"]})
    [('starts from', ''), ('factors', 'rank 8, alpha 16, of q_proj + v_proj')]
    """
    apart = ("target_modules", "init_adapter")
    others = settings_text({key: value for key, value in settings.items() if key not in apart})
    modules = settings.get("target_modules")
    factors = [others, f"of {value_text(modules)}" if modules else ""]
    return [
        (STARTS_FROM, str(settings.get("init_adapter", ""))),
        ("factors", ", ".join(filter(None, factors))),
    ]
