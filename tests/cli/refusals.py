"""Shared parts of tests of refused commands: a check of the line, and finished-looking stages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from smt_ray.artifacts.stages import Stage
from smt_ray.documents.base import Document
from smt_ray.documents.rows import RowCounts, TokensSummary
from smt_ray.documents.run import Trainable
from smt_ray.documents.stages import (
    EvaluationSummary,
    RankOutcome,
    SelectionSummary,
    TrainingSummary,
    WarmupSummary,
)

Refused = Callable[..., str]
"""Runs a command that must be refused; returns its error line without ``error: ``."""

SUMMARIES: dict[str, Document] = {
    "tokens": TokensSummary(training=RowCounts(num_rows=9)),
    "warmup": WarmupSummary(num_modules=1, block_size=16, num_steps=1),
    "selection": SelectionSummary(
        num_blocks=1, block_size=16, num_trainable=256, num_base=1000, budget=0.256, margin=None,
        score="l2", scope="global", counts={}, text="one block",
    ),
    "training": TrainingSummary(
        num_steps=1,
        outcome=RankOutcome(
            metrics={}, trainable=Trainable(), num_ranks=1, zero_stage=2, dtype="float32",
            optimizer="AdamW", device="cpu", kernel="sdpa", batching="padded",
        ),
    ),
    "evaluation": EvaluationSummary(protocol="generate", tasks={}),
}  # fmt: skip
"""The summaries by kind of stage."""


def assert_names(line: str, *parts: str) -> None:
    for part in parts:
        assert part in line, f"{part!r} is not in: {line}"


def finish(stage: Stage[Any], file: str) -> str:
    """Makes a stage look finished; returns the URI of its one artifact."""
    stage.storage.write_bytes(stage.path(file), b"what was computed")
    stage.publish([file], SUMMARIES[stage.kind.name], 1.0)
    return stage.storage.uri(stage.path(file))
