"""Claims about the tuner under ZeRO-3 and FSDP2; sharded_rank.py makes the measurements."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel

from tests.ranks import free_port, run_ranks
from tests.selections import choose
from tests.smt.layers.sharded_rank import Rows

HARNESS = Path(__file__).with_name("sharded_rank.py")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, make_llama: Callable[..., Any]) -> Path:
    """The measurements of one rank, and of two under ZeRO-3 and FSDP2."""
    folder = tmp_path_factory.mktemp("sharded")
    model = make_llama()
    model.save_pretrained(folder / "model")
    choose(model).save(folder / "selection.safetensors")
    run_ranks(HARNESS, folder, [("plain", 0, 1, free_port())])
    for part in ("zero3", "fsdp2"):
        port = free_port()
        run_ranks(HARNESS, folder, [(part, rank, 2, port) for rank in range(2)])
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("part", ["zero3", "fsdp2"])
def test_two_sharded_ranks_equal_one_rank(folder: Path, part: str) -> None:
    one, two = (json.loads((folder / f"{p}.json").read_text()) for p in ("plain", part))
    assert two["losses"] == pytest.approx(one["losses"], rel=1e-5)
    assert two["evaluated"] == pytest.approx(one["evaluated"], rel=1e-5)
    assert one["evaluated"][0] < 0.99 * one["losses"][0]  # it has learned something


@pytest.mark.slow
@pytest.mark.parametrize("part", ["plain", "zero3", "fsdp2"])
def test_the_saved_adapter_is_the_trained_one(folder: Path, part: str) -> None:
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(folder / "model")
    model, ids = PeftModel.from_pretrained(base, folder / part), Rows().ids
    with torch.no_grad():
        loss = model(input_ids=ids, labels=ids).loss.item()
    expected = json.loads((folder / "plain.json").read_text())["evaluated"][0]
    assert loss == pytest.approx(expected, rel=1e-5)
