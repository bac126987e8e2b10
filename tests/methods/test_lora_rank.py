"""The targets of LoRA and DoRA, and the rank for a budget."""

from __future__ import annotations

import pytest

from smt_ray.errors import UserError
from smt_ray.methods.lora_targets import choose_rank, find_targets
from tests.methods.lora import Make

# Two modules: 8 outputs of 4 inputs, and 6 of 10: 12 + 16 = 28 parameters a rank, 14 magnitudes.
SHAPES = {"a": (8, 4), "b": (6, 10)}


@pytest.mark.parametrize(
    ("targets", "parts"),
    [
        (["query"], ["must each match at least one module", "'query'", "q_proj"]),
        (["embed_tokens"], ["must name plain", "embed_tokens is a Embedding"]),
        (["lm_head"], ["lm_head is tied to model.embed_tokens.weight"]),
    ],
)
def test_targets_that_cannot_be_adapted_are_refused(
    make_llama: Make, targets: list[str], parts: list[str]
) -> None:
    with pytest.raises(UserError) as caught:
        find_targets(make_llama(), targets)
    assert caught.value.field == "lora.target_modules"
    assert all(part in str(caught.value) for part in parts)


@pytest.mark.parametrize(
    ("budget", "use_dora", "rank"),
    [
        (28 / 1000, False, 1),
        (14 / 1000, False, 1),  # half a rank is rounded up
        (69 / 1000, False, 2),  # 2.46
        (71 / 1000, False, 3),  # 2.54
        (6 * 28 / 1000, False, 6),
        (42 / 1000, True, 1),  # (42 - 14) / 28
        (69 / 1000, True, 2),  # (69 - 14) / 28 = 1.96
        (83 / 1000, True, 2),  # 2.46
    ],
)
def test_a_budget_gives_the_nearest_rank(budget: float, use_dora: bool, rank: int) -> None:
    assert choose_rank(SHAPES, budget, 1000, use_dora=use_dora) == rank


@pytest.mark.parametrize(("budget", "use_dora"), [(0.013, False), (0.19, False), (0.027, True)])
def test_a_budget_below_rank_1_or_above_full_rank_is_refused(budget: float, use_dora: bool) -> None:
    least, most = ("0.042", "0.182") if use_dora else ("0.028", "0.168")
    with pytest.raises(UserError, match=rf"rank 1 to 6, which are {least} to {most} of") as caught:
        choose_rank(SHAPES, budget, 1000, use_dora=use_dora)
    assert caught.value.field == "lora.budget"


@pytest.mark.parametrize(("use_dora", "percent"), [(False, 0.83), (True, 0.84)])
def test_llama_7bs_published_percentages(use_dora: bool, percent: float) -> None:
    """LoRA 0.83% and DoRA 0.84% of base + adapter at rank 32 (LLM-Adapters, DoRA)."""
    attention = {f"{i}.{n}": (4096, 4096) for i in range(32) for n in "qkv"}
    mlp = {f"{i}.{n}": s for i in range(32) for n, s in
           (("up", (11008, 4096)), ("down", (4096, 11008)))}  # fmt: skip
    shapes, base = {**attention, **mlp}, 6_738_415_616
    count = 32 * sum(o + i for o, i in shapes.values())
    count += sum(o for o, _ in shapes.values()) if use_dora else 0
    assert 100 * count / (base + count) == pytest.approx(percent, abs=0.005)
    assert choose_rank(shapes, count / base, base, use_dora=use_dora) == 32
