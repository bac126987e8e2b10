"""Claims about the selection in a notebook: it is that of the pipeline."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

from smt_ray.errors import UserError
from smt_ray.peft import SmtConfig, score_table, select
from smt_ray.smt.scores import block_statistics, step_statistics

Batch = dict[str, Tensor]


def test_the_table_is_the_sum_of_the_gradients_of_the_batches(load: Callable) -> None:
    model = load()
    rows = torch.randint(100, (6, 9), generator=torch.Generator().manual_seed(0))
    batches = [{"input_ids": ids, "labels": ids} for ids in rows.split(2)]
    table = score_table(model, batches, num_steps=2, block_size=8)
    assert (table.num_steps, table.block_size) == (2, 8)
    assert table.num_base_parameters == sum(p.numel() for p in model.parameters())
    for batch in batches[:2]:
        model(**batch).loss.backward()
    for name, found in table.statistics.items():
        weight = model.get_submodule(name).weight
        torch.testing.assert_close(found, block_statistics(weight.grad, weight, 8))


def test_scores_of_single_batches_are_summed_if_they_are_asked_for(load: Callable) -> None:
    model = load()
    rows = torch.randint(100, (6, 9), generator=torch.Generator().manual_seed(0))
    batches = [{"input_ids": ids, "labels": ids} for ids in rows.split(2)]
    table = score_table(model, batches, block_size=8, per_step=True)
    expected: dict[str, Any] = dict.fromkeys(table.statistics, 0)
    for batch in batches:
        model(**batch).loss.backward()
        for name in expected:
            weight = model.get_submodule(name).weight
            expected[name] = expected[name] + step_statistics(weight.grad, 8)
        model.zero_grad()
    for name, found in table.statistics.items():
        torch.testing.assert_close(found[4:], expected[name])
    assert select(model, batches, num_blocks=3, score="step_l2").score == "step_l2"


def test_five_lines_of_a_notebook(load: Callable) -> None:
    model = load()
    rows = [{"input_ids": ids, "labels": ids} for ids in torch.randint(100, (8, 9))]
    selection = select(model, DataLoader(rows, batch_size=2), budget=0.05)
    assert (
        abs(selection.budget - 0.05) < 0.5 * selection.block_size**2 / selection.num_base_parameters
    )
    assert {name.rpartition(".")[2] for name in selection.modules} == {"q_proj", "k_proj", "v_proj"}
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    SmtConfig.from_selection(selection)


def test_the_arguments_of_a_selection(load: Callable, batch: Batch) -> None:
    chosen = select(
        load(), [batch], num_blocks=5, block_size=16, score="l2", scope="global",
        target_modules=["down_proj", "o_proj"],
    )  # fmt: skip
    assert (chosen.num_blocks, chosen.block_size, chosen.score) == (5, 16, "l2")
    assert {name.rpartition(".")[2] for name in chosen.modules} == {"down_proj", "o_proj"}


def test_a_model_that_is_no_language_model() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))

    def loss(model: nn.Module, batch: Any) -> Tensor:
        x, y = batch
        return F.mse_loss(model(x), y)

    data = [(torch.randn(3, 8), torch.randn(3, 4)) for _ in range(4)]
    chosen = select(model, data, loss=loss, target_modules=["0", "2"], num_blocks=3, block_size=4)
    assert chosen.num_blocks == 3


def test_a_model_with_fewer_batches_than_steps_uses_all(load: Callable, batch: Batch) -> None:
    assert score_table(load(), iter([batch] * 3), num_steps=100).num_steps == 3


def test_mistakes_are_one_line(load: Callable, batch: Batch) -> None:
    model = load()
    for arguments, message in [
        ({"dataloader": []}, "dataloader: must have at least one batch"),
        ({"dataloader": [{"input_ids": batch["input_ids"]}]}, "add labels to the batches"),
        ({"dataloader": [batch["input_ids"]]}, "pass loss="),
        ({"target_modules": ["c_proj"]}, "target_modules: must each match"),
        ({"block_size": 7}, "block_size: must divide"),
        ({"loss": lambda *_: torch.tensor(torch.nan)}, "loss of batch 0: must be finite"),
    ]:
        with pytest.raises(UserError, match=message):
            select(model, **{"dataloader": [batch], "budget": 0.05, **arguments})
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
