"""The decoder layers of a model, of which a dry run needs only a few.

Most layers of a model are alike. Each of them keeps the same number of bytes for the backward pass
and computes the same products. So a dry run of a few layers of each kind, and one with one layer
more, give the figures of all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn

from smt_ray.smt.layers.kept_input import KeptInput

_FIRST, _LAST = 1, 2  # the layers of a kind that are always computed
_SPECIAL = ("num_kv_shared_layers", "per_layer_config", "hidden_size_per_layer_input")


class LayerStack:
    """The decoder layers of a model whose layers are alike, as far as the model allows it.

    Args:
        model: A transformers causal language model, prepared for training.
    """

    def __init__(self, model: nn.Module) -> None:
        causal_lm: Any = model
        self._config = causal_lm.config.get_text_config()
        self._decoder: Any = causal_lm.get_decoder() if hasattr(causal_lm, "get_decoder") else None
        layers = getattr(self._decoder, "layers", None)
        self._layers: Sequence[nn.Module] = ()
        if isinstance(layers, nn.ModuleList) and self._is_plain(len(layers)):
            self._layers = list(layers)
        self._kinds = [self._kind(place) for place in range(len(self._layers))]

    def extrapolated(self, measure: Callable[[], Sequence[int]]) -> list[int]:
        """The figures of the whole model, from those of a few layers.

        Args:
            measure: A function that runs the model and returns figures that grow by the same
                amount with each further layer of a kind.
        """
        runs = self._runs()
        if not runs:
            return list(measure())
        try:
            few = self._measure(measure, self._few)
            total = list(few)
            for times, kept in runs:
                more = self._measure(measure, kept)
                total = [t + times * (m - f) for t, m, f in zip(total, more, few, strict=True)]
        except (ValueError, TypeError, IndexError, KeyError, AttributeError, RuntimeError):
            return list(measure())  # the model's code needs all of its layers
        return total

    @property
    def _few(self) -> list[int]:
        """The places of the layers that each run has: the first and the last ones of each kind."""
        return sorted(place for places in self._places for place in _ends(places))

    @property
    def _places(self) -> list[list[int]]:
        return [
            [place for place, other in enumerate(self._kinds) if other == kind]
            for kind in dict.fromkeys(self._kinds)
        ]

    def _runs(self) -> list[tuple[int, list[int]]]:
        """Runs with one layer more: the number of layers it stands for, and the places it has."""
        few = self._few
        runs = [
            (len(places) - len(_ends(places)), sorted([*few, places[_FIRST]]))
            for places in self._places
            if len(places) > len(_ends(places))
        ]
        cost = len(few) + sum(len(kept) for _, kept in runs)
        return runs if cost < len(self._layers) else []

    def _measure(self, measure: Callable[[], Sequence[int]], kept: Sequence[int]) -> Sequence[int]:
        with self._only(kept):
            return measure()

    @contextmanager
    def _only(self, kept: Sequence[int]) -> Iterator[None]:
        """Within its block, the model has only some of its layers."""
        lists = self._lists_by_layer()
        changed = {name: [values[place] for place in kept] for name, values in lists.items()}
        number = self._config.num_hidden_layers
        try:
            self._decoder.layers = nn.ModuleList(self._layers[place] for place in kept)
            self._config.__dict__.update({**changed, "num_hidden_layers": len(kept)})
            yield
        finally:
            self._decoder.layers = nn.ModuleList(self._layers)
            self._config.__dict__.update({**lists, "num_hidden_layers": number})

    def _kind(self, place: int) -> tuple[Any, ...]:
        """What decides the bytes and products of a layer."""
        modules = tuple(
            (name, type(module), _kept_columns(module))
            for name, module in self._layers[place].named_modules()
        )
        parameters = tuple(
            (name, tuple(parameter.shape), parameter.dtype, parameter.requires_grad)
            for name, parameter in self._layers[place].named_parameters()
        )
        listed = tuple(str(values[place]) for values in self._lists_by_layer().values())
        return modules, parameters, listed

    def _lists_by_layer(self) -> dict[str, list[Any]]:
        """The values of the config that are lists with an entry for each layer."""
        return {
            name: value
            for name, value in vars(self._config).items()
            if isinstance(value, list) and len(value) == len(self._layers) > 1
        }

    def _is_plain(self, num_layers: int) -> bool:
        """Whether the layers have no values in common, and all of them are decoder layers."""
        values = self._config.to_dict()
        if any(values.get(name) for name in _SPECIAL):
            return False
        return bool(values.get("num_hidden_layers") == num_layers)


def _ends(places: Sequence[int]) -> list[int]:
    if len(places) <= _FIRST + _LAST:
        return list(places)
    return [*places[:_FIRST], *places[-_LAST:]]


def _kept_columns(module: nn.Module) -> int:
    """The number of block columns of the input that a linear keeps; 0 for all or for none."""
    kept = getattr(module, "kept_input", None)
    return len(kept.columns or ()) if isinstance(kept, KeptInput) else 0
