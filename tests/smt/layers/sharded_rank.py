"""One rank that trains sparse layers by transformers' Trainer, for the claims of test_sharded.py.

It is started as ``sharded_rank.py FOLDER PART RANK NUM_RANKS PORT``. The part is ``plain``,
``zero3`` or ``fsdp2``. The folder holds model/ and selection.safetensors. Rank 0 writes the losses
to PART.json and saves the trained model to PART/.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

from smt_ray.smt.layers.saving import plain_state_dict
from smt_ray.smt.model import apply_selection
from smt_ray.smt.selection import Selection
from tests.ranks import set_rank

NUM_STEPS, BATCH_SIZE, LENGTH = 3, 4, 12


class Rows(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """Random rows of equal length, so that averages do not depend on how ranks share them."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(1)
        self.ids = torch.randint(100, (NUM_STEPS * BATCH_SIZE, LENGTH), generator=generator)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.ids[index], "labels": self.ids[index]}


def main(folder: Path, part: str, rank: int, num_ranks: int) -> None:
    """Trains, evaluates three times, saves, and evaluates what was saved."""
    from transformers import AutoModelForCausalLM, Trainer

    model = AutoModelForCausalLM.from_pretrained(folder / "model")
    apply_selection(model, Selection.load(folder / "selection.safetensors"))
    arguments = make_arguments(folder, part, num_ranks)
    trainer = Trainer(model, arguments, train_dataset=Rows(), eval_dataset=Rows())
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    evaluated = [trainer.evaluate()["eval_loss"] for _ in range(3)]
    trainer.save_model(str(folder / part))
    facts: dict[str, Any] = {"losses": losses, "evaluated": evaluated}
    if part != "zero3":
        for name, dtype in (("fsdp1", torch.float32), ("fsdp2", torch.bfloat16)):
            facts[name] = by_hand(folder, None if part == "plain" else name, dtype)
    if rank == 0:
        (folder / f"{part}.json").write_text(json.dumps(facts))


def by_hand(folder: Path, wrapper: str | None, dtype: torch.dtype) -> list[float]:
    """Trains without the Trainer: three steps, then the loss twice, then with the saved state.

    Every rank computes the same rows, so the average over ranks is that of one rank.

    Args:
        folder: The folder.
        wrapper: ``fsdp1`` or ``fsdp2``; None for a model that is not sharded.
        dtype: The dtype of the base model.
    """
    from transformers import AutoModelForCausalLM

    plain, model = (
        AutoModelForCausalLM.from_pretrained(folder / "model", dtype=dtype) for _ in range(2)
    )
    apply_selection(model, Selection.load(folder / "selection.safetensors"))
    sharded = shard(model, wrapper)
    trained = [p for p in sharded.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=5.0)
    ids = Rows().ids[:BATCH_SIZE]
    losses = []
    for _ in range(NUM_STEPS):
        loss = sharded(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    state = full_state(sharded, wrapper)  # before any forward has seen the last step
    with torch.no_grad():
        losses += [sharded(input_ids=ids, labels=ids).loss.item() for _ in range(2)]
        plain.load_state_dict(plain_state_dict(state))
        losses.append(plain(input_ids=ids, labels=ids).loss.item())
    return losses


def shard(model: Any, wrapper: str | None) -> Any:
    """The model, sharded layer by layer."""
    from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
    from torch.distributed.fsdp.wrap import ModuleWrapPolicy

    if wrapper == "fsdp1":
        policy = ModuleWrapPolicy({type(model.model.layers[0])})
        cpu = torch.device("cpu")
        return FullyShardedDataParallel(
            model, auto_wrap_policy=policy, device_id=cpu, use_orig_params=True
        )
    if wrapper == "fsdp2":
        for layer in model.model.layers:
            fully_shard(layer, reshard_after_forward=True)
        fully_shard(model)
    return model


def full_state(model: Any, wrapper: str | None) -> dict[str, torch.Tensor]:
    """The whole state of a sharded model; all ranks take part."""
    from torch.distributed.fsdp import FullyShardedDataParallel, StateDictType

    if wrapper == "fsdp1":
        with FullyShardedDataParallel.state_dict_type(model, StateDictType.FULL_STATE_DICT):
            return dict(model.state_dict())
    state = model.state_dict()
    return {k: v.full_tensor() if hasattr(v, "full_tensor") else v for k, v in state.items()}


def make_arguments(folder: Path, part: str, num_ranks: int) -> Any:
    """The Trainer's arguments; SGD, because Adam's first steps magnify rounding."""
    from transformers import TrainingArguments

    if part == "plain":
        special: dict[str, Any] = {"use_cpu": True}
    else:
        shard_on_cpu()
    if part == "zero3":
        special = {"deepspeed": zero3()}
    elif part == "fsdp2":
        special = {
            "fsdp": "full_shard auto_wrap",
            "fsdp_config": {
                "version": 2,
                "transformer_layer_cls_to_wrap": ["LlamaDecoderLayer"],
                "state_dict_type": "FULL_STATE_DICT",
            },
        }
    return TrainingArguments(
        output_dir=str(folder / f"{part}-output"),
        per_device_train_batch_size=BATCH_SIZE // num_ranks,
        per_device_eval_batch_size=BATCH_SIZE // num_ranks,
        num_train_epochs=1,
        learning_rate=5.0,
        lr_scheduler_type="constant",
        max_grad_norm=0.0,
        optim="sgd",
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=0,
        **special,
    )


def zero3() -> dict[str, Any]:
    """DeepSpeed's configuration: every parameter is partitioned, even the smallest."""
    from smt_ray.training.engine import import_deepspeed

    import_deepspeed(torch.device("cpu"))
    return {
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "zero_allow_untested_optimizer": True,
        "zero_optimization": {
            "stage": 3,
            "stage3_param_persistence_threshold": 0,
            "stage3_gather_16bit_weights_on_model_save": True,
        },
    }


def shard_on_cpu() -> None:
    """Makes accelerate shard on the CPU, which it otherwise only does on accelerators."""
    from accelerate import PartialState
    from accelerate.utils import DistributedType

    def prepare_backend(*_: Any) -> tuple[str, DistributedType]:
        return "gloo", DistributedType.MULTI_GPU

    def set_device(state: PartialState) -> None:
        state.device = torch.device("cpu")

    PartialState._prepare_backend = prepare_backend
    PartialState.set_device = set_device


if __name__ == "__main__":
    _, given_folder, given_part, given_rank, given_num_ranks, port = sys.argv
    set_rank(given_rank, given_num_ranks, port)
    main(Path(given_folder), given_part, int(given_rank), int(given_num_ranks))
