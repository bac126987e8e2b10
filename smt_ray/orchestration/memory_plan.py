"""Whether a run fits its GPUs, and what of it takes how much: without weights, rows or a cluster."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import nn

from smt_ray.config.run import RunConfig
from smt_ray.methods.full import FullMethod
from smt_ray.methods.protocol import Counts, Method
from smt_ray.methods.registry import make_method
from smt_ray.methods.smt import SmtMethod
from smt_ray.models.inspect import find_eligible
from smt_ray.models.load import DTYPES, load_skeleton
from smt_ray.orchestration.preflight import Preflight, check_lora, check_model
from smt_ray.planning.activations import DryRun
from smt_ray.planning.curve import ActivationCurve
from smt_ray.planning.memory import RankBytes, rank_bytes
from smt_ray.planning.settings import Setting, cheapest, settings_by_cost
from smt_ray.planning.spread import spread_selection
from smt_ray.training.engine import LARGEST_BUCKET
from smt_ray.training.packed_attention import choose_mode

RESERVED_BYTES = 2**30
"""Left to CUDA's context, kernels' workspaces and the allocator's slack."""

ASSUMED_TARGET_SHARE = 0.5
"""Of a micro-batch's positions, those with a target, where prompts are not trained on."""

_FP32 = 4
_STATISTICS_BYTES = 4 * 8  # of a block: four sums in float64


def plan_memory(
    config: RunConfig, num_gpus: int | None = None, gpu_memory: int | None = None
) -> dict[str, Any]:
    """What a run needs, as :mod:`smt_ray.reporting.memory_table` shows it.

    Args:
        config: Of the run.
        num_gpus: Training ranks; by default the config's.
        gpu_memory: Bytes of each GPU; None for no verdict.

    Raises:
        UserError: The model cannot be found, or does not allow what the config asks for.
    """
    needs = _Needs(config, num_gpus or config.resources.num_workers)
    configured = Setting(
        config.deepspeed.zero_stage,
        False,
        config.batching.max_tokens,
        config.warmup.accumulate_on,
    )
    report = {
        "name": config.name,
        "method": config.method,
        "num_gpus": needs.num_gpus,
        "model": {
            "num_parameters": needs.counts.num_base,
            "dtype": config.model.dtype,
        },
        "trainable": needs.counts.summary(),
        **needs.choice(),
        "adapter_bytes": needs.num_bytes * needs.counts.num_trainable,
        "batch": needs.batch(),
        "stages": [needs.stage(stage) for stage in range(4)],
        "warmup": needs.warmup(),
        "configured": needs.verdict(configured),
    }
    if gpu_memory is not None:
        available = gpu_memory - RESERVED_BYTES
        settings = settings_by_cost(config.batching.max_tokens, needs.row_length, needs.num_gpus)
        found = cheapest(settings, needs.bytes_of, available)
        report |= {
            "gpu_memory": gpu_memory,
            "reserved": RESERVED_BYTES,
            "fits": report["configured"]["bytes"] <= available,
            "cheapest": needs.verdict(found) if found else None,
        }
    return report


def method_of(config: RunConfig) -> Method:
    """The method as a plan takes it: smt with its blocks spread, before any are selected."""
    return _Needs(config, 1)._method


