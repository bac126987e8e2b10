"""The probe of an architecture."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

import torch
from cachetools import LRUCache, cached

from smt_ray.artifacts.layout import PROBES_FOLDER
from smt_ray.artifacts.storage import Storage
from smt_ray.documents.probe import Probe
from smt_ray.models.inspect import is_linear, name_pattern
from smt_ray.probe import inference
from smt_ray.probe.shrink import shrunk
from smt_ray.probe.steps import rows, try_steps

_VERSION = 3  # to raise when rows, kernels or checks change
_SPREAD = 0.2  # of biases and norms, so that a lost one shows


def probe_skeleton(skeleton: Any) -> Probe:
    """What the architecture of a model allows; the findings are kept within the process.

    Args:
        skeleton: A transformers model, perhaps on the meta device; only its class and its config
            are used.
    """
    small = _shrunk(skeleton)
    probe = small if isinstance(small, Probe) else _probe(small, type(skeleton))
    if probe.problem is None:
        return probe
    return probe.model_copy(update={"unused_linears": _outside_decoder(skeleton)})


def kept_probe(skeleton: Any, storage: Storage) -> Probe:
    """The same as :func:`probe_skeleton`, or what a storage keeps of it.

    Args:
        skeleton: See :func:`probe_skeleton`.
        storage: The storage, which has the findings under the fingerprint of the architecture.
    """
    path = _path(skeleton)
    if path is not None and storage.exists(path):
        return storage.read_document(Probe, path, fix="delete the file")
    return probe_skeleton(skeleton)


def keep_probe(skeleton: Any, probe: Probe, storage: Storage) -> str | None:
    """Keeps the findings in a storage, for :func:`kept_probe`; returns their file there."""
    path = _path(skeleton)
    if path is not None and not storage.exists(path):
        storage.write_json(path, probe.to_json())
    return path


def _path(skeleton: Any) -> str | None:
    """The path of the findings in a storage; None for an architecture without a small config."""
    small = _shrunk(skeleton)
    if isinstance(small, Probe):
        return None
    return f"{PROBES_FOLDER}/{fingerprint(small, type(skeleton))}.json"


def _shrunk(skeleton: Any) -> Any:
    """The small config, or a probe that says why there is none."""
    try:
        return shrunk(skeleton.config)
    except Exception as error:  # classes of configs check their values in many ways
        return Probe(problem=_one_line(error))


def small_model(skeleton: Any) -> Any:
    """The small model of an architecture, with random weights, which are the same every time.

    Args:
        skeleton: See :func:`probe_skeleton`.
    """
    return _build(shrunk(skeleton.config), type(skeleton))


def fingerprint(small: Any, model_type: type) -> str:
    """The fingerprint of a shrunken architecture and of the code that computes it."""
    values = {
        **small.to_dict(),
        "class": f"{model_type.__module__}.{model_type.__qualname__}",  # with a remote revision
        "libraries": [version("transformers"), version("torch"), _VERSION],
    }
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()


@cached(LRUCache(maxsize=64), key=fingerprint)
def _probe(small: Any, model_type: Any) -> Probe:
    with _quiet():
        try:
            return _try(_build(small, model_type))
        except Exception as error:  # the classes of models fail in many ways
            return Probe(problem=_one_line(error))


def _try(model: Any) -> Probe:
    before = [parameter.detach().clone() for parameter in model.parameters()]
    unused = _unused_linears(model)
    steps = try_steps(model)
    return Probe(
        is_causal=inference.is_causal(model),
        keeps_weights=all(map(torch.equal, before, model.parameters())),
        errors={mode: step.error for mode, step in steps.modes.items()},
        failures={m: step.failure for m, step in steps.modes.items() if step.failure},
        narrows=steps.narrows,
        splits_logits=steps.splits_logits,
        draws=inference.draws(model),
        pads_left=inference.pads_left(model),
        pads_inside=inference.pads_inside(model),
        unused_linears=unused,
    )


def _build(small: Any, model_type: Any) -> Any:
    """The small model in float32 and evaluation mode; it is the same every time."""
    from transformers import GenerationConfig

    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.manual_seed(0)
        model = model_type._from_config(small).float().eval()
        model.generation_config = GenerationConfig()  # without EOS, so that lengths are known
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.data += _SPREAD * torch.randn_like(parameter)
    return model


def _unused_linears(model: Any) -> tuple[str, ...]:
    """The linears that are not called or get no gradient, by the patterns of their names."""
    linears = {n: m for n, m in model.named_modules() if is_linear(m)}
    called: set[str] = set()
    hooks = [
        linear.register_forward_pre_hook(lambda *_, name=name: called.add(name))
        for name, linear in linears.items()
    ]
    try:
        encoded = rows()
        ids = encoded.row(len(encoded) - 1).long()[None]
        logits = model(input_ids=ids, use_cache=False).logits
    finally:
        for hook in hooks:
            hook.remove()
    weights = [linears[name].weight for name in linears]
    gradients = torch.autograd.grad(logits.square().sum(), weights, allow_unused=True)
    used = {
        name_pattern(name)
        for name, gradient in zip(linears, gradients, strict=True)
        if name in called and gradient is not None
    }
    return tuple(sorted({name_pattern(name) for name in linears} - used))


def _outside_decoder(model: Any) -> tuple[str, ...]:
    """The linears outside the language model, by the patterns of their names."""
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else model
    inside = {id(module) for module in decoder.modules()}
    linears = ((n, m) for n, m in model.named_modules() if is_linear(m) and id(m) not in inside)
    return tuple(sorted({name_pattern(name) for name, _ in linears}))


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
