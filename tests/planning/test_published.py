"""Plans of whole models are within 10% of the peaks that other trainers publish."""

from __future__ import annotations

import pytest

from smt_ray.config.load import load_config
from smt_ray.documents.memory import StageMemory
from smt_ray.planning.memory import rank_bytes
from smt_ray.planning.report import plan_memory

pytestmark = pytest.mark.slow
GB, GIB = 10**9, 2**30
LLAMA_2_7B = (
    "vocab_size: 32000, hidden_size: 4096, intermediate_size: 11008, num_hidden_layers: 32,"
    " num_attention_heads: 32"
)
LLAMA_2_13B = (
    "vocab_size: 32000, hidden_size: 5120, intermediate_size: 13824, num_hidden_layers: 40,"
    " num_attention_heads: 40"
)
LLAMA_3_8B = (
    "vocab_size: 128256, hidden_size: 4096, intermediate_size: 14336, num_hidden_layers: 32,"
    " num_attention_heads: 32, num_key_value_heads: 8"
)


def lora(architecture: str, targets: str, length: int, num_rows: int) -> StageMemory:
    """The parts with LoRA of rank 8 on one GPU, with a loss over all positions."""
    config = load_config(
        None,
        [
            f"model={{dtype: bfloat16, architecture: {{model_type: llama, {architecture}}}}}",
            f"data={{train: [rows.json], max_length: {length + 1}, train_on_inputs: true}}",
            f"training.batch_size={num_rows}",
            f"batching={{mode: packed, max_tokens: {num_rows * length}}}",
            f"lora={{rank: 8, target_modules: [{targets}]}}",
            "method=lora",
            "evaluation.tasks=[]",
        ],
    )
    return plan_memory(config, 1).stages[0]


@pytest.mark.parametrize(
    ("architecture", "num_rows", "published"),
    [(LLAMA_2_7B, 1, 21.30), (LLAMA_2_7B, 2, 29.07), (LLAMA_2_13B, 1, 38.12)],
)
def test_litgpts_lora(architecture: str, num_rows: int, published: float) -> None:
    """LoRA on queries and values, 1,304 tokens a row, on an A100 of 40 GB.

    From litgpt's tutorials/resource-tables.md.
    """
    found = lora(architecture, "q_proj, v_proj", 1304, num_rows)
    assert found.total == pytest.approx(published * GB, rel=0.1)


def test_torchtunes_lora_with_a_chunked_loss() -> None:
    """Two rows of 2,048 tokens with recomputation and a chunked loss: 16.2 GiB on an RTX 4090.

    From torchtune's README of 2024, with the targets of its config of that time. Logits that were
    held whole would add 4 GiB for each copy in float32.
    """
    targets = "q_proj, v_proj, o_proj, gate_proj, up_proj, down_proj"
    found = lora(LLAMA_3_8B, targets, 2048, 2).checkpointed_total
    assert found == pytest.approx(16.2 * GIB, rel=0.1)


@pytest.mark.parametrize(("zero_stage", "published"), [(0, 120), (2, 16.6)])
def test_deepspeeds_stages(zero_stage: int, published: float) -> None:
    """The paper of ZeRO (figure 1): 7.5 billion parameters on 64 GPUs.

    It keeps gradients in 16 bits at all stages. Ours are in float32 from stage 1 on, which adds
    15 GB at stage 1 and 0.2 GB at stage 3, where the paper has 31.4 and 1.9 GB.
    """
    num = 7_500_000_000
    found = rank_bytes(
        zero_stage, 64, num_parameters=num, num_trainable=num, bytes_per_value=2, bucket=0
    )
    held = found.weights + found.gradients + found.optimizer
    assert held == pytest.approx(published * GB, rel=0.1)
