"""The settings of the methods, found by the config of a run."""

from __future__ import annotations

from smt_ray.config.run import RunConfig
from smt_ray.methods import full, lora, placed, smt
from smt_ray.methods.continued import ContinuedSettings
from smt_ray.methods.protocol import MethodSettings

_SETTINGS: dict[str, type[MethodSettings]] = {
    "smt": smt.SmtSettings,
    "lora": lora.LoraSettings,
    "dora": lora.LoraSettings,
    "sift": placed.PlacedSettings,
    "full": full.FullSettings,
}


def settings_of(config: RunConfig) -> type[MethodSettings]:
    """The type of the settings of the config's method."""
    if config.training.init_adapter:
        return ContinuedSettings
    return placed.PlacedSettings if config.selects_columns else _SETTINGS[config.method]
