"""Chooses how rows are batched: the configured mode, or the next one that is exact."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from smt_ray.data.batches import MODES, ONE_ROW, PADDED, PREFIX_PACKED, is_packed
from smt_ray.documents.probe import Probe
from smt_ray.errors import UserError
from smt_ray.training.loss.last_layer import can_narrow
from smt_ray.training.loss.logits import MAX_LOGITS


@dataclass(frozen=True)
class BatchingMode:
    """The batching mode of a model.

    Attributes:
        mode: One of :data:`smt_ray.data.batches.MODES`.
        narrows: Whether the last layer is computed for supervised positions alone.
        max_logits: The largest number of logits that are held at once; None for all.
        fallback: The reason why it is not the configured mode; None if it is.
    """

    mode: str
    narrows: bool = False
    max_logits: int | None = None
    fallback: str | None = None


def choose_mode(model: nn.Module, mode: str, probe: Probe, *, training: bool) -> BatchingMode:
    """The configured batching mode, or the one to fall back to where that is not exact.

    Dropout draws a random number for every position. A shared prefix is computed once and has one
    draw, where each of its rows would have its own. So rows are packed whole if there is dropout.

    Args:
        model: A transformers causal language model with the method's layers in place.
        mode: The configured mode.
        probe: What the architecture of the model allows.
        training: Whether dropout is active.

    Raises:
        UserError: The model cannot be trained by rows; see :func:`check_probe`.
    """
    check_probe(model, probe)
    obstacles: list[str] = []
    for candidate in MODES[MODES.index(mode) :]:
        obstacle = _obstacle(model, candidate, probe)
        if obstacle is None and candidate == PREFIX_PACKED and training:
            obstacle = _randomness(model, probe)
        if obstacle is None:
            reasons = "; ".join(dict.fromkeys(obstacles))
            narrows = probe.narrows and can_narrow(model)
            most = MAX_LOGITS if probe.splits_logits else None
            return BatchingMode(candidate, narrows, most, reasons or None)
        obstacles.append(obstacle)
    raise AssertionError("check_probe refuses models of which not even single rows work")


def check_probe(model: nn.Module, probe: Probe) -> None:
    """Refuses a model that cannot be trained to predict the next token.

    Args:
        model: The model, of which only the class is used.
        probe: What its architecture allows.

    Raises:
        UserError: A position depends on later ones, a forward pass changes the weights, or the loss
            of single rows is wrong.
    """
    name, config = type(model).__name__, _text_config(model)
    if getattr(config, "output_router_logits", False):
        raise UserError(
            "model",
            "must not ask for the auxiliary loss of its router, which is not part of the loss here",
            got="output_router_logits: true",
            fix=f"set model.config_overrides: {_router_key(model)} to train without it",
        )
    if not probe.is_causal:
        raise UserError(
            "model",
            "must be causal: no position may depend on a later one",
            got=name,
            fix="use a causal language model, or set is_decoder in its config.json where it has"
            " that key",
        )
    if not probe.keeps_weights:
        raise UserError(
            "model",
            "must not change its own weights in a forward pass",
            got=name,
            fix="use a causal language model of another type",
        )
    if probe.problem is None and not probe.is_exact(ONE_ROW):
        raise UserError(
            "model",
            "must give a row's logits from its input_ids alone"
            f" ({probe.failures.get(ONE_ROW, 'the loss of a row differs')})",
            got=name,
            fix="use a causal language model of another type",
        )


def _obstacle(model: nn.Module, mode: str, probe: Probe) -> str | None:
    """The reason why a mode is not exact; None if it is."""
    if probe.problem is not None:
        return None if mode == ONE_ROW else f"its architecture could not be tried ({probe.problem})"
    if mode == ONE_ROW:
        return None
    if _has_dynamic_rope(model):
        return "its rotary embedding depends on the length of the input"
    if probe.is_exact(mode):
        return None
    if mode == PADDED:
        return "padding changes what the model computes"
    error = probe.errors.get(mode)
    if known := _known_obstacle(model):
        return known
    if error is None:
        return f"it cannot compute packed rows ({probe.failures.get(mode)})"
    return f"the gradient of packed rows would be wrong by {error:.1g}"


def _known_obstacle(model: nn.Module) -> str | None:
    """The usual reasons why a model computes packed rows wrongly, for people to read."""
    text = _text_config(model)
    kind = type(model).__name__
    if not getattr(model, "_supports_attention_backend", False):
        return f"{kind} does not support another attention kernel"
    others = set(getattr(text, "layer_types", None) or ()) - {"full_attention", "sliding_attention"}
    if others:
        return f"{kind} has layers of {', '.join(sorted(others))}"
    if getattr(text, "attn_logit_softcapping", None):
        return f"{kind} caps its attention scores"
    if any(name.rpartition(".")[2] == "sinks" for name, _ in model.named_parameters()):
        return f"{kind} has attention sinks"
    return None


def _text_config(model: nn.Module) -> Any:
    """The config of the language model, also of a model of images and text."""
    config: Any = model.config
    return config.get_text_config()


def _router_key(model: nn.Module) -> str:
    """The override that turns the router's loss off, in the part of the config that has it."""
    config: Any = model.config
    part = next((n for n, v in vars(config).items() if v is _text_config(model)), None)
    key = "{output_router_logits: false}"
    return key if part is None else f"{{{part}: {key}}}"


def _has_dynamic_rope(model: nn.Module) -> bool:
    """Whether frequencies depend on the longest input so far, or on that of the batch."""
    scaling = str(getattr(_text_config(model), "rope_parameters", None))
    return any(rope_type in scaling for rope_type in ("dynamic", "longrope"))


def _randomness(model: nn.Module, probe: Probe) -> str | None:
    if probe.draws or has_dropout(model):
        return "the dropout of rows differs, so they cannot share a prefix"
    return None


def has_dropout(model: nn.Module) -> bool:
    """Whether a module of the model drops values, such as those that a method has added."""
    return any(_dropout_rate(module) > 0 for module in model.modules())


def _dropout_rate(module: nn.Module) -> float:
    if isinstance(module, nn.Dropout):
        return module.p
    rate = getattr(module, "attention_dropout", 0.0)  # a number in most families' attention
    return rate if isinstance(rate, float) else 0.0


def attention_kernel(mode: BatchingMode, implementation: str) -> str:
    """What computes attention in a batching mode, for people to read.

    Args:
        mode: The batching mode.
        implementation: The attention implementation of the model, which packed rows do not use.
    """
    return "flash attention by row" if is_packed(mode.mode) else implementation
