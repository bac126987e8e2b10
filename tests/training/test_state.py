"""Claims about checkpoints on disk."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from smt_ray.errors import UserError
from smt_ray.training.state import load_parameters, load_state, save_state, share_out


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        f"model.q_proj.blocks/{key}": torch.randn(3, 4, 4, generator=generator)
        for key in ("param", "exp_avg", "exp_avg_sq")
    }


def test_a_state_is_read_bit_for_bit_as_it_was_written(
    tmp_path: Path, state: dict[str, torch.Tensor]
) -> None:
    save_state(tmp_path, state, 7)
    loaded, num_steps = load_state(tmp_path)
    assert num_steps == 7
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[name], state[name]) for name in state)


def test_nothing_on_disk_is_a_pickle(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    save_state(tmp_path, state, 7)
    assert {file.suffix for file in tmp_path.iterdir()} == {".safetensors", ".json"}


@pytest.mark.parametrize("file", ["state.safetensors", "position.json"])
@pytest.mark.parametrize("damage", ["missing", "truncated", "other"])
def test_the_error_about_a_damaged_checkpoint_names_it(
    tmp_path: Path, state: dict[str, torch.Tensor], file: str, damage: str
) -> None:
    save_state(tmp_path, state, 7)
    path = tmp_path / file
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:9] if damage == "truncated" else b"[]")
    with pytest.raises(UserError, match="the checkpoint cannot be read") as raised:
        load_state(tmp_path)
    assert raised.value.field == str(tmp_path)


def test_a_small_state_is_one_share_and_a_large_one_is_divided_evenly() -> None:
    sizes = {f"layer.{number}": 100 for number in range(10)}
    assert share_out(sizes, num_ranks=4) == [list(sizes)]
    shares = share_out(sizes, num_ranks=4, smallest=50)
    assert [len(share) for share in shares] == [3, 3, 3, 1]
    assert [name for share in shares for name in share] == list(sizes)
    assert [len(share) for share in share_out(sizes, num_ranks=100, smallest=250)] == [3, 3, 3, 1]


def test_shares_are_read_as_one_state_without_those_of_another_number_of_ranks(
    tmp_path: Path, state: dict[str, torch.Tensor]
) -> None:
    save_state(tmp_path, {"stale/param": torch.ones(1)}, 7, share=2, num_shares=3)
    names = list(state)
    for share in (1, 0):
        save_state(tmp_path, {n: state[n] for n in names[share::2]}, 7, share, num_shares=2)
    loaded, num_steps = load_state(tmp_path)
    assert num_steps == 7
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[name], state[name]) for name in state)
    (name,) = load_parameters(tmp_path)
    assert name == "model.q_proj.blocks"
    (tmp_path / "state-00002-of-00002.safetensors").unlink()
    with pytest.raises(UserError, match="the checkpoint cannot be read"):
        load_state(tmp_path)
