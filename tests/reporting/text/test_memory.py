"""The plan's table says what its dict holds."""

from __future__ import annotations

import io
from typing import Any

import pytest

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


def report(**changes: Any) -> dict[str, Any]:
    stage = {
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
    values: dict[str, Any] = {
        "name": "mine",
        "method": "smt",
        "num_gpus": 2,
        "model": {"num_parameters": 1234567, "dtype": "bfloat16"},
        "trainable": {
            "num_trainable": 65536, "percent_of_base": 0.84, "percent_of_total": 0.83,
        },
        "blocks": {
            "num_chosen": 864, "num_eligible": 24576, "block_size": 256, "num_modules": 96,
            "projections": ["q_proj", "v_proj"],
        },
        "host_bytes": 108 * MIB,
        "adapter_bytes": 108 * MIB,
        "batch": {
            "mode": "packed", "fallback": None, "num_tokens": 4096, "row_length": 255,
            "num_targets": 2048, "source": "assumed, not read",
        },
        "stages": [stage],
        "warmup": {
            "mode": "base", "num_senders": 2, "weights": 12 * GIB, "sums": 6 * GIB,
            "accumulate_on": "device", "activations": 2 * GIB,
            "moved": {"gradient": 15 * GIB, "score": 96 * MIB},
        },
        "configured": SETTING,
    }  # fmt: skip
    return {**values, **changes}


def printed(**changes: Any) -> str:
    file = io.StringIO()
    print_memory(report(**changes), file)
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
def test_a_size_has_the_unit_that_reads_best(size: int, text: str) -> None:
    assert format_bytes(size) == text


def test_every_part_of_every_stage_is_shown() -> None:
    cells = stage_cells(report())
    assert cells.rows == (
        ("ZeRO 0", "13.0 GiB", "108.0 MiB", "648.0 MiB", "0.0 KiB", "4.0 GiB", "17.0 GiB",
         "1.0 GiB", "14.0 GiB"),
    )  # fmt: skip
    assert len(cells.head) == len(cells.rows[0])


def test_the_table_says_what_is_chosen_and_moved() -> None:
    text = printed()
    assert "mine (smt) on 2 GPUs" in text
    assert "864 of 24,576 eligible of 256 x 256, in q_proj + v_proj of 96 modules" in text
    assert "15.0 GiB by reduction gradient, 96.0 MiB by reduction score; from 2 shards" in text
    assert "20.0 GiB a GPU: weights 12.0 GiB, activations 2.0 GiB, sums 6.0 GiB;" in text


def test_a_verdict_needs_a_size() -> None:
    assert "--gpu-memory says whether it fits" in printed()
    assert "cheapest" not in dict(facts(report()))


def test_a_verdict_names_the_setting_as_config_keys() -> None:
    room = {"gpu_memory": 24 * GIB, "reserved": GIB, "smallest": SETTING}
    text = printed(**room, fits=False, cheapest=SETTING)
    assert "does not fit 24.0 GiB less 1.0 GiB for CUDA" in text
    expected = (
        "deepspeed.zero_stage=1 training.activation_checkpointing=true batching.max_tokens=512"
        " warmup.accumulate_on=host (training 20.0 GiB, warm-up 21.0 GiB)"
    )
    assert dict(facts(report(**room, fits=False, cheapest=SETTING)))["cheapest"] == expected
    assert "none fits; the smallest is " in printed(**room, fits=False, cheapest=None)


def test_other_methods_have_no_blocks_and_no_warm_up() -> None:
    values = report(warmup=None, lora={"rank": 32}, configured={**SETTING, "warmup_bytes": 0})
    del values["blocks"], values["host_bytes"]
    names = dict(facts(values))
    assert names["factors"] == "rank 32"
    assert not {"blocks", "warm-up", "it moves", "host"} & set(names)
