"""Claims about trainers that people use: each trains the tuner as it trains LoRA."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch import Tensor

from smt_ray.peft import SmtConfig
from tests.smt.layers.sharded_rank import Rows


def arguments(folder: Path, **options: Any) -> dict[str, Any]:
    """The arguments that all trainers share."""
    return {
        "output_dir": str(folder), "per_device_train_batch_size": 2, "learning_rate": 1e-2,
        "logging_steps": 1, "save_strategy": "no", "report_to": "none", "disable_tqdm": True,
        "use_cpu": True, "seed": 0, **options,
    }  # fmt: skip


def losses(trainer: Any) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def blocks(model: Any) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [{}, {"bf16": True}, {"gradient_checkpointing": True}],
    ids=["float32", "bfloat16", "checkpointing"],
)  # fmt: skip
def test_a_resumed_training_of_the_trainer_is_bit_equal(
    load: Callable, make_config: Callable, tmp_path: Path, options: dict[str, Any]
) -> None:
    from transformers import Trainer, TrainingArguments

    def make() -> Any:
        torch.manual_seed(0)
        model = get_peft_model(load(), make_config())
        given = arguments(
            tmp_path, max_steps=4, save_strategy="steps", save_steps=2, logging_steps=1, **options
        )
        return Trainer(model, TrainingArguments(**given), train_dataset=Rows())

    whole = make()
    whole.train()
    assert len(blocks(whole.model)) == len(whole.model.peft_config["default"].modules)
    assert {block.dtype for block in blocks(whole.model).values()} == {torch.float32}
    resumed = make()
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert losses(resumed)[-2:] == losses(whole)[-2:]
    for one, two in zip(blocks(whole.model).values(), blocks(resumed.model).values(), strict=True):
        assert torch.equal(one, two)
    loaded = PeftModel.from_pretrained(load(), tmp_path / "checkpoint-4")
    found = dict(loaded.named_parameters())
    assert all(torch.equal(found[name], block) for name, block in blocks(whole.model).items())


@pytest.fixture
def tiny() -> tuple[Any, Any]:
    """The built-in model and its tokenizer."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from smt_ray.builtin import MODEL_DIR

    return AutoModelForCausalLM.from_pretrained(MODEL_DIR), AutoTokenizer.from_pretrained(MODEL_DIR)


def config_of(model: Any) -> SmtConfig:
    from smt_ray.peft import select

    ids = torch.arange(3, 35).view(2, 16)
    selection = select(model, [{"input_ids": ids, "labels": ids}], budget=0.03)
    return SmtConfig.from_selection(selection, task_type="CAUSAL_LM")


def add_template(tokenizer: Any) -> Any:
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }} {% endfor %}"
    return tokenizer


@pytest.mark.slow
@pytest.mark.parametrize("packing", [False, True], ids=["padded", "packed"])
def test_sft_trainer(tiny: tuple[Any, Any], tmp_path: Path, packing: bool) -> None:
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    model, tokenizer = tiny
    words = ["the red fox", "a small blue bird", "two green frogs", "one old grey wolf"] * 4
    rows = Dataset.from_list([{"text": f"{text} sleeps"} for text in words])
    given = SFTConfig(**arguments(tmp_path, max_steps=4, packing=packing, max_length=32))
    config = config_of(model)
    trainer = SFTTrainer(
        model, given, train_dataset=rows, processing_class=tokenizer, peft_config=config
    )
    before = blocks(trainer.model)
    assert before
    assert all(name.endswith(".blocks") for name in before)
    trainer.train()
    after = blocks(trainer.model)
    assert all(not torch.equal(before[name], after[name]) for name in before)
    assert losses(trainer)[-1] < losses(trainer)[0]
    trainer.save_model(str(tmp_path / "adapter"))
    base = type(model).from_pretrained(model.name_or_path)
    loaded = dict(PeftModel.from_pretrained(base, tmp_path / "adapter").named_parameters())
    assert all(torch.equal(loaded[name], block) for name, block in after.items())


@pytest.mark.slow
def test_dpo_trainer_without_a_second_base_model(tiny: tuple[Any, Any], tmp_path: Path) -> None:
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    model, tokenizer = tiny
    rows = Dataset.from_list(
        [{"prompt": f"{n} is", "chosen": " good", "rejected": " bad"} for n in ("it", "he")] * 4
    )
    given = DPOConfig(**arguments(tmp_path, max_steps=3, beta=0.5))
    trainer = DPOTrainer(
        model, args=given, train_dataset=rows, processing_class=tokenizer,
        peft_config=config_of(model),
    )  # fmt: skip
    assert trainer.ref_model is None
    trainer.train()
    history = [entry for entry in trainer.state.log_history if "rewards/margins" in entry]
    # Before the first step the model is its own reference, so the loss is log 2 exactly.
    assert history[0]["loss"] == pytest.approx(0.6931, abs=1e-4)
    assert history[0]["rewards/margins"] == 0
    assert history[-1]["rewards/margins"] > 0
