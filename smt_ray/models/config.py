"""The transformers config of a base model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from smt_ray.config.model import ModelConfig
from smt_ray.errors import UserError
from smt_ray.models.place import explained, hub_options, model_place

_OWN_KEYS = {
    "dtype": "set model.dtype",
    "torch_dtype": "set model.dtype",
    "attn_implementation": "set model.attn_implementation",
    "model_type": "set model.path or model.architecture",
}
_COUNTS = ("num_hidden_layers", "num_local_experts", "num_experts", "n_routed_experts")
_LARGEST_COUNT = 10_000  # each has modules of its own, even in a model without weights


def read_config(model: ModelConfig) -> Any:
    """The transformers config of a model.

    Raises:
        UserError: It cannot be found or read.
    """
    from transformers import AutoConfig

    if model.architecture:
        values = dict(model.architecture)
        config = explained(model, lambda: AutoConfig.for_model(values.pop("model_type"), **values))
    else:
        with model_place(model, weights=False) as path:
            config = explained(
                model, lambda: AutoConfig.from_pretrained(path, **hub_options(model))
            )
    _override(config, model.config_overrides)
    _check_counts(config, "model.architecture" if model.architecture else "model")
    return config


def _check_counts(config: Any, field: str) -> None:
    for part in (config, config.get_text_config()):
        for key in _COUNTS:
            count = getattr(part, key, None)
            if isinstance(count, int) and count > _LARGEST_COUNT:
                raise UserError(f"{field}.{key}", f"must be at most {_LARGEST_COUNT:,}", got=count)


def _override(config: Any, values: Mapping[str, Any], parent: str = "") -> None:
    """Replaces values of a config, and of its parts by nested values."""
    for key, value in values.items():
        name = f"{parent}{key}"
        if key in _OWN_KEYS or not hasattr(config, key):
            raise UserError(
                "model.config_overrides",
                "must name keys of the model's config.json"
                + (", and this one has a key of its own" if key in _OWN_KEYS else ""),
                got=name,
                fix=_OWN_KEYS.get(key, "look the key up in config.json"),
            )
        part = getattr(config, key)
        if isinstance(value, Mapping) and hasattr(part, "to_dict"):
            _override(part, value, f"{name}.")
        else:
            setattr(config, key, value)


def model_class(config: Any) -> Any:
    """The auto class of a config: that of causal language models, or of images and text.

    Some multimodal models have no causal language model class. They compute text rows with the same
    inputs and outputs.
    """
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    known = type(config) in AutoModelForCausalLM._model_mapping
    others = type(config) in AutoModelForImageTextToText._model_mapping
    return AutoModelForImageTextToText if others and not known else AutoModelForCausalLM
