"""Claims about sparse layers whose weights are sharded; sharded_rank.py makes the measurements."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from transformers.pytorch_utils import Conv1D

from smt_ray.errors import UserError
from smt_ray.smt.grid import BlockGrid
from smt_ray.smt.layers.linear import SparseLinear
from smt_ray.smt.layers.sharded import write_shard
from smt_ray.smt.linears import as_dense, dense_weight
from smt_ray.smt.model import apply_selection
from tests.ranks import free_port, run_ranks
from tests.selections import choose

HARNESS = Path(__file__).with_name("sharded_rank.py")
INDICES = torch.tensor([[0, 1], [1, 1], [2, 3]], dtype=torch.int32)


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


def facts(folder: Path, part: str) -> dict[str, Any]:
    return json.loads((folder / f"{part}.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("part", ["zero3", "fsdp2"])
def test_two_sharded_ranks_in_the_trainer_equal_one_rank(folder: Path, part: str) -> None:
    one, two = facts(folder, "plain"), facts(folder, part)
    assert two["losses"] == pytest.approx(one["losses"], rel=1e-5)
    assert two["evaluated"] == pytest.approx(one["evaluated"], rel=1e-5)
    assert one["evaluated"][0] < 0.99 * one["losses"][0]  # it has learned something


@pytest.mark.slow
@pytest.mark.parametrize("part", ["plain", "zero3", "fsdp2"])
def test_the_trainer_saves_the_tuned_model_as_a_plain_one(folder: Path, part: str) -> None:
    from transformers import AutoModelForCausalLM

    from tests.smt.layers.sharded_rank import Rows

    model, info = AutoModelForCausalLM.from_pretrained(folder / part, output_loading_info=True)
    assert not any(info.values())
    ids = Rows().ids
    loss = model(input_ids=ids, labels=ids).loss.item()
    assert loss == pytest.approx(facts(folder, "plain")["evaluated"][0], rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("wrapper", ["fsdp1", "fsdp2"])
def test_fsdp_by_hand_equals_one_rank_in_training_evaluation_and_the_saved_state(
    folder: Path, wrapper: str
) -> None:
    one, two = facts(folder, "plain")[wrapper], facts(folder, "fsdp2")[wrapper]
    assert two == pytest.approx(one, rel=1e-6)
    *_, last_step, first, second, saved = two
    assert first == second == pytest.approx(saved, rel=1e-6)
    assert first < last_step


@pytest.fixture
def alone() -> Iterator[None]:
    """A process group of this process only."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("dimension", [0, 1, None])
def test_blocks_are_written_into_the_shards_of_a_dtensor(
    alone: None, dimension: int | None, transposed: bool
) -> None:
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor, init_device_mesh

    mesh = init_device_mesh("cpu", (1,))
    linear = Conv1D(12, 20) if transposed else nn.Linear(20, 12)
    layer = SparseLinear.from_linear(linear, INDICES, 4)
    placement = Replicate() if dimension is None else Shard(dimension)
    weight = distribute_tensor(layer.weight.detach().clone(), mesh, [placement])
    blocks = torch.randn(3, 4, 4)
    write_shard(weight, layer.indices, as_dense(blocks, transposed), layer.grid)
    expected = dense_weight(linear).detach().clone()
    BlockGrid(12, 20, 4).scatter_(expected, INDICES, blocks)
    assert torch.equal(as_dense(weight.full_tensor(), transposed), expected)


def test_a_sharded_weight_is_refused_before_blocks_are_made(
    alone: None, make_llama: Callable[..., Any]
) -> None:
    from torch.distributed.fsdp import fully_shard

    model = make_llama()
    selection = choose(model)
    fully_shard(model)
    with pytest.raises(UserError, match="must not be sharded yet"):
        apply_selection(model, selection)


def test_a_parameter_of_zero_3_is_refused_before_blocks_are_made(
    make_llama: Callable[..., Any],
) -> None:
    model = make_llama()
    selection = choose(model)
    for parameter in model.parameters():
        parameter.ds_id = 0  # DeepSpeed's mark
        parameter.data = torch.empty(0)
    with pytest.raises(UserError, match=r"ZeRO-3[\s\S]*before you make TrainingArguments"):
        apply_selection(model, selection)


def test_a_layer_that_is_used_while_its_weight_is_partitioned_says_so() -> None:
    layer = SparseLinear.from_linear(nn.Linear(20, 12), INDICES, 4)
    layer.weight.data = torch.empty(0)
    with pytest.raises(UserError, match="must be gathered while the layer is used"):
        layer(torch.randn(2, 20))
    with pytest.raises(UserError, match="must be gathered"):
        layer.merge()
