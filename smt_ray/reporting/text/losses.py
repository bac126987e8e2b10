"""The losses of a run in words: on rows that are held out, and on text that is not trained on."""

from __future__ import annotations

from smt_ray.documents.run import Retention, RunMetrics
from smt_ray.reporting.text.values import MISSING, number_text


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
