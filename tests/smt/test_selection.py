from __future__ import annotations

from pathlib import Path

import pytest
import torch

from smt_ray.errors import UserError
from smt_ray.smt.modules import match_groups, match_modules, modules_in_layers
from smt_ray.smt.scores import ScoreTable
from smt_ray.smt.selection import (
    Selection,
    join_selections,
    select_blocks,
    select_by_scores,
)


def table_of(scores: dict[str, list[list[float]]], block_size: int = 2) -> ScoreTable:
    """A table whose mean_of_abs is ``scores``; the base model has 1,000 parameters."""
    statistics = {}
    for name, rows in scores.items():
        values = torch.tensor(rows, dtype=torch.float64) * block_size**2
        statistics[name] = torch.stack([values, values, values.square(), values])
    return ScoreTable(block_size, statistics, 1000, 1, {"seed": 7})


BY_HAND = table_of({"x.q_proj": [[1, 9], [5, 2]], "x.v_proj": [[8, 3], [7, 6]]})


def indices(selection: Selection) -> dict[str, list[list[int]]]:
    return {name: module.indices.tolist() for name, module in selection.modules.items()}


def llama_7b() -> ScoreTable:
    """LLaMA-7B's q, k and v at l = 256, with random statistics."""
    generator = torch.Generator().manual_seed(0)
    names = [f"model.layers.{i}.self_attn.{p}_proj" for i in range(32) for p in "qkv"]
    statistics = {
        name: torch.rand(4, 16, 16, generator=generator, dtype=torch.float64) for name in names
    }
    return ScoreTable(256, statistics, 6_738_415_616, 100)


def test_the_highest_blocks_of_a_hand_computed_example_are_chosen() -> None:
    selection = select_blocks(BY_HAND, num_blocks=4, block_size=2)
    assert indices(selection) == {"x.q_proj": [[0, 1]], "x.v_proj": [[0, 0], [1, 0], [1, 1]]}
    assert selection.modules["x.v_proj"].scores.tolist() == [8, 7, 6]
    assert selection.modules["x.v_proj"].indices.dtype == torch.int32
    assert selection.modules["x.v_proj"].shape == (4, 4)
    assert (selection.num_blocks, selection.num_trainable, selection.budget) == (4, 16, 0.016)
    assert selection.margin == pytest.approx((6 - 5) / 6)
    assert selection.provenance == {"seed": 7}


def test_blocks_lie_only_in_the_given_layers() -> None:
    everywhere = select_blocks(llama_7b(), num_blocks=400)
    upper = select_blocks(llama_7b(), num_blocks=400, layers=[16, 31])
    assert all(int(name.split(".")[2]) >= 16 for name in upper.modules)
    assert upper.num_blocks == everywhere.num_blocks == 400
    assert upper.budget == everywhere.budget
    again = select_blocks(llama_7b(), num_blocks=400, layers=[0, 31])
    assert indices(again) == indices(everywhere)
    for layers in ([0, 32], [5, 4], [-1, 3]):
        with pytest.raises(UserError, match="these layers have some: 0 to 31"):
            select_blocks(llama_7b(), num_blocks=400, layers=layers)


def test_the_layer_of_a_module_is_the_first_number_in_its_name() -> None:
    names = ["transformer.h.0.attn.c_attn", "transformer.h.1.mlp.experts.0.w1", "lm_head"]
    assert modules_in_layers(names, [1, 1]) == names[1:2]
    assert modules_in_layers(names, [0, 1]) == names[:2]
    with pytest.raises(UserError, match="these layers have some: none"):
        modules_in_layers(["lm_head"], [0, 0])


def test_a_selection_at_a_larger_size_adds_the_finest_blocks() -> None:
    selection = select_blocks(BY_HAND, num_blocks=1, block_size=4)
    assert indices(selection) == {"x.q_proj": [], "x.v_proj": [[0, 0]]}
    assert selection.modules["x.v_proj"].scores.tolist() == [6]
    assert select_blocks(BY_HAND, num_blocks=1).block_size == 4  # auto: the largest that divides


def test_per_module_takes_the_same_number_from_each() -> None:
    selection = select_blocks(BY_HAND, num_blocks=4, scope="per_module", block_size=2)
    assert indices(selection) == {"x.q_proj": [[0, 1], [1, 0]], "x.v_proj": [[0, 0], [1, 0]]}
    assert selection.margin == pytest.approx((7 - 6) / 7)
    assert "fewer" not in selection.summary()


def test_the_summary_of_per_module_states_missing_blocks() -> None:
    table = table_of({"q": [[1, 2], [3, 4]], "k": [[5, 6]], "v": [[7, 8], [1, 2]]})
    selection = select_blocks(table, num_blocks=10, scope="per_module", block_size=2)
    assert selection.counts() == {"q": 3, "k": 2, "v": 3}
    assert (selection.num_requested, selection.num_blocks) == (10, 8)
    assert "2 fewer than the 10 requested blocks" in selection.summary()
    with pytest.raises(UserError, match="at least one block for each of 3 modules; got '2 blocks'"):
        select_blocks(table, num_blocks=2, scope="per_module", block_size=2)


