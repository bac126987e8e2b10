"""The tuner: it puts the layers into a model, after checks that leave the model unchanged."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTuner
from torch import Tensor, nn

from smt_ray.errors import UserError
from smt_ray.peft.config import SmtConfig
from smt_ray.peft.layer import SmtLayer
from smt_ray.smt.base_identity import (
    blocks_sha256,
    config_sha256,
    has_other_config,
    name_or_path,
    other_base,
)
from smt_ray.smt.linears import is_plain_linear
from smt_ray.smt.model import check_untied, share_inputs

_COMPARED = (torch.bfloat16, torch.float32, torch.float64)


class SmtModel(BaseTuner):
    """A model whose chosen blocks are tuned; ``get_peft_model`` makes it from ``SmtConfig``."""

    prefix = "smt_"
    tuner_layer_cls = SmtLayer
    target_module_mapping: dict[str, list[str]] = {}  # noqa: RUF012  # as peft declares it

    def inject_adapter(
        self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any
    ) -> None:
        """Puts an adapter into a model, in place.

        Raises:
            UserError: A module is missing, ambiguous, no linear, of another shape or tied, or the
                base model is another one. The model is then unchanged.
        """
        super().inject_adapter(model, adapter_name, *args, **kwargs)
        share_inputs(
            {
                name: layer.delta(adapter_name)
                for name, layer in _layers(model, adapter_name).items()
            }
        )

    @contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        # peft would drop this argument without a word, and compute with the active adapters.
        if kwargs.get("adapter_names") is not None:
            raise UserError(
                "adapter_names",
                "is not supported by sparse matrix tuning",
                got=kwargs["adapter_names"],
                fix="choose one adapter for the batch, by set_adapter",
            )
        yield

    @staticmethod
    def _check_target_module_exists(peft_config: Any, key: str) -> bool:
        return peft_config.find(key) is not None

    def _prepare_adapter_config(self, peft_config: Any, model_config: Any) -> Any:
        return peft_config  # it names its modules itself

    def _prepare_model(self, peft_config: Any, model: nn.Module) -> None:
        self._layers = _find_layers(model, peft_config)
        originals: dict[str, Tensor] = {}
        for key, layer in self._layers.items():
            name = _name_of(peft_config, key)
            if layer.shape != peft_config.shapes[name]:
                rule = f"must have the shape {peft_config.shapes[name]}"
                raise _misfit(key, rule, layer.shape)
            indices = peft_config.indices(name)
            originals[name] = layer.read_blocks(indices, peft_config.block_size)
        quantised = any(layer.quantization_backend for layer in self._layers.values())
        is_exact = not quantised and all(b.dtype in _COMPARED for b in originals.values())
        _check_base(model, peft_config, originals if is_exact else None)
        self._originals = originals

    def _create_and_replace(
        self,
        peft_config: Any,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        layer = self._layers[current_key]
        name = _name_of(peft_config, current_key)
        base_blocks, indices = self._originals.pop(name), peft_config.indices(name)
        layer.add_adapter(adapter_name, base_blocks, indices, peft_config.dtype)
        layer.set_adapter(self.active_adapters, inference_mode=peft_config.inference_mode)
        if layer is not target:
            self._replace_module(parent, target_name, layer, target)

    @classmethod
    def _remap_adapter_state_dict_for_load(
        cls, model: nn.Module, config: Any, adapter_name: str, state_dict: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        remapped: dict[str, Tensor] = super()._remap_adapter_state_dict_for_load(
            model, config, adapter_name, state_dict
        )
        for name in _layers(model, adapter_name):
            if f"{name}.smt_delta.{adapter_name}.blocks" not in remapped:
                raise UserError(
                    "adapter", f"must hold the blocks of every module; those of {name} are missing",
                    fix="copy the adapter's files again",
                )  # fmt: skip
        return remapped


def _find_layers(model: nn.Module, config: SmtConfig) -> dict[str, SmtLayer]:
    """The layers of a config's modules, new ones for linears without one, by the model's names."""
    found = {
        name: module
        for name, module in model.named_modules()
        if config.find(name) is not None and ".base_layer" not in name
    }
    for wanted in config.modules:
        names = [name for name in found if config.find(name) == wanted]
        if len(names) != 1:
            raise UserError(
                f"module {wanted}",
                "must be in the model, once",
                got=names or "no such module",
                fix="select blocks on this model",
            )
    for name, module in found.items():
        if not isinstance(module, SmtLayer) and not _is_linear(module):
            raise _misfit(name, "must be a plain or quantised linear", type(module).__name__)
    plain = {n: m for n, m in found.items() if not isinstance(m, SmtLayer)}
    check_untied(model, plain, field="SmtConfig.modules")
    return {n: m if isinstance(m, SmtLayer) else SmtLayer(m) for n, m in found.items()}


def _is_linear(module: nn.Module) -> bool:
    backend = SmtLayer(module).quantization_backend
    return is_plain_linear(module) if backend is None else backend.layer_type == "linear"


def _check_base(model: nn.Module, config: SmtConfig, originals: dict[str, Tensor] | None) -> None:
    """Compares the base model with the one of a config, and records it if there is none yet.

    Args:
        model: The base model.
        config: The config, whose ``base`` is set if it is empty.
        originals: The base model's own values at the blocks; None if they are rounded.
    """
    if not config.base:
        config.base = {
            "config_sha256": config_sha256(getattr(model, "config", None)),
            "blocks_sha256": None if originals is None else blocks_sha256(originals),
        }
        config.base_model_name_or_path = config.base_model_name_or_path or name_or_path(model)
    expected, difference = config.base["blocks_sha256"], None
    if has_other_config(model, config.base["config_sha256"]):
        difference = "config"
    elif originals is not None and expected not in (None, blocks_sha256(originals)):
        difference = "weight at the adapter's blocks"
    if difference and config.check_base:
        raise other_base(model, "adapter", difference, config.base_model_name_or_path)


def _layers(model: nn.Module, adapter_name: str) -> dict[str, SmtLayer]:
    """The layers of an adapter by name."""
    layers = {n: m for n, m in model.named_modules() if isinstance(m, SmtLayer)}
    return {name: layer for name, layer in layers.items() if adapter_name in layer.smt_delta}


def _name_of(config: SmtConfig, key: str) -> str:
    name = config.find(key)
    assert name is not None
    return name


def _misfit(name: str, rule: str, got: Any) -> UserError:
    return UserError(f"module {name}", rule, got=got, fix="select blocks on this model")
