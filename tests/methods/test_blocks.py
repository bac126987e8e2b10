"""The blocks that a config may select follow from its model."""

from __future__ import annotations

import pytest

from smt_ray.config.load import load_config
from smt_ray.errors import UserError
from smt_ray.methods.blocks import EligibleBlocks, check_blocks
from smt_ray.models.load import load_skeleton
from smt_ray.probe.probe import probe_skeleton

# q is 32 x 32, k and v are 16 x 32, up and gate 64 x 32, down 32 x 64.
MODEL = (
    "model={architecture: {model_type: llama, vocab_size: 100, hidden_size: 32,"
    " intermediate_size: 64, num_hidden_layers: 2, num_attention_heads: 4,"
    " num_key_value_heads: 2, tie_word_embeddings: true}}"
)
NUM_PARAMETERS = 100 * 32 + 2 * (2 * 32 * 32 + 2 * 16 * 32 + 3 * 64 * 32 + 2 * 32) + 32


def check(*overrides: str) -> EligibleBlocks:
    config = load_config(None, [MODEL, "selection={block_size: 8, budget: 0.05}",
                                "warmup.table_block_size=4", *overrides])  # fmt: skip
    skeleton = load_skeleton(config.model)
    return check_blocks(config, skeleton, probe_skeleton(skeleton))


def test_without_groups_all_eligible_modules_share_one_ranking() -> None:
    blocks = check()
    assert list(blocks.shapes) == [
        f"model.layers.{layer}.self_attn.{name}"
        for layer in (0, 1)
        for name in ("q_proj", "k_proj", "v_proj")
    ]
    assert set(blocks.shapes.values()) == {(32, 32), (16, 32)}
    assert blocks.num_parameters == NUM_PARAMETERS
    assert (blocks.table_block_size, blocks.block_size) == (4, 8)
    (ranking,) = blocks.rankings
    assert ranking.modules == tuple(blocks.shapes)
    assert ranking.num_blocks == round(0.05 * NUM_PARAMETERS / 64)


def test_each_group_has_a_ranking_with_its_own_budget() -> None:
    targets = "warmup.target_modules=[q_proj, v_proj, down_proj]"
    groups = "selection={block_size: 8, groups: {attention: 0.1, mlp: 0.05}}"
    blocks = check(targets, groups)
    attention, mlp = blocks.rankings
    assert all("self_attn" in name for name in attention.modules)
    assert all("mlp" in name for name in mlp.modules)
    assert attention.num_blocks == round(0.1 * NUM_PARAMETERS / 64)
    assert mlp.num_blocks == round(0.05 * NUM_PARAMETERS / 64)


def test_the_table_covers_modules_that_are_not_selected_from() -> None:
    blocks = check("selection.target_modules=[v_proj]", "selection.budget=0.02")
    assert len(blocks.shapes) == 6
    (ranking,) = blocks.rankings
    assert all(name.endswith("v_proj") for name in ranking.modules)
    assert len(ranking.modules) == 2


@pytest.mark.parametrize(
    ("method", "section"), [("smt", "selection"), ("sift", "sift")], ids=["smt", "sift"]
)
def test_layers_restrict_what_is_selected_from_but_not_the_table(method: str, section: str) -> None:
    given = (f"method={method}", f"{section}.budget=0.02")
    blocks = check(*given, f"{section}.layers=[1, 1]", f"{section}.target_modules=[q_proj, v_proj]")
    assert len(blocks.shapes) == 6
    (ranking,) = blocks.rankings
    upper = "model.layers.1.self_attn"
    assert ranking.modules == (f"{upper}.q_proj", f"{upper}.v_proj")
    for layers in ([1, 2], [1, 0]):
        with pytest.raises(UserError, match=f"^{section}\\.layers: .* layers have some: 0 to 1"):
            check(*given, f"{section}.layers={layers}")


def test_sizes_that_are_not_given_are_the_largest_that_fit() -> None:
    blocks = check("selection={num_blocks: 3}", "warmup.table_block_size=auto")
    assert (blocks.table_block_size, blocks.block_size) == (16, 16)
    assert blocks.rankings[0].num_blocks == 3


@pytest.mark.parametrize(
    ("override", "field"),
    [
        ("warmup.target_modules=[query]", "warmup.target_modules"),
        ("warmup.table_block_size=3", "warmup.table_block_size"),
        ("selection.block_size=5", "selection.block_size"),
        ("selection.block_size=2", "selection.block_size"),  # the table is coarser
        ("selection.budget=0.9", "selection.budget"),
        ("selection={block_size: 8, num_blocks: 3, scope: per_module}", "selection"),
    ],
)
def test_what_the_model_does_not_allow_is_refused_by_its_key(override: str, field: str) -> None:
    with pytest.raises(UserError) as caught:
        check(override)
    assert caught.value.field.startswith(field)


def test_sift_ranks_the_elements_of_its_modules_together() -> None:
    sift = ("method=sift", "sift={budget: 0.03, target_modules: [q_proj, v_proj]}")
    blocks = check(*sift, "selection.budget=0.9")  # which is of another method
    (ranking,) = blocks.rankings
    assert ranking.modules == tuple(n for n in blocks.shapes if n.endswith(("q_proj", "v_proj")))
    assert len(blocks.shapes) == 6  # the warm-up keeps the gradients of all of them
    assert (ranking.num_blocks, blocks.block_size) == (round(0.03 * NUM_PARAMETERS), 1)
    with pytest.raises(UserError, match=r"^sift\.budget: must come to 1 to 3,072 eligible"):
        check(*sift, "sift.budget=0.5")
    with pytest.raises(UserError, match=r"^sift\.target_modules"):
        check("method=sift", "sift.target_modules=[o_proj]")


def test_the_rank_of_lift_is_less_than_every_dimension() -> None:
    assert check("selection.score=lift", "selection.lift_rank=15").block_size == 8
    with pytest.raises(UserError, match=r"^selection\.lift_rank: must be less than 16"):
        check("selection.score=lift", "selection.lift_rank=16")
    assert check("selection.lift_rank=16").block_size == 8


def test_columns_are_ranked_by_their_number_of_parameters() -> None:
    column = ("selection={block_shape: column, budget: 0.05}",)
    blocks = check(*column)
    (ranking,) = blocks.rankings
    assert (blocks.shape, blocks.block_size) == ("column", 1)
    assert ranking.num_blocks == round(0.05 * NUM_PARAMETERS)
    groups = "selection={block_shape: column, groups: {q_proj: 0.02, v_proj: 0.01}}"
    assert [r.num_blocks for r in check(groups).rankings] == [
        round(0.02 * NUM_PARAMETERS), round(0.01 * NUM_PARAMETERS)
    ]  # fmt: skip
    with pytest.raises(UserError, match=r"^selection\.budget: must come to 1 to 4,096 eligible"):
        check("selection={block_shape: column, budget: 0.9}")


@pytest.mark.parametrize(
    ("selection", "error"),
    [
        ("budget: 0.0005", r"^selection\.budget: must come to at least one column, which has 32"),
        (
            "groups: {k_proj: 0.0003}",
            r"^selection\.groups\.k_proj: must come to at least one column, which has 16",
        ),
        (
            "budget: 0.002, scope: per_module",
            r"^selection\.budget: must come to at least one column of model\.layers\.0.*_proj",
        ),
    ],
)
def test_too_few_columns_are_refused_before_the_warm_up(selection: str, error: str) -> None:
    with pytest.raises(UserError, match=error):
        check(f"selection={{block_shape: column, {selection}}}")