@dataclass(frozen=True)
class _Needs:
    """Bytes of one config on so many GPUs, each found when it is first asked for."""

    config: RunConfig
    num_gpus: int

    @property
    def row_length(self) -> int:
        return self.config.data.max_length

    @property
    def num_bytes(self) -> int:
        """Bytes of a weight's value."""
        return DTYPES[self.config.model.dtype].itemsize

    def bytes_of(self, setting: Setting) -> int:
        """The most that a GPU holds, in the warm-up or in training."""
        return max(self.training_bytes(setting), self.warmup_bytes(setting))

    def training_bytes(self, setting: Setting) -> int:
        activations = self._curves[setting.checkpointing].bytes_at(setting.max_tokens)
        return self.rank(setting.zero_stage).peak(activations)

    def warmup_bytes(self, setting: Setting) -> int:
        if self._warmup_curve is None:
            return 0
        sums = self._sum_bytes if setting.accumulate_on == "device" else 0
        weights = self.num_bytes * self.counts.num_base
        return weights + sums + self._warmup_curve.bytes_at(setting.max_tokens)

    def verdict(self, setting: Setting) -> dict[str, Any]:
        """A setting and what it needs."""
        return {
            "zero_stage": setting.zero_stage,
            "checkpointing": setting.checkpointing,
            "max_tokens": setting.max_tokens,
            "accumulate_on": setting.accumulate_on if self._warmup_curve else None,
            "training_bytes": self.training_bytes(setting),
            "warmup_bytes": self.warmup_bytes(setting),
            "bytes": self.bytes_of(setting),
        }

    def rank(self, stage: int) -> RankBytes:
        return rank_bytes(
            stage,
            self.num_gpus,
            num_parameters=self.counts.num_total,
            num_trainable=self.counts.num_trainable,
            bytes_per_value=self.num_bytes,
            bucket=min(self.counts.num_trainable, LARGEST_BUCKET),
        )

    def stage(self, stage: int) -> dict[str, Any]:
        """The parts under a ZeRO stage; they add up to the totals."""
        rank, tokens = self.rank(stage), self.config.batching.max_tokens
        kept, anew = (self._curves[c].bytes_at(tokens) for c in (False, True))
        held = rank.weights + rank.gradients + rank.optimizer
        return {
            "zero_stage": stage,
            "weights": rank.weights,
            "gradients": rank.gradients,
            "optimizer": rank.optimizer,
            "activations": kept,
            "buffers": rank.peak(kept) - held - kept,
            "total": rank.peak(kept),
            "checkpointed_activations": anew,
            "checkpointed_total": rank.peak(anew),
        }

    def batch(self) -> dict[str, Any]:
        curve = self._curves[False]
        shape = curve.shape(curve.num_rows(self.config.batching.max_tokens))
        return {
            "mode": self._mode[0],
            "fallback": self._mode[1],
            "num_tokens": shape.num_tokens,
            "num_rows": shape.num_rows,
            "row_length": shape.row_length,
            "num_targets": shape.num_targets,
        }

    def choice(self) -> dict[str, Any]:
        """What the method chooses: blocks, or a rank."""
        if self._preflight is not None:
            size = self._preflight.block_size
            names = [name for names, _ in self._preflight.groups for name in names]
            shapes = [self._preflight.shapes[name] for name in names]
            return {
                "blocks": {
                    "num_chosen": self.counts.num_trainable // size**2,
                    "num_eligible": sum(o * i for o, i in shapes) // size**2,
                    "block_size": size,
                    "num_modules": len(names),
                    "projections": list(dict.fromkeys(n.rpartition(".")[2] for n in names)),
                },
                # Kept to take an adapter off again; SparseLinear.original_blocks.
                "host_bytes": self.num_bytes * self.counts.num_trainable,
            }
        return {"lora": self._lora} if self._lora else {}

    def warmup(self) -> dict[str, Any] | None:
        """The warm-up's memory on its GPU, and the bytes that its shards send in all."""
        if self._warmup_curve is None:
            return None
        assert self._preflight is not None
        warmup, eligible = self.config.warmup, self._sum_bytes // _FP32
        num_finest = eligible // self._preflight.table_block_size**2
        return {
            "num_shards": warmup.num_shards,
            "reduction": warmup.reduction,
            "weights": self.num_bytes * self.counts.num_base,
            "sums": self._sum_bytes,
            "accumulate_on": warmup.accumulate_on,
            "activations": self._warmup_curve.bytes_at(self.config.batching.max_tokens),
            # One shard sends the weights too, for the saliency.
            "moved": {
                "gradient": warmup.num_shards * self._sum_bytes + self.num_bytes * eligible,
                "score": warmup.num_shards * _STATISTICS_BYTES * num_finest,
            },
        }

    @cached_property
    def _spec(self) -> dict[str, Any]:
        return self.config.model.spec()

    @cached_property
    def _preflight(self) -> Preflight | None:
        return check_model(self.config, self._spec) if self.config.method == "smt" else None

    @cached_property
    def _lora(self) -> dict[str, Any] | None:
        if self.config.method not in ("lora", "dora"):
            return None
        return check_lora(self.config, self._spec)

    @cached_property
    def _sum_bytes(self) -> int:
        assert self._preflight is not None
        return _FP32 * sum(o * i for o, i in self._preflight.shapes.values())

    @cached_property
    def _prepared(self) -> tuple[nn.Module, Counts]:
        model, method = self._skeleton(), self._method
        method.prepare(model, zero_stage=self.config.deepspeed.zero_stage)
        return model, method.count(model)

    @property
    def counts(self) -> Counts:
        return self._prepared[1]

    @cached_property
    def _mode(self) -> tuple[str, str | None]:
        return choose_mode(self._prepared[0], self.config.batching.mode, training=True)

    @cached_property
    def _curves(self) -> dict[bool, ActivationCurve]:
        """Of training, without and with activation checkpointing."""
        packed = self._mode[0] != "padded"
        run = DryRun(self._prepared[0])
        rows = -(-self.config.training.batch_size // self.num_gpus)
        return {
            anew: self._curve(run, rows, packed, training=True, checkpointing=anew)
            for anew in (False, True)
        }

    @cached_property
    def _warmup_curve(self) -> ActivationCurve | None:
        if self._preflight is None or not self.config.selection.needs_warmup:
            return None
        model = self._skeleton().requires_grad_(False)
        for linear in find_eligible(model, self.config.warmup.target_modules).values():
            linear.weight.requires_grad_(True)
        mode, _ = choose_mode(model, self.config.batching.mode, training=False)
        run = DryRun(model)
        # A shard does whole steps alone.
        return self._curve(run, self.config.training.batch_size, mode != "padded", training=False)

    def _curve(
        self, run: DryRun, num_rows: int, packed: bool, *, training: bool, checkpointing: bool = False
    ) -> ActivationCurve:
        # A row's last token is only a target: a pack leaves it out.
        length = max(self.row_length - packed, 1)
        return ActivationCurve(
            run,
            row_length=length,
            max_rows=min(max(self.config.batching.max_tokens // length, 1), num_rows),
            target_share=1.0 if self.config.data.train_on_inputs else ASSUMED_TARGET_SHARE,
            packed=packed,
            training=training,
            checkpointing=checkpointing,
        )

    def _skeleton(self) -> nn.Module:
        model = load_skeleton(self._spec)
        if self._spec["attn_implementation"] == "eager":
            model.config._attn_implementation = "eager"
        return model.to(DTYPES[self.config.model.dtype])

    @cached_property
    def _method(self) -> Method:
        if self._lora is not None:
            return make_method(self.config.method, self._lora)
        if self._preflight is None:
            return FullMethod()
        return SmtMethod(
            spread_selection(
                self._preflight.shapes,
                self._preflight.groups,
                block_size=self._preflight.block_size,
                num_base_parameters=self._preflight.num_parameters,
                scope=self.config.selection.scope,
            )
        )
