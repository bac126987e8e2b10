"""The sizes of micro-batches: from the rows of a run if they can be read, else from its limits."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from smt_ray.config.model import ModelConfig
from smt_ray.config.run import RunConfig
from smt_ray.data.batches import StepPlan, is_packed, step_micro_batches
from smt_ray.data.encoding.rows import Encoding, encode_rows
from smt_ray.data.encoding.stored import EncodedRows
from smt_ray.data.prompts import Prompts
from smt_ray.data.sources import is_local
from smt_ray.data.splits import read_split
from smt_ray.errors import UserError
from smt_ray.models.load import load_tokenizer
from smt_ray.models.place import located

ASSUMED_TARGET_SHARE = 0.5
"""The assumed fraction of positions with a target, if prompts are not trained on."""

_READ_STEPS = 64  # whose rows are tokenised


@dataclass(frozen=True)
class RowStatistics:
    """What the sizes of a rank's micro-batches depend on.

    Attributes:
        row_length: The number of tokens that the longest row feeds to the model.
        step_tokens: The largest number of tokens of a step on one rank; no micro-batch is larger.
        mean_tokens: The mean over steps of the tokens of the rank that has the most.
        all_tokens: The mean over steps of the tokens of all ranks.
        target_share: The largest fraction of a micro-batch's positions with a target.
        source: Where the sizes are known from, in words.
    """

    row_length: int
    step_tokens: int
    mean_tokens: float
    all_tokens: float
    target_share: float
    source: str

    def largest(self, max_tokens: int) -> int:
        """The number of tokens of the largest micro-batch under a limit.

        A row that is longer than the limit has a micro-batch of its own.
        """
        return max(min(max_tokens, self.step_tokens), self.row_length)

    def num_micro_batches(self, max_tokens: int) -> int:
        """The usual number of micro-batches of a step on one rank."""
        return max(1, math.ceil(self.mean_tokens / self.largest(max_tokens)))


@dataclass(frozen=True)
class PlannedRows:
    """The rows of a run.

    Attributes:
        encoded: The rows of the first steps; None if they or the tokenizer are not on this machine.
    """

    config: RunConfig
    encoded: EncodedRows | None

    @classmethod
    def read(cls, config: RunConfig) -> PlannedRows:
        """Reads the rows, if they and the tokenizer are on this machine."""
        return cls(config, _read_rows(config))

    @cached_property
    def num_steps(self) -> int | None:
        """The number of steps of the training; None if the rows are not on this machine."""
        training = self.config.training
        if training.max_steps is not None:
            return training.max_steps
        if not all(map(is_local, self.config.data.train)):
            return None
        try:
            num_rows = len(read_split(self.config.data, self.config.seed).training)
        except UserError:  # a plan does not need rows, and the run will report the error
            return None
        plan = StepPlan(num_rows, training.batch_size, self.config.seed)
        return plan.num_steps(training.num_epochs, None)

    def statistics(self, mode: str, num_ranks: int) -> RowStatistics:
        """The statistics of the micro-batches, if so many ranks share each step."""
        if self.encoded is None:
            return self._assumed(mode, num_ranks)
        return self._seen(self.encoded, mode, num_ranks)

    def _assumed(self, mode: str, num_ranks: int) -> RowStatistics:
        """The statistics if every row has the largest allowed length."""
        data = self.config.data
        # The last token of a row is only a target, so packs leave it out.
        length = max(data.max_length - is_packed(mode), 1)
        share = 1.0 if data.train_on_inputs else ASSUMED_TARGET_SHARE
        batch_size = self.config.training.batch_size
        step_tokens = -(-batch_size // num_ranks) * length
        return RowStatistics(
            length, step_tokens, step_tokens, batch_size * length, share, "assumed, not read"
        )

    def _seen(self, encoded: EncodedRows, mode: str, num_ranks: int) -> RowStatistics:
        """The statistics of the actual micro-batches, over all ranks."""
        plan = StepPlan(len(encoded), self.config.training.batch_size, self.config.seed)
        row_length, share, by_step = 1, 0.0, []
        for step in range(plan.steps_per_epoch):
            rows = plan.rows(step)
            row_length = max(row_length, int(encoded.lengths[rows].max()) - is_packed(mode))
            by_step.append([0] * num_ranks)
            for rank in range(num_ranks):
                batches = step_micro_batches(
                    encoded,
                    rows,
                    mode=mode,
                    max_tokens=self.config.batching.max_tokens,
                    train_on_inputs=self.config.data.train_on_inputs,
                    rank=rank,
                    num_ranks=num_ranks,
                )
                sizes = [batch.input_ids.numel() for batch in batches]
                by_step[-1][rank] = sum(sizes)
                shares = [len(b.positions) / size for b, size in zip(batches, sizes, strict=True)]
                share = max(share, *shares)
        largest = [max(by_rank) for by_rank in by_step]
        return RowStatistics(
            row_length,
            max(largest),
            sum(largest) / len(largest),
            sum(map(sum, by_step)) / len(by_step),
            min(share, 1.0),
            "as in the run's rows",
        )


def _read_rows(config: RunConfig) -> EncodedRows | None:
    """The rows of the first steps; None if they or the tokenizer are not on this machine."""
    data, model = config.data, located(config.model)
    if not _has_files(model) or not all(map(is_local, data.train)):
        return None
    try:
        rows = read_split(data, config.seed).training
        number = _READ_STEPS * config.training.batch_size
        tokenizer = load_tokenizer(model)
        encoded, _ = encode_rows(
            tokenizer,
            rows.select(StepPlan(len(rows), number, config.seed).rows(0)),
            replace(Encoding.of(data), bad_rows="skip"),
            prompts=Prompts.of(tokenizer, data),
        )
    except UserError:  # a plan does not need rows, and the run will report the error
        return None
    return encoded


def _has_files(model: ModelConfig) -> bool:
    return bool(model.builtin or (model.path and Path(model.path).is_dir()))
