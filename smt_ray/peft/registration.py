"""The registration of the tuner in peft."""

from __future__ import annotations

from typing import Any

from peft import PeftType
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.utils import register_peft_method

from smt_ray.peft.config import SmtConfig
from smt_ray.peft.model import SmtModel
from smt_ray.smt.adapter_files import WRITTEN_PEFT_TYPE


def register() -> None:
    """Makes peft know the tuner; a second call does nothing."""
    if "SMT" in PeftType.__members__:
        return
    _add_peft_type("SMT")
    register_peft_method(
        name="smt", config_cls=SmtConfig, model_cls=SmtModel, prefix=SmtModel.prefix
    )
    # Saved configs hold this text. Where nothing is registered, it is the message of peft's error.
    configs: dict[Any, Any] = PEFT_TYPE_TO_CONFIG_MAPPING
    configs[WRITTEN_PEFT_TYPE] = SmtConfig


def _add_peft_type(name: str) -> None:
    """Adds a member to the enum ``PeftType``, of which peft wants one for each method."""
    member = str.__new__(PeftType, name)
    member._name_ = member._value_ = name
    PeftType._member_names_.append(name)
    PeftType._member_map_[name] = member
    PeftType._value2member_map_[name] = member
    type.__setattr__(PeftType, name, member)
