"""The last decoder layer, computed only where a target is predicted.

After the last attention no position looks at another, so its output projection and its MLP are
needed at supervised positions alone: a few in a hundred where prompts are not trained on. Three
hooks do it, as the position-wise half of a pre-norm layer asks for no more:

    layer        its input, the residual, is cut down to the wanted positions; the whole is put by
    input norm   gets the whole all the same: keys and values are needed of every position
    output proj  gets the wanted positions of what attention made
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

KEYWORD = "supervised_positions"  # of the model's forward, handed on to its layers

_MARK = "smt_ray_narrowed"  # hooks go in once a model

# Families whose layer is exactly norm, attention, add, norm, MLP, add, under these names.
_FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "gemma", "phi3")


def narrow_last_layer(model: nn.Module) -> bool:
    """Puts the hooks in, where the model's family is known to allow it.

    Args:
        model: A transformers causal language model. Its forward then gives hidden states at
            ``supervised_positions`` where that keyword is given, and all of them where not.

    Returns:
        Whether it does.
    """
    config: Any = model.config
    if config.model_type not in _FAMILIES:
        return False
    layers: Any = model.get_decoder().layers
    if not getattr(layers[-1], _MARK, False):
        _Narrowed(layers[-1])
        setattr(layers[-1], _MARK, True)
    return True


def pick(hidden: Tensor, positions: Tensor) -> Tensor:
    """(B, S, H) at flattened positions (P,), on whatever device they are: (1, P, H)."""
    return hidden.reshape(1, -1, hidden.shape[-1])[:, positions.to(hidden.device)]


class _Narrowed:
    """The hooks of one layer, and what they hand to each other within one forward."""

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
        # Its backward comes at once: computing it anew would save no memory (and run without us).
        layer.gradient_checkpointing = False
        (self._whole, *others) = args
        return (pick(self._whole, self._positions), *others), kwargs

    def _give_whole(self, _: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        return None if self._positions is None else (self._whole,)

    def _narrow(self, _: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        return None if self._positions is None else (pick(args[0], self._positions),)

    def _leave(self, *_: Any) -> None:
        self._positions = self._whole = None
