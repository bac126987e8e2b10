"""The probe of an architecture."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

import torch
from cachetools import LRUCache, cached
from torch import nn

from smt_ray.config.model_and_data import ModelConfig
from smt_ray.documents.probe import Probe
from smt_ray.models.inspect import is_linear
from smt_ray.models.load import model_class, read_config
from smt_ray.probe import inference
from smt_ray.probe.shrink import shrunk
from smt_ray.probe.steps import rows, try_steps

_SPREAD = 0.2  # of biases and norms, so that a lost one shows


def probe_model(model: ModelConfig) -> Probe:
    """What the architecture of a model allows; the findings are kept within the process.

    Args:
        model: The ``model`` section of a config.

    Raises:
        UserError: Its configuration cannot be found or read.
    """
    config = read_config(model)
    return probe_config(config, trust_remote_code=model.trust_remote_code)


def probe_config(config: Any, *, trust_remote_code: bool = False) -> Probe:
    """What an architecture allows.

    Args:
        config: The transformers config.
        trust_remote_code: Whether code that comes with the model may run.
    """
    try:
        small = shrunk(config)
    except Exception as error:  # classes of configs check their values in many ways
        return Probe(problem=_one_line(error))
    return _probe(small, trust_remote_code)


def fingerprint(small: Any, *_: Any) -> str:
    """The fingerprint of a shrunken architecture and of the code that computes it."""
    values = {**small.to_dict(), "transformers": version("transformers"), "torch": version("torch")}
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()


@cached(LRUCache(maxsize=64), key=fingerprint)
def _probe(small: Any, trust_remote_code: bool) -> Probe:
    with _quiet():
        try:
            model = _build(small, trust_remote_code)
            unused = _unused_linears(model)
        except Exception as error:  # so do the classes of models
            return Probe(problem=_one_line(error))
        steps = try_steps(model)
        return Probe(
            is_causal=inference.is_causal(model),
            errors={mode: step.error for mode, step in steps.modes.items()},
            failures={m: step.failure for m, step in steps.modes.items() if step.failure},
            narrows=steps.narrows,
            draws=inference.draws(model),
            pads_left=inference.pads_left(model),
            pads_inside=inference.pads_inside(model),
            unused_linears=unused,
        )


def _build(small: Any, trust_remote_code: bool) -> Any:
    """The small model in float32 and evaluation mode; it is the same every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        auto = model_class(small)
        model = auto.from_config(small, trust_remote_code=trust_remote_code).float().eval()
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.data += _SPREAD * torch.randn_like(parameter)
    return model


def _unused_linears(model: Any) -> tuple[str, ...]:
    """The linears whose forward is not called, by the patterns of their names."""
    linears = {n: m for n, m in model.named_modules() if is_linear(m)}
    called: set[str] = set()
    hooks = [
        linear.register_forward_pre_hook(lambda *_, name=name: called.add(name_pattern(name)))
        for name, linear in linears.items()
    ]
    try:
        encoded = rows()
        with torch.no_grad():
            model(input_ids=encoded.row(len(encoded) - 1).long()[None], use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return tuple(sorted({name_pattern(name) for name in linears} - called))


def name_pattern(name: str) -> str:
    """A module's name with the numbers of layers and experts replaced by ``*``."""
    return re.sub(r"(?<=\.)\d+(?=\.|$)", "*", name)


def _one_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[-1]}" if lines else type(error).__name__


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps back what transformers says about random weights."""
    logger = logging.getLogger("transformers")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
