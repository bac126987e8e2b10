"""SMT on a quantised base model: the blocks are trained beside the weights, in the delta form."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from smt_ray.smt.adapter_files import SavedAdapter, read_adapter, write_adapter
from smt_ray.smt.base_identity import has_other_config, other_base
from smt_ray.smt.selection import Selection

_NAME = "default"  # peft's name of a single adapter


def prepare_delta(model: nn.Module, selection: Selection) -> None:
    """Puts the tuner's layers into a model, in place, and freezes everything else."""
    from peft import get_peft_model

    from smt_ray.peft import SmtConfig

    is_training, task = model.training, _task_type(model)
    get_peft_model(model, SmtConfig.from_selection(selection, task_type=task))
    model.train(is_training)


def save_delta(model: nn.Module, parameters: Mapping[str, Tensor], directory: Path) -> None:
    """Writes the blocks of a prepared model.

    Args:
        model: The prepared model.
        parameters: The trained parameters on the CPU, by their names in the model.
        directory: The folder of the adapter.
    """
    from smt_ray.peft import SmtConfig, SmtLayer

    config = model.peft_config[_NAME]  # type: ignore[index]
    assert isinstance(config, SmtConfig)
    layers = {name: m for name, m in model.named_modules() if isinstance(m, SmtLayer)}
    adapter = SavedAdapter(
        block_size=config.block_size,
        shapes={name: layer.shape for name, layer in layers.items()},
        indices={name: layer.delta(_NAME).layout.dense_indices for name, layer in layers.items()},
        blocks={name: parameters[f"{name}.smt_delta.{_NAME}.blocks"] for name in layers},
        origin=config.selection,
        base_name=config.base_model_name_or_path,
        config_sha256=config.base["config_sha256"],
        blocks_sha256=config.base["blocks_sha256"],
        task_type=_task_type(model),
    )
    write_adapter(adapter, directory)


def load_delta(model: nn.Module, directory: Path, *, trainable: bool = False) -> None:
    """Puts a saved adapter beside the weights of a quantised model.

    Args:
        model: The quantised model.
        directory: The folder of the adapter.
        trainable: Whether the blocks are trainable; otherwise they are frozen, too.

    Raises:
        UserError: The adapter is damaged, or the model has another architecture.
    """
    from peft import get_peft_model

    from smt_ray.peft import SmtConfig, SmtLayer

    adapter = read_adapter(directory)
    if has_other_config(model, adapter.config_sha256):
        raise other_base(model, directory, "config", adapter.base_name)
    config = SmtConfig.from_adapter(directory, inference_mode=True)
    is_training = model.training
    get_peft_model(model, config)
    model.requires_grad_(False).train(is_training)
    for name, layer in model.named_modules():
        if isinstance(layer, SmtLayer):
            blocks = layer.delta(_NAME).blocks
            blocks.data.copy_(adapter.blocks[name])
            blocks.requires_grad_(trainable)


def _task_type(model: nn.Module) -> str | None:
    return "CAUSAL_LM" if hasattr(model, "prepare_inputs_for_generation") else None
