"""The model of a run without weights, prepared for training by the run's method."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from smt_ray.config.run import RunConfig
from smt_ray.methods.blocks import EligibleBlocks, check_blocks
from smt_ray.methods.placed import PlacedMethod
from smt_ray.methods.protocol import Counts, Method
from smt_ray.methods.registry import settings_of
from smt_ray.methods.smt import SmtMethod
from smt_ray.models.load import DTYPES, load_skeleton
from smt_ray.models.place import located
from smt_ray.planning.quantised import QuantisedWeights
from smt_ray.planning.spread import spread_places, spread_selection
from smt_ray.probe.probe import probe_skeleton
from smt_ray.smt.layers.partial import PartialLinear


@dataclass(frozen=True)
class PreparedModel:
    """A model on the meta device, as training starts with it.

    Attributes:
        model: The model with the layers of the method.
        method_settings: The settings of the method that tables show.
        blocks: The blocks or elements that may be selected; None for methods without a selection.
        value_bytes: The bytes of a weight.
        quantised: What quantisation saves and needs; zero without it.
    """

    model: nn.Module
    method: Method
    method_settings: dict[str, Any]
    counts: Counts
    blocks: EligibleBlocks | None
    value_bytes: int
    quantised: QuantisedWeights

    @property
    def adapter_bytes(self) -> int:
        """The bytes of the trained parameters."""
        # Blocks are saved as they are trained, in float32.
        each = self.value_bytes if self.blocks is None else 4
        return each * self.counts.num_trainable + self.index_bytes

    @property
    def index_bytes(self) -> int:
        """The bytes of the indices, on the GPU and in the adapter; many for single elements."""
        return sum(layer.indices.nbytes for layer in self._layers)

    @property
    def num_places(self) -> int:
        """The number of trained elements or columns."""
        return sum(len(layer.indices) for layer in self._layers)

    @property
    def _layers(self) -> list[PartialLinear]:
        return [m for m in self.model.modules() if isinstance(m, PartialLinear)]


def prepare_model(config: RunConfig) -> PreparedModel:
    """Prepares the model of a run.

    Nothing is selected yet, so a method with a selection gets one of the same size.

    Raises:
        UserError: The model cannot be found, or it does not allow what the config asks for.
    """
    model = model_without_weights(config)
    probe = probe_skeleton(model)
    quantised = quantised_weights(config, model)
    blocks, settings = None, {}
    method: Method
    if config.has_selection:
        blocks = check_blocks(config, model, probe)
        method = _method_with_selection(config, blocks)
    else:
        found = settings_of(config).check(config, lambda: model, probe, None)
        method, settings = found.make(_no_files), found.describe()
    method.prepare(model)
    counts = method.count(model)
    size = value_bytes(config)
    return PreparedModel(model, method, settings, counts, blocks, size, quantised)


def _method_with_selection(config: RunConfig, blocks: EligibleBlocks) -> Method:
    if blocks.shape != "square":
        return PlacedMethod(spread_places(blocks))
    return SmtMethod(spread_selection(blocks, config.selection.scope))


def model_without_weights(config: RunConfig) -> nn.Module:
    """The base model of a run on the meta device, in its dtype and with its attention kernel."""
    model: Any = load_skeleton(located(config.model))
    if config.model.attn_implementation == "eager":
        model.config._attn_implementation = "eager"
    skeleton: nn.Module = model.to(DTYPES[config.model.dtype])
    return skeleton


def value_bytes(config: RunConfig) -> int:
    """The bytes of a weight."""
    return DTYPES[config.model.dtype].itemsize


def quantised_weights(config: RunConfig, model: nn.Module) -> QuantisedWeights:
    """What the config's quantisation saves and needs, on the plain model."""
    return QuantisedWeights(model, config.model.quantization, value_bytes(config))


def _no_files(name: str) -> AbstractContextManager[Path]:
    raise AssertionError(f"a plan has no file {name}")
