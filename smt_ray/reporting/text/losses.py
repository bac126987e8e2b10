"""The training of a run in words: its settings, and its losses on rows that are not trained on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from smt_ray.documents.run import Retention, RunMetrics
from smt_ray.reporting.text.values import MISSING, number_text


def training_text(metrics: RunMetrics, config: Mapping[str, Any]) -> str:
    """The steps, the learning rate and the seed; "" if the configuration is not known."""
    training = config.get("training")
    if not training:
        return ""
    steps = metrics.training.num_steps if metrics.training else None
    ramp = training["lr_warmup_steps"]
    words = [
        f"{steps:,} steps of {training['batch_size']} rows" if steps else "",
        f"learning rate {training['learning_rate']:g}",
        f"{training['lr_schedule']} schedule",
        f"learning-rate warm-up of {ramp} steps" if ramp else "",
        f"seed {config['seed']}",
    ]
    return ", ".join(filter(None, words))


def loss_text(metrics: RunMetrics) -> str:
    """The validation loss before and after training; "" without validation rows."""
    training = metrics.training
    if training is None or training.validation_loss is None:
        return ""
    before, after = training.loss_before, training.validation_loss
    held = metrics.rows.validation if metrics.rows else None
    return _join(
        number_text(before, "{:.4f} before"),
        number_text(after, "{:.4f} after"),
        number_text(held.num_rows if held else None, "{:,} rows"),
    )


def retention_text(kept: Retention) -> str:
    """The loss on text that was not trained on, of the base and the tuned model."""
    base, tuned = kept.base, kept.tuned
    change = tuned.loss - base.loss if base and tuned else None
    either = tuned or base
    return _join(
        number_text(base.loss if base else None, "loss {:.4f} of the base model"),
        number_text(tuned.loss if tuned else None, "{:.4f} of the tuned model"),
        number_text(change, "{:+.4f}"),
        number_text(either.num_rows if either else None, "{:,} rows"),
        number_text(either.num_tokens if either else None, "{:,} tokens"),
    )


def _join(*texts: str) -> str:
    return ", ".join(text for text in texts if text != MISSING)
