"""Claims about the table of a plan."""

from __future__ import annotations

import io
from contextlib import redirect_stdout
from typing import Any

import pytest

from smt_ray.documents.memory import MemoryReport
from smt_ray.reporting.text.memory import facts, format_bytes, print_memory, stage_cells

GIB, MIB = 2**30, 2**20
SETTING = {
    "zero_stage": 1,
    "checkpointing": True,
    "max_tokens": 512,
    "accumulate_on": "host",
    "training_bytes": 20 * GIB,
    "warmup_bytes": 21 * GIB,
    "bytes": 21 * GIB,
}
BATCH = {
    "mode": "packed",
    "num_tokens": 4096,
    "row_length": 255,
    "num_targets": 2048,
    "source": "assumed, not read",
}
STAGE = {
    "zero_stage": 0,
    "weights": 13 * GIB,
    "gradients": 108 * MIB,
    "optimizer": 648 * MIB,
    "buffers": 0,
    "activations": 4 * GIB,
    "total": 17 * GIB,
    "checkpointed_activations": GIB,
    "checkpointed_total": 14 * GIB,
}


def report(**changes: Any) -> MemoryReport:
    values: dict[str, Any] = {
        "name": "mine",
        "method": "smt",
        "num_gpus": 2,
        "num_parameters": 1234567,
        "dtype": "bfloat16",
        "trainable": {"num_trainable": 65536, "percent_of_base": 0.84, "percent_of_total": 0.83},
        "blocks": {
            "num_chosen": 864, "num_eligible": 24576, "block_size": 256, "num_modules": 96,
            "projections": ["q_proj", "v_proj"],
        },
        "host_bytes": 108 * MIB,
        "adapter_bytes": 108 * MIB,
        "batch": BATCH,
        "stages": [STAGE],
        "warmup": {
            "mode": "base", "num_senders": 2, "weights": 12 * GIB, "sums": 6 * GIB,
            "accumulate_on": "device", "activations": 2 * GIB,
            "traffic": {"gradient": 15 * GIB, "score": 96 * MIB},
        },
        "configured": SETTING,
    }  # fmt: skip
    return MemoryReport.model_validate({**values, **changes})


def verdict(**changes: Any) -> dict[str, Any]:
    """The verdict on a GPU of 24 GiB, which is too small."""
    values = {"gpu_memory": 24 * GIB, "reserved": GIB, "fits": False, "smallest": SETTING}
    return {**values, **changes}


def printed(**changes: Any) -> str:
    with redirect_stdout(io.StringIO()) as file:
        print_memory(report(**changes))
    return file.getvalue()


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0.0 KiB"),
        (1536, "1.5 KiB"),
        (MIB, "1.0 MiB"),
        (24 * GIB, "24.0 GiB"),
        (GIB - 1, "1.0 GiB"),
    ],
)
def test_a_size_has_a_suitable_unit(size: int, text: str) -> None:
    assert format_bytes(size) == text


def test_every_part_of_every_stage_is_shown() -> None:
    cells = stage_cells(report())
    assert cells.rows == (
        ("ZeRO 0", "13.0 GiB", "108.0 MiB", "648.0 MiB", "0.0 KiB", "4.0 GiB", "17.0 GiB",
         "1.0 GiB", "14.0 GiB"),
    )  # fmt: skip
    assert len(cells.head) == len(cells.rows[0])


def test_a_stage_without_checkpointing_has_no_sizes_for_it() -> None:
    stage = {**STAGE, "checkpointed_activations": None, "checkpointed_total": None}
    (row,) = stage_cells(report(stages=[stage])).rows
    assert row[-2:] == ("-", "-")


def test_the_table_shows_the_blocks_the_warm_up_and_its_traffic() -> None:
    text = printed()
    assert "mine (smt) on 2 GPUs" in text
    assert "864 of 24,576 eligible of 256 x 256, in q_proj + v_proj of 96 modules" in text
    assert (
        "15.0 GiB with warmup.reduction=gradient, 96.0 MiB with warmup.reduction=score;"
        " total of 2 places"
    ) in text
    assert "20.0 GiB per GPU: weights 12.0 GiB, activations 2.0 GiB, sums 6.0 GiB;" in text


def test_a_trained_warm_up_needs_full_fine_tuning_and_its_sums() -> None:
    trained = {
        "mode": "trained", "accumulate_on": "device", "sums": GIB, "full_training": 2 * GIB,
        "num_senders": 1, "traffic": {"gradient": 0},
    }  # fmt: skip
    names = dict(facts(report(warmup=trained)))
    assert names["warm-up"].startswith("3.0 GiB per GPU: full fine-tuning 2.0 GiB, sums 1.0 GiB;")
    assert names["traffic"].endswith("total of 1 rank")


def test_batching_that_is_not_as_configured_is_a_fallback() -> None:
    assert "fallback" not in dict(facts(report()))
    fallback = {**BATCH, "mode": "padded", "fallback": "the model has its own attention"}
    names = dict(facts(report(batch=fallback)))
    assert names["fallback"] == "padded: the model has its own attention"


def test_a_verdict_needs_the_memory_of_a_gpu() -> None:
    assert "--gpu-memory says whether it fits" in printed()
    assert "cheapest" not in dict(facts(report()))


def test_a_verdict_names_the_setting_as_config_keys() -> None:
    assert "does not fit 24.0 GiB, of which 1.0 GiB is reserved" in printed(verdict=verdict())
    expected = (
        "deepspeed.zero_stage=1 training.activation_checkpointing=true batching.max_tokens=512"
        " warmup.accumulate_on=host (training 20.0 GiB, warm-up 21.0 GiB)"
    )
    names = dict(facts(report(verdict=verdict(cheapest=SETTING))))
    assert names["cheapest"] == expected
    assert "none fits; the smallest is " in printed(verdict=verdict())


def test_other_methods_have_neither_blocks_nor_a_warm_up() -> None:
    lora = report(
        method="lora",
        method_settings={"rank": 32},
        blocks=None,
        host_bytes=None,
        warmup=None,
        configured={**SETTING, "warmup_bytes": 0},
    )
    names = dict(facts(lora))
    assert names["factors"] == "rank 32"
    assert not {"blocks", "warm-up", "traffic", "host"} & set(names)
