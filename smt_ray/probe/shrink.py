"""A small model of the same architecture: the config with few layers and narrow ones."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from smt_ray.probe.shrink_keys import (
    CHOSEN_EXPERTS,
    DROPPED,
    EXPERTS,
    FAMILIES,
    HEAD_WIDTHS,
    HEADS,
    HIDDEN,
    KEY_HEADS,
    LAYERS,
    POSITIONS,
    SMALL,
    VOCABULARIES,
    WIDE,
    WINDOWS,
)

HIDDEN_SIZE, NUM_HEADS, HEAD_WIDTH, VOCABULARY = 64, 4, 16, 128
WINDOW = 8
"""The number of tokens of windows, chunks and similar bounds, which a longer row crosses."""
LONGEST = 8 * WINDOW
"""The number of tokens that a small model has positions for, at least."""

_FEW_LAYERS, _MAX_LAYERS = 4, 12  # patterns that only numbers describe repeat within 12 layers
_PATTERNS = ("period", "interval", "pattern", "every", "offset", "step", "frequency", "shared")
_PLACEHOLDER = VOCABULARY - 1  # the token id of images and the like, which no row has
_SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_INITIALIZER_RANGE = 0.1


def shrunk(config: Any) -> Any:
    """A config of the same class for a small model.

    What decides the kind of computation stays: the kinds of layers, biases, norms, the kind of
    rotary embedding, dropout. Windows, chunks and similar bounds become :data:`WINDOW` tokens.

    Args:
        config: A transformers config.
    """
    values = _small(copy.deepcopy(config.to_dict()))
    return type(config).from_dict(values)


def _small(values: dict[str, Any], num_heads: int | None = None) -> dict[str, Any]:
    """The small values of a config or of one of its parts.

    Args:
        values: The values.
        num_heads: The number of attention heads, if the part itself does not say it.
    """
    places = _kept_layers(values)
    num_heads = _first(values, HEADS) or num_heads
    small: dict[str, Any] = {}
    for name, value in values.items():
        key = str(name)  # tables by number are among them
        if key in DROPPED:
            continue
        if key == "per_layer_config" and value:
            small[key] = _small_layers(value, places)
        elif key.startswith("rope_") and isinstance(value, Mapping):
            small[key] = _small_rope(dict(value), values)
        elif isinstance(value, Mapping):
            small[key] = _small(dict(value), num_heads)
        elif isinstance(value, (list, tuple, str)):
            small[key] = _small_sequence(key, value, places, _num_layers(values))
        else:
            small[key] = _small_number(key, value, num_heads, places)
    if small.get("num_kv_shared_layers"):
        small["num_kv_shared_layers"] = _num_sharing(small.get("layer_types") or [])
    if values.get("head_dim") and values.get("head_dim") == values.get("qk_rope_head_dim"):
        small["head_dim"] = small["qk_rope_head_dim"]
    return small | FAMILIES.get(str(values.get("model_type")), {})


def _small_number(key: str, value: Any, num_heads: int | None, places: Sequence[int]) -> Any:
    if key.endswith(("token_id", "token_index")):
        return _SPECIAL.get(key, _PLACEHOLDER)
    if key in ("initializer_range", "init_std"):
        return _INITIALIZER_RANGE
    if "multiplier" in key and isinstance(value, float):
        return 1.0  # so that no layer's part in the gradient is too small to be noticed
    if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
        return value  # not set, or a number that says so, such as -1
    if key in POSITIONS:
        return max(value, LONGEST)
    if key in KEY_HEADS and num_heads:
        return NUM_HEADS if value == num_heads else min(value, 2)
    known: dict[str, int] = SMALL | (
        dict.fromkeys(LAYERS, len(places) or min(value, 2))
        | dict.fromkeys(HIDDEN, HIDDEN_SIZE)
        | dict.fromkeys(WIDE, HIDDEN_SIZE)
        | dict.fromkeys(HEADS, NUM_HEADS)
        | dict.fromkeys(HEAD_WIDTHS, HEAD_WIDTH)
        | dict.fromkeys(EXPERTS, 4)
        | dict.fromkeys(CHOSEN_EXPERTS, min(value, 2))
        | dict.fromkeys(WINDOWS, WINDOW)
        | dict.fromkeys(VOCABULARIES, VOCABULARY)
    )
    return known.get(key, value)


def _small_sequence(key: str, value: Any, places: Sequence[int], num_layers: int | None) -> Any:
    if key.endswith("token_ids"):
        return []
    if key.endswith("token_id"):
        return None
    if num_layers and _is_by_layer(key, value, num_layers):
        chosen = [_small_number(key, value[place], None, places) for place in places]
        return "".join(chosen) if isinstance(value, str) else chosen
    if num_layers and _names_layers(key, value, num_layers):
        return [new for new, old in enumerate(places) if old in value]
    if "multiplier" in key:
        return [_small_number(key, v, None, places) for v in value]
    if isinstance(value, list):
        return [_small(dict(v)) if isinstance(v, Mapping) else v for v in value]
    return value


def _small_layers(
    values: Mapping[Any, Mapping[str, Any]], places: Sequence[int]
) -> dict[str, dict[str, Any]]:
    """The values of single layers that differ from those of all, by the number of the layer."""
    wide = dict.fromkeys(HEAD_WIDTHS, 2 * HEAD_WIDTH)
    by_number = {int(number): dict(own) for number, own in values.items()}
    return {
        str(new): _small(by_number[old]) | {k: v for k, v in wide.items() if k in by_number[old]}
        for new, old in enumerate(places)
        if old in by_number
    }


def _num_sharing(kinds: Sequence[str]) -> int:
    """The number of last layers that can use keys and values of layers of their kinds before."""
    return next((n for n in range(1, len(kinds)) if set(kinds[:-n]) == set(kinds[-n:])), 0)


def _small_rope(values: dict[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of rotary embeddings, perhaps by the kind of layer."""
    width = SMALL["qk_rope_head_dim"] if "qk_rope_head_dim" in config else HEAD_WIDTH
    partial = values.get("partial_rotary_factor") or config.get("partial_rotary_factor") or 1.0
    num_frequencies = int(width * partial) // 2
    small: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            small[key] = _small_rope(dict(value), config)
        elif key in ("short_factor", "long_factor"):
            small[key] = value[:num_frequencies]
        elif key == "mrope_section":
            rest = num_frequencies // 3
            small[key] = [num_frequencies - 2 * rest, rest, rest]
        elif key == "original_max_position_embeddings":
            small[key] = 2 * WINDOW
        else:
            small[key] = value
    return small


