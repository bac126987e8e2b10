"""Computes the last decoder layer only for supervised positions, those that predict a target.

After the last attention no position depends on another one. So its output projection and its MLP
are only needed for supervised positions, which are a few in a hundred if prompts are not trained
on. Three hooks suffice in a pre-norm layer:

    layer              its input, the residual, is reduced to the supervised positions
    input norm         still gets all positions, because attention needs all keys and values
    output projection  gets the supervised positions of the attention's result
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

KEYWORD = "supervised_positions"  # a keyword of the model's forward, which its layers get too

_MARK = "smt_ray_narrowed"  # an attribute of a layer that has the hooks

# Families whose layer is exactly norm, attention, add, norm, MLP, add, with llama's names.
_FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "gemma", "phi3")


def narrow_last_layer(model: nn.Module) -> bool:
    """Registers the hooks, if the model's family is known to allow it.

    Args:
        model: A transformers causal language model. Its forward then returns the hidden states at
            ``supervised_positions`` if that keyword is given, and all hidden states otherwise.

    Returns:
        Whether the hooks are there.
    """
    causal_lm: Any = model
    if causal_lm.config.model_type not in _FAMILIES:
        return False
    layer = causal_lm.get_decoder().layers[-1]
    if not getattr(layer, _MARK, False):
        _Narrowed(layer)
        setattr(layer, _MARK, True)
    return True


def pick(hidden: Tensor, positions: Tensor) -> Tensor:
    """The hidden states (B, S, H) at flattened positions (P,) of any device, as (1, P, H)."""
    return hidden.reshape(1, -1, hidden.shape[-1])[:, positions.to(hidden.device)]


class _Narrowed:
    """The hooks of one layer, and the tensors that they share within one forward."""

    def __init__(self, layer: Any) -> None:
        self._positions: Tensor | None = None
        self._whole: Tensor | None = None
        layer.register_forward_pre_hook(self._enter, with_kwargs=True)
        layer.input_layernorm.register_forward_pre_hook(self._give_whole)
        layer.self_attn.o_proj.register_forward_pre_hook(self._narrow)
        layer.register_forward_hook(self._leave, always_call=True)

    def _enter(
        self, layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        self._positions = kwargs.get(KEYWORD)
        if self._positions is None:
            return None
        # The backward of this layer follows at once: checkpointing would save no memory, and
        # would run the layer without these hooks.
        layer.gradient_checkpointing = False
        (self._whole, *others) = args
        return (pick(self._whole, self._positions), *others), kwargs

    def _give_whole(self, _: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        return None if self._positions is None else (self._whole,)

    def _narrow(self, _: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        return None if self._positions is None else (pick(args[0], self._positions),)

    def _leave(self, *_: Any) -> None:
        self._positions = self._whole = None
