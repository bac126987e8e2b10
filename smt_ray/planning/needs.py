"""What a config needs on each GPU, each figure found when it is first asked for."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import nn

from smt_ray.config.run import RunConfig
from smt_ray.data.batches import PADDED, StepPlan
from smt_ray.data.encoding import EncodedRows, encode_rows
from smt_ray.data.sources import is_local
from smt_ray.data.splits import read_split
from smt_ray.errors import UserError
from smt_ray.methods.blocks import EligibleBlocks, check_blocks
from smt_ray.methods.protocol import Counts, Method, MethodSettings
from smt_ray.methods.registry import settings_of
from smt_ray.methods.smt import SmtMethod
from smt_ray.models.inspect import find_eligible
from smt_ray.models.load import DTYPES, load_skeleton, load_tokenizer, located
from smt_ray.planning.activations import DryRun
from smt_ray.planning.curve import ActivationCurve
from smt_ray.planning.memory import RankBytes, rank_bytes
from smt_ray.planning.rows import RowStatistics, assumed_rows, seen_rows
from smt_ray.planning.settings import Setting
from smt_ray.planning.spread import spread_selection
from smt_ray.training.batching_mode import BatchingMode, choose_mode
from smt_ray.training.engine import LARGEST_BUCKET

_SEEN_STEPS = 64  # whose rows are tokenised, where they can be read
_FP32 = 4


@dataclass(frozen=True)
class MemoryNeeds:
    """Bytes of one config.

    Attributes:
        config: Of the run.
        num_gpus: Training ranks.
    """

    config: RunConfig
    num_gpus: int

    def bytes_of(self, setting: Setting) -> int:
        """The most that a GPU holds, in training or in the warm-up."""
        return max(self.training_bytes(setting), self.warmup_bytes(setting))

    def training_bytes(self, setting: Setting) -> int:
        """The most that a GPU holds in training."""
        activations = self.activations(setting.max_tokens, setting.checkpointing)
        return self.rank(setting.zero_stage).peak(activations)

    def warmup_bytes(self, setting: Setting) -> int:
        """The most that a shard's GPU holds; 0 where there is no warm-up.

        Where a shard has several, layers and their sums are spread over them; activations are
        counted on each, for they may all come at once.
        """
        if not self.config.has_warmup:
            return 0
        sums = self.sum_bytes if setting.accumulate_on == "device" else 0
        if self.full_training is not None:
            return sums + self.full_training.training_bytes(setting)
        weights = self.value_bytes * self.counts.num_base
        spread = -(-(weights + sums) // self.config.warmup.gpus_per_shard)
        return spread + self.warmup_activations(setting.max_tokens)

    def activations(self, max_tokens: int, checkpointing: bool) -> int:
        """What a micro-batch of training needs besides parameters and gradients."""
        return self._curves[checkpointing].bytes_at(max_tokens)

    def warmup_activations(self, max_tokens: int) -> int:
        """The same of a warm-up that does not train, and computes nothing anew."""
        return self._warmup_curve.bytes_at(max_tokens)

    def rank(self, zero_stage: int) -> RankBytes:
        """What a training rank holds besides activations."""
        return rank_bytes(
            zero_stage,
            self.num_gpus,
            num_parameters=self.counts.num_total,
            num_trainable=self.counts.num_trainable,
            bytes_per_value=self.value_bytes,
            bucket=min(self.counts.num_trainable, LARGEST_BUCKET),
        )

    @property
    def value_bytes(self) -> int:
        """Bytes of a weight's value."""
        return DTYPES[self.config.model.dtype].itemsize

    @property
    def counts(self) -> Counts:
        """What is trained of the base model's parameters."""
        return self._prepared[1]

    @cached_property
    def blocks(self) -> EligibleBlocks | None:
        """The blocks that may be selected; None for methods that select none."""
        return check_blocks(self.config, self._skeleton()) if self.config.selects_blocks else None

    @cached_property
    def settings(self) -> MethodSettings | None:
        """The settings of the method; None for methods that select blocks."""
        if self.config.selects_blocks:
            return None
        return settings_of(self.config).check(self.config, self._skeleton, None)

    @cached_property
    def full_training(self) -> MemoryNeeds | None:
        """What a warm-up that trains is, its sums apart; None where it does not."""
        if not self.config.trained_warmup:
            return None
        return MemoryNeeds(self.config.model_copy(update={"method": "full"}), self.num_gpus)

    @property
    def sum_bytes(self) -> int:
        """Of the warm-up's gradient sums."""
        assert self.blocks is not None
        return _FP32 * sum(o * i for o, i in self.blocks.shapes.values())

    @cached_property
    def can_recompute(self) -> bool:
        """Whether the model supports activation checkpointing."""
        return self._curves[False].run.can_recompute

    @cached_property
    def mode(self) -> BatchingMode:
        """How training's rows are batched, and why where it is not as asked for."""
        return choose_mode(self._prepared[0], self.config.batching.mode, training=True)

    @cached_property
    def rows(self) -> RowStatistics:
        """Of training's micro-batches."""
        return self._statistics(self.mode.mode, self.num_gpus)

    @cached_property
    def method(self) -> Method:
        """The method; one that selects blocks has them spread, since none are selected yet."""
        if self.blocks is not None:
            return SmtMethod(spread_selection(self.blocks, self.config.selection.scope))
        assert self.settings is not None
        return self.settings.make(_no_files)

    @cached_property
    def _prepared(self) -> tuple[nn.Module, Counts]:
        model = self._skeleton()
        self.method.prepare(model, zero_stage=self.config.deepspeed.zero_stage)
        return model, self.method.count(model)

    @cached_property
    def _curves(self) -> dict[bool, ActivationCurve]:
        """Of training, without and with activation checkpointing."""
        packed, rows = self.mode.mode != PADDED, self.rows
        run = DryRun(self._prepared[0])
        return {
            anew: ActivationCurve(run, rows, packed, training=True, checkpointing=anew)
            for anew in (False, True)
        }

    @cached_property
    def _warmup_curve(self) -> ActivationCurve:
        model = self._skeleton().requires_grad_(False)
        for linear in find_eligible(model, self.config.warmup.target_modules).values():
            linear.weight.requires_grad_(True)
        mode = choose_mode(model, self.config.batching.mode, training=False).mode
        rows = self._statistics(mode, 1)  # a shard does whole steps alone
        return ActivationCurve(DryRun(model), rows, mode != PADDED, training=False)

    def _skeleton(self) -> nn.Module:
        spec = self.config.model
        model: Any = load_skeleton(located(spec))
        if spec.attn_implementation == "eager":
            model.config._attn_implementation = "eager"
        prepared: nn.Module = model.to(DTYPES[spec.dtype])
        return prepared

    def _statistics(self, mode: str, num_ranks: int) -> RowStatistics:
        batch_size, data = self.config.training.batch_size, self.config.data
        if self._encoded is None:
            return assumed_rows(
                data.max_length,
                batch_size,
                num_ranks,
                mode=mode,
                train_on_inputs=data.train_on_inputs,
            )
        plan = StepPlan(len(self._encoded), batch_size, self.config.seed)
        return seen_rows(
            self._encoded,
            plan,
            range(plan.steps_per_epoch),
            num_ranks,
            mode=mode,
            max_tokens=self.config.batching.max_tokens,
            train_on_inputs=data.train_on_inputs,
        )

    @cached_property
    def _encoded(self) -> EncodedRows | None:
        """Some of the run's rows, if they and the tokenizer are on this machine."""
        data, spec = self.config.data, located(self.config.model)
        local = spec.builtin or (spec.path and Path(spec.path).is_dir())
        if not local or not all(map(is_local, data.train)):
            return None
        try:
            rows = read_split(data, self.config.seed).training
            order = StepPlan(len(rows), len(rows), self.config.seed).rows(0)
            some = order[: _SEEN_STEPS * self.config.training.batch_size]
            encoded, _ = encode_rows(
                load_tokenizer(spec),
                [rows[position] for position in some],
                prompt_form=data.prompt,
                max_length=data.max_length,
                overlong=data.overlong,
                train_on_inputs=data.train_on_inputs,
            )
        except UserError:  # the run will report it; a plan can do without rows
            return None
        return encoded


def _no_files(name: str) -> AbstractContextManager[Path]:
    raise AssertionError(f"a plan has no file {name}")