def _kept_layers(values: Mapping[str, Any]) -> list[int]:
    """The first layers, and those of every kind that is not among them; none without layers."""
    num_layers = _num_layers(values)
    if num_layers is None:
        return []
    kinds = [
        (
            *(str(v[i]) for k, v in values.items() if _is_by_layer(k, v, num_layers)),
            *(i in v for k, v in values.items() if _names_layers(k, v, num_layers)),
        )
        for i in range(num_layers)
    ]
    has_pattern = any(v and any(part in k for part in _PATTERNS) for k, v in values.items())
    kept = list(range(min(num_layers, _MAX_LAYERS if has_pattern else _FEW_LAYERS)))
    kept[-1] = num_layers - 1  # the last layer has hooks of its own
    missing = [kinds.index(kind) for kind in dict.fromkeys(kinds) if kinds.index(kind) not in kept]
    return sorted(
        {
            *kept[: max(0, _MAX_LAYERS - len(missing) - 1)],
            *missing[: _MAX_LAYERS - 1],
            num_layers - 1,
        }
    )


def _num_layers(values: Mapping[str, Any]) -> int | None:
    return _first(values, LAYERS)


def _first(values: Mapping[str, Any], keys: Sequence[str]) -> int | None:
    found = (values[key] for key in keys if isinstance(values.get(key), int))
    return next(found, None)


def _is_by_layer(key: str, value: Any, num_layers: int) -> bool:
    """Whether a value has one entry for each layer."""
    if isinstance(value, str) and "pattern" not in key:
        return False
    if _names_layers(key, value, num_layers):
        return False
    return isinstance(value, (list, tuple, str)) and num_layers > 1 and len(value) == num_layers


def _names_layers(key: str, value: Any, num_layers: int) -> bool:
    """Whether a value is a list of the numbers of layers."""
    named = "layer" in key or "idx" in key or "indices" in key
    return (
        named
        and isinstance(value, (list, tuple))
        and 0 < len(value) <= num_layers
        and all(isinstance(v, int) and not isinstance(v, bool) and v < num_layers for v in value)
        and len(set(value)) == len(value)  # others are marks of each layer
    )
