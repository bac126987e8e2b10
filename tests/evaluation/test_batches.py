from __future__ import annotations

import pytest
import torch

from smt_ray.errors import UserError
from smt_ray.evaluation.batches import inference, pad, plan_batches


@pytest.mark.parametrize("limit", [1, 7, 10, 24, 1000])
def test_batches_hold_every_sequence_once_and_stay_within_the_limit(limit: int) -> None:
    lengths = [3, 10, 1, 7, 7, 2, 5]
    batches = plan_batches(lengths, limit)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= limit


def test_the_longest_sequence_runs_first() -> None:
    lengths = [3, 10, 1, 7]
    assert [i for batch in plan_batches(lengths, 14) for i in batch] == [1, 3, 0, 2]


def test_a_limit_below_one_is_an_error() -> None:
    with pytest.raises(UserError, match="batch_tokens"):
        plan_batches([1], 0)


def test_left_and_right_padding_mask_what_they_add() -> None:
    cpu = torch.device("cpu")
    ids, mask = pad([[5, 6, 7], [8]], 9, cpu, left=True)
    assert ids.tolist() == [[5, 6, 7], [9, 9, 8]]
    assert mask.tolist() == [[1, 1, 1], [0, 0, 1]]
    ids, mask = pad([[5, 6, 7], [8]], 9, cpu, left=False)
    assert ids.tolist() == [[5, 6, 7], [8, 9, 9]]
    assert mask.tolist() == [[1, 1, 1], [1, 0, 0]]


def test_inference_restores_the_mode_of_each_module() -> None:
    net = torch.nn.Sequential(torch.nn.Dropout(), torch.nn.Linear(1, 1)).train()
    net[0].eval()
    with inference(net):
        assert not any(module.training for module in net.modules())
        assert not torch.is_grad_enabled()
    assert [module.training for module in net.modules()] == [True, False, True]
    assert torch.is_grad_enabled()