def test_ties_go_to_the_earlier_module_row_and_column() -> None:
    table = table_of({"b": [[1, 1], [1, 1]], "a": [[1, 1], [1, 1]]})
    selection = select_blocks(table, num_blocks=5, block_size=2)
    assert indices(selection) == {"b": [[0, 0], [0, 1], [1, 0], [1, 1]], "a": [[0, 0]]}
    assert selection.margin == 0
    many = select_blocks(table_of({"a": [[1] * 64] * 64}), num_blocks=1000, block_size=2)
    assert indices(many)["a"] == [[i // 64, i % 64] for i in range(1000)]


def test_global_selection_equals_a_plain_sort_of_all_blocks() -> None:
    table = llama_7b()
    ranked = sorted(
        (-score, position, row, col, name)
        for position, (name, scores) in enumerate(table.scores(256).items())
        for row, values in enumerate(scores.tolist())
        for col, score in enumerate(values)
    )
    expected: dict[str, list[list[int]]] = {name: [] for name in table.statistics}
    for _, _, row, col, name in sorted(ranked[:900], key=lambda block: block[1:4]):
        expected[name].append([row, col])
    assert indices(select_blocks(table, num_blocks=900)) == expected


@pytest.mark.parametrize(("budget", "blocks"), [(0.0084, 864), (0.0126, 1296), (0.0491, 5048)])
def test_budgets_of_the_paper_give_its_numbers_of_blocks(budget: float, blocks: int) -> None:
    selection = select_blocks(llama_7b(), budget=budget)
    assert (selection.block_size, selection.num_blocks) == (256, blocks)
    assert selection.budget == pytest.approx(budget, abs=0.5 * 256**2 / 6_738_415_616)


def test_llama_7b_has_the_eligible_blocks_of_the_paper() -> None:
    everything = select_blocks(llama_7b(), num_blocks=24_576)
    assert everything.num_blocks == 24_576
    assert everything.margin is None
    with pytest.raises(UserError, match="1 to 24576 blocks"):
        select_blocks(llama_7b(), num_blocks=24_577)


@pytest.mark.parametrize("budget", [0.0019, 0.5, -0.01, float("nan")])
def test_the_error_for_a_budget_out_of_range_states_the_range(budget: float) -> None:
    with pytest.raises(UserError, match=r"1 to 8 blocks of 2 x 2, which are 0.004 to 0.032") as e:
        select_blocks(BY_HAND, block_size=2, budget=budget)
    assert e.value.field == "selection.budget"


@pytest.mark.parametrize("num_blocks", [0, 9, 2.5])
def test_the_error_for_a_number_of_blocks_out_of_range_states_the_range(num_blocks: float) -> None:
    with pytest.raises(UserError, match="1 to 8 blocks") as error:
        select_blocks(BY_HAND, block_size=2, num_blocks=num_blocks)  # type: ignore[arg-type]
    assert error.value.field == "selection.num_blocks"


def test_exactly_one_of_budget_and_num_blocks_must_be_given() -> None:
    for arguments in ({}, {"budget": 0.01, "num_blocks": 1}):
        with pytest.raises(UserError, match="exactly one of budget and num_blocks"):
            select_blocks(BY_HAND, **arguments)


def test_target_modules_choose_by_last_parts_of_names() -> None:
    selection = select_blocks(BY_HAND, num_blocks=2, block_size=2, target_modules=["q_proj"])
    assert indices(selection) == {"x.q_proj": [[0, 1], [1, 0]]}
    names = ["a.mlp.up_proj", "a.up_proj", "b.q_proj", "b.my_q_proj"]
    assert match_modules(names, ["q_proj", "a.up_proj"]) == ["a.up_proj", "b.q_proj"]
    assert match_modules(names, ["mlp.up_proj"]) == ["a.mlp.up_proj"]
    with pytest.raises(UserError, match=r"got 'o_proj'.*there are up_proj, q_proj, my_q_proj"):
        match_modules(names, ["q_proj", "o_proj"])
    with pytest.raises(UserError, match=r"^mine: .*got 'o_proj'.* Fix: say v_proj"):
        match_modules(names, ["o_proj"], field="mine", fix="say v_proj")


def test_infinite_scores_and_zero_scores_are_errors() -> None:
    with pytest.raises(UserError, match=r"finite; those of x.v_proj are not"):
        select_blocks(table_of({"x.q_proj": [[1]], "x.v_proj": [[float("inf")]]}), num_blocks=1)
    with pytest.raises(UserError, match="must not all be zero"):
        select_blocks(table_of({"x.q_proj": [[0, 0]]}), num_blocks=1)


def test_unknown_scores_and_scopes_are_errors() -> None:
    with pytest.raises(UserError, match="global, per_module; got 'local'"):
        select_blocks(BY_HAND, num_blocks=1, scope="local")
    with pytest.raises(UserError, match="got 'l1'"):
        select_blocks(BY_HAND, num_blocks=1, score="l1")
    with pytest.raises(UserError, match=r"x.q_proj is 4 x 4; got 8"):
        select_blocks(BY_HAND, num_blocks=1, block_size=8)


def test_any_scores_can_be_ranked_as_a_control() -> None:
    random = {"a": torch.tensor([[0.1, 0.9]]), "b": torch.tensor([[0.5]])}
    selection = select_by_scores(
        random, block_size=8, num_base_parameters=1000, num_blocks=2, score="random"
    )
    assert indices(selection) == {"a": [[0, 1]], "b": [[0, 0]]}
    assert selection.score == "random"


def test_groups_with_their_own_budgets_are_joined() -> None:
    q, v = (
        select_blocks(BY_HAND, num_blocks=n, block_size=2, target_modules=[t])
        for n, t in ((1, "q_proj"), (2, "v_proj"))
    )
    joined = join_selections([q, v])
    assert joined.counts() == {"x.q_proj": 1, "x.v_proj": 2}
    assert (joined.num_requested, joined.margin) == (3, min(q.margin, v.margin))
    with pytest.raises(UserError, match=r"must not share a module; got 'x.q_proj'"):
        join_selections([q, q])


def test_groups_have_separate_rankings_and_the_models_order() -> None:
    scores = {"0.self_attn.v": [[9, 8], [7, 6]], "0.mlp.up": [[1, 2], [3, 4]],
              "1.self_attn.v": [[5, 1], [1, 1]]}  # fmt: skip
    budgets = {"mlp": 0.008, "attention": 0.012}  # two and three blocks of 2 x 2 in 1,000
    selection = select_blocks(table_of(scores), block_size=2, groups=budgets)
    assert indices(selection) == {
        "0.self_attn.v": [[0, 0], [0, 1], [1, 0]], "0.mlp.up": [[1, 0], [1, 1]],
        "1.self_attn.v": [],
    }  # fmt: skip
    assert list(selection.modules) == list(scores)
    assert selection.budget == 0.02
    assert selection.margin == pytest.approx(min((3 - 2) / 3, (7 - 6) / 7))


def test_a_group_is_a_part_of_a_name_and_other_modules_are_not_eligible() -> None:
    names = ["0.attn.q", "0.attn.v", "0.mlp.up", "0.mlp.v_up"]
    assert match_groups(names, ["attention", "up"]) == {"attention": names[:2], "up": [names[2]]}
    table = table_of({"x.q_proj": [[1, 9]], "x.v_proj": [[8, 3]]})
    chosen = select_blocks(table, block_size=2, groups={"q_proj": 0.004})
    assert indices(chosen) == {"x.q_proj": [[0, 1]]}


@pytest.mark.parametrize(
    ("groups", "budget", "field", "words"),
    [
        ({"mlp": 0.1}, None, "selection.groups", "at least one module"),
        ({"x": 0.004, "q_proj": 0.004}, None, "selection.groups", "x.q_proj is in x and q_proj"),
        ({"q_proj": 0.9}, None, "selection.groups.q_proj", "must come to 1 to 4 blocks of 2 x 2"),
        ({"q_proj": 0.004}, 0.004, "selection.groups", "the only one of groups, budget"),
    ],
)
def test_impossible_groups_are_errors(
    groups: dict[str, float], budget: float | None, field: str, words: str
) -> None:
    with pytest.raises(UserError, match=words) as caught:
        select_blocks(BY_HAND, block_size=2, groups=groups, budget=budget)
    assert caught.value.field == field


def test_summary_counts_blocks_by_kind_of_module() -> None:
    lines = select_blocks(BY_HAND, num_blocks=4, block_size=2).summary().splitlines()
    assert lines[0] == "4 blocks of 2 x 2 = 16 parameters, 1.600% of the base model's 1,000"
    assert lines[-1] == "  v_proj: 3 blocks (75.0%) in 1 of 1 modules"


def test_a_selection_is_read_as_it_was_written(tmp_path: Path) -> None:
    before = select_blocks(BY_HAND, num_blocks=3, block_size=2, target_modules=["q_proj"])
    empty = select_blocks(BY_HAND, num_blocks=1, block_size=4)  # q_proj gets none
    for selection in (before, empty):
        selection.save(tmp_path / "selection.safetensors")
        after = Selection.load(tmp_path / "selection.safetensors")
        assert indices(after) == indices(selection)
        assert after.summary() == selection.summary()
        assert vars(after) | {"modules": None} == vars(selection) | {"modules": None}
        for name, module in selection.modules.items():
            assert after.modules[name].shape == module.shape
            assert torch.equal(after.modules[name].scores, module.scores)
    (tmp_path / "selection.safetensors").write_bytes(b"not this")
    with pytest.raises(UserError, match=r"selection.safetensors: must be a whole"):
        Selection.load(tmp_path / "selection.safetensors")
