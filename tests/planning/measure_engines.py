"""A program that measures the peak of live bytes of real engines, one after the other.

It is started as ``measure_engines.py CONFIGS [DEVICE]``, with a JSON list of configs, and prints a
list of bytes. On cuda, they are those of the allocator.
"""

from __future__ import annotations

import gc
import json
import os
import sys
from typing import Any

import torch
import torch.distributed as dist

from smt_ray.config.load import validate_config
from smt_ray.data.batches import step_micro_batches
from smt_ray.data.encoding.stored import EncodedRows
from smt_ray.models.load import DTYPES
from smt_ray.models.quantisation import quantise
from smt_ray.planning.live_bytes import LiveBytes
from smt_ray.planning.prepared import prepare_model
from smt_ray.training.engine import Engine
from smt_ray.training.engine_settings import EngineSettings
from smt_ray.training.loss.supervised import SupervisedLoss
from smt_ray.training.recompute import recompute_activations

NUM_STEPS = 3


def make_rows(num_rows: int, length: int, vocabulary: int) -> EncodedRows:
    ids = torch.randint(1, vocabulary, (num_rows * length,), dtype=torch.int32)
    offsets = torch.arange(num_rows + 1) * length
    prompts = torch.full((num_rows,), length // 2, dtype=torch.int32)
    return EncodedRows(ids, offsets, prompts, torch.arange(num_rows, dtype=torch.int32))


def measure(values: dict[str, Any], device: torch.device) -> int:
    from transformers import AutoConfig, AutoModelForCausalLM

    config = validate_config(values)
    architecture = dict(config.model.architecture or {})
    stage, dtype = config.deepspeed.zero_stage, config.model.dtype
    rows = make_rows(config.training.batch_size, config.data.max_length, architecture["vocab_size"])
    gc.collect()  # the cycles of the previous engine must not be freed while bytes are counted
    with _peak_on(device) as live:
        torch.manual_seed(0)
        model: Any = AutoModelForCausalLM.from_config(
            AutoConfig.for_model(architecture.pop("model_type"), **architecture)
        ).to(device, DTYPES[dtype])
        if config.model.quantization != "none":
            quantise(model, config.model.quantization, device, DTYPES[dtype])
        method = prepare_model(config).method
        method.prepare(model)
        if config.training.activation_checkpointing:
            recompute_activations(model)
        engine = Engine(
            SupervisedLoss(model, narrow=True),
            EngineSettings(
                zero_stage=stage,
                dtype=dtype,
                betas=(0.9, 0.999),
                epsilon=1e-8,
                weight_decay=0.0,
                max_grad_norm=1.0,
            ),
            device=device,
        )
        engine.train()
        for step in range(NUM_STEPS):
            if step == 1:
                live.reset_peak()  # the first step and the start of the engine are not counted
            for batch in step_micro_batches(
                rows,
                list(range(len(rows))),
                mode="packed",
                max_tokens=config.batching.max_tokens,
                train_on_inputs=config.data.train_on_inputs,
            ):
                loss = engine.loss(batch.to(device))
                engine.backward(loss)
                del loss
            engine.step(1e-3)
        return live.peak


class _AllocatorPeak:
    """The peak of CUDA's allocator, with the interface of :class:`LiveBytes`."""

    def __enter__(self) -> _AllocatorPeak:
        self._before = torch.cuda.memory_allocated()
        return self

    def __exit__(self, *_: object) -> None:
        torch.cuda.empty_cache()

    def reset_peak(self) -> None:
        torch.cuda.reset_peak_memory_stats()

    @property
    def peak(self) -> int:
        return torch.cuda.max_memory_allocated() - self._before


def _peak_on(device: torch.device) -> LiveBytes | _AllocatorPeak:
    return _AllocatorPeak() if device.type == "cuda" else LiveBytes()


def main() -> None:
    torch.set_num_threads(1)
    device = torch.device(sys.argv[2] if len(sys.argv) > 2 else "cpu")
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
    store = dist.HashStore()
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=0, world_size=1)
    print(json.dumps([measure(values, device) for values in json.loads(sys.argv[1])]))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
