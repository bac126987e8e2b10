"""Claims about the warm-up on two ranks; rank_harness.py makes the measurements."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from smt_ray.config.model import ModelConfig
from smt_ray.data.batches import StepPlan
from smt_ray.data.encoding.stored import EncodedRows, load_tokens, save_tokens
from smt_ray.models.load import load_model
from smt_ray.probe.probe import probe_skeleton
from smt_ray.warmup.parts import ShardPart
from smt_ray.warmup.shard import reduce_module, shard_steps, stream_shard
from tests.ranks import free_port, run_ranks
from tests.warmup.rank_harness import BATCH_SIZE, BLOCK_SIZE, CASES, MODULES, NUM_STEPS, SEED

pytestmark = pytest.mark.slow

HARNESS = Path(__file__).with_name("rank_harness.py")
POISONED_STEP = 2

Table = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def folder(
    tmp_path_factory: pytest.TempPathFactory,
    make_llama: Callable[..., Any],
    make_encoded: Callable[..., EncodedRows],
) -> Path:
    """The measurements."""
    folder = tmp_path_factory.mktemp("ranks")
    model, encoded = make_llama(), make_encoded()
    model.save_pretrained(folder / "model")
    row = StepPlan(len(encoded), BATCH_SIZE, SEED).rows(POISONED_STEP)[2]
    encoded.row(row)[0] = model.config.vocab_size - 1
    save_tokens(folder / "tokens.safetensors", {"training": encoded})
    port = free_port()
    run_ranks(HARNESS, folder, [("pair", 0, 2, port), ("pair", 1, 2, port)])
    run_ranks(HARNESS, folder, [("single", 0, 1, free_port())])
    return folder


@pytest.fixture(scope="module")
def facts(folder: Path) -> list[dict[str, Any]]:
    """The facts of the two ranks."""
    return [json.loads((folder / f"pair-{rank}.json").read_text()) for rank in (0, 1)]


def table_of(folder: Path, case: str, rank: int = 0, num_ranks: int = 2) -> Table:
    return load_file(folder / f"{case}-{num_ranks}-{rank}.safetensors")


def by_shards(folder: Path, case: dict[str, Any]) -> tuple[Table, dict[int, float]]:
    """The table and the losses of two shards."""
    model = load_model(ModelConfig(path=str(folder / "model"), dtype=case.get("dtype", "float32")))
    encoded = load_tokens(folder / "tokens.safetensors", "training")
    assert encoded is not None
    losses: dict[int, float] = {}
    parts = [
        list(
            stream_shard(
                model, encoded, StepPlan(len(encoded), BATCH_SIZE, SEED),
                shard_steps(NUM_STEPS, 2, shard), modules=MODULES,
                batching=case.get("batching", "prefix_packed"), probe=probe_skeleton(model),
                max_tokens=80, train_on_inputs=False, device=torch.device("cpu"),
                step_block_size=BLOCK_SIZE if case.get("per_step") else None,
                with_weights=shard == 1, on_step=losses.__setitem__,
            )
        )
        for shard in (0, 1)
    ]  # fmt: skip
    rows = [
        reduce_module(reduce(ShardPart.plus, part), BLOCK_SIZE) for part in zip(*parts, strict=True)
    ]
    return {row.module: torch.tensor(row.statistics) for row in rows}, losses


@pytest.mark.parametrize("case", CASES)
def test_ranks_make_the_table_and_the_losses_of_as_many_shards(
    folder: Path, facts: list[dict[str, Any]], case: str
) -> None:
    expected, losses = by_shards(folder, CASES[case])
    tolerance = 1e-2 if "bf16" in case else 1e-5
    for rank in (0, 1):
        found = table_of(folder, case, rank)
        assert facts[rank][case]["order"] == list(MODULES)
        for name, sums in expected.items():
            assert found[name].shape == sums.shape
            for mine, theirs in zip(found[name], sums, strict=True):  # each statistic
                assert (mine - theirs).norm() <= tolerance * theirs.norm(), name
        ours = facts[rank][case]["losses"]
        assert ours == pytest.approx([losses[step] for step in range(NUM_STEPS)], rel=tolerance)


def test_each_module_is_reduced_by_its_owner(facts: list[dict[str, Any]]) -> None:
    for rank in (0, 1):
        assert facts[rank]["partitioned"]["kept"] == list(MODULES[rank::2])


def test_two_ranks_compute_two_steps_at_a_time(facts: list[dict[str, Any]]) -> None:
    assert facts[0]["partitioned"]["rounds"] == [2, 4, 5]


def test_a_resumed_warm_up_makes_the_same_table(folder: Path, facts: list[dict[str, Any]]) -> None:
    assert facts[0]["resumed from"] == 2
    tables = [table_of(folder, case) for case in ("steps", "saved", "resumed")]
    for name in MODULES:
        # A checkpoint adds the sums of ranks earlier, so the order of additions differs.
        torch.testing.assert_close(tables[1][name], tables[0][name], rtol=1e-5, atol=1e-9)
        assert torch.equal(tables[2][name], tables[1][name])
    assert facts[1]["resumed"]["losses"] == facts[1]["steps"]["losses"]


def test_another_number_of_ranks_resumes_from_the_checkpoint(folder: Path) -> None:
    ours, theirs = table_of(folder, "crossed", num_ranks=1), table_of(folder, "steps")
    for name in MODULES:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-5, atol=1e-9)


def test_a_loss_that_is_not_finite_is_an_error_of_its_step_on_every_rank(
    facts: list[dict[str, Any]],
) -> None:
    assert facts[0]["error"] == facts[1]["error"]
    assert f"the loss of step {POISONED_STEP + 1} must be finite" in facts[0]["error"]
