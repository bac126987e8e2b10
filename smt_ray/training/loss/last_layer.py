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
from torch.utils.hooks import RemovableHandle

KEYWORD = "supervised_positions"  # a keyword of the model's forward, which its layers get too

_HANDLES = "smt_ray_narrowing"  # an attribute of a layer that has the hooks
_OUTPUTS = ("o_proj", "dense", "out_proj")


def can_narrow(model: nn.Module) -> bool:
    """Whether the last layer has the parts that the hooks need.

    Whether it then computes the same is found by a probe (:mod:`smt_ray.probe`).

    Args:
        model: A transformers causal language model.
    """
    return _parts(model) is not None


def narrow_last_layer(model: nn.Module) -> list[RemovableHandle]:
    """Registers the hooks.

    Args:
        model: A model that :func:`can_narrow`. Its forward then returns the hidden states at
            ``supervised_positions`` if that keyword is given, and all hidden states otherwise.

    Returns:
        The handles that remove the hooks.
    """
    parts = _parts(model)
    assert parts is not None, "see can_narrow"
    layer: Any = parts[0]
    for handle in getattr(layer, _HANDLES, ()):
        handle.remove()  # the model is used by another loss now
    setattr(layer, _HANDLES, _Narrowed(*parts).handles)
    return list(getattr(layer, _HANDLES))


def _parts(model: nn.Module) -> tuple[nn.Module, nn.Module, nn.Module] | None:
    """The last layer, its input norm and its attention's output projection."""
    causal_lm: Any = model
    decoder = causal_lm.get_decoder() if hasattr(causal_lm, "get_decoder") else None
    layers = getattr(decoder, "layers", None)
    if not isinstance(layers, nn.ModuleList) or not len(layers):
        return None
    layer = layers[-1]
    norm, attention = getattr(layer, "input_layernorm", None), getattr(layer, "self_attn", None)
    output = next((m for n in _OUTPUTS if (m := getattr(attention, n, None)) is not None), None)
    return (layer, norm, output) if norm is not None and output is not None else None


def pick(hidden: Tensor, positions: Tensor) -> Tensor:
    """The hidden states (B, S, H) at flattened positions (P,) of any device, as (1, P, H)."""
    return hidden.reshape(1, -1, hidden.shape[-1])[:, positions.to(hidden.device)]


class _Narrowed:
    """The hooks of one layer, and the tensors that they share within one forward."""

    def __init__(self, layer: nn.Module, norm: nn.Module, output: nn.Module) -> None:
        self._positions: Tensor | None = None
        self._whole: Tensor | None = None
        self.handles = [
            layer.register_forward_pre_hook(self._enter, with_kwargs=True),
            norm.register_forward_pre_hook(self._give_whole),
            output.register_forward_pre_hook(self._narrow),
            layer.register_forward_hook(self._leave, always_call=True),
        ]

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
