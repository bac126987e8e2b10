"""Claims about training on two ranks, at every ZeRO stage; harness.py makes the measurements.

Three processes make all measurements in one folder, at the same time.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from smt_ray.data.batches import StepPlan
from smt_ray.data.encoding.stored import EncodedRows, load_tokens, save_tokens
from smt_ray.places.selection import PlaceSelection
from smt_ray.smt.selection import Selection
from smt_ray.training.loss.supervised import SupervisedLoss
from tests.ranks import free_port, run_ranks
from tests.selections import choose, choose_columns, choose_elements

pytestmark = pytest.mark.slow

HARNESS = Path(__file__).with_name("harness.py")
BATCH_SIZE, SEED = 7, 3  # the harness's
POISONED_STEP = 4
METHODS = ("smt", "columns", "lora", "dora", "sift", "full")
TRAINED = [f"{m}-{s}-{d}" for m in METHODS for s in (0, 2, 3) for d in ("float32", "bfloat16")]
QUANTISED = [
    *(f"nf4-{s}-{d}" for s in (0, 1, 2) for d in ("float32", "bfloat16")),
    "int8-2-float32",
]


def poisoned_row(encoded: EncodedRows) -> int:
    return StepPlan(len(encoded), BATCH_SIZE, SEED).rows(POISONED_STEP)[2]


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
    # The last token id occurs only in the prompt of one row. The harness poisons its embedding.
    encoded.row(poisoned_row(encoded))[0] = model.config.vocab_size - 1
    held_out = make_encoded(num_rows=9, seed=2)
    save_tokens(folder / "tokens.safetensors", {"training": encoded, "validation": held_out})
    choose(model).save(folder / "selection.safetensors")
    choose_elements(model).save(folder / "elements.safetensors")
    choose_columns(model).save(folder / "columns.safetensors")
    ports = free_port(), free_port()
    ranks = [("pair", 0, 2, ports[0]), ("pair", 1, 2, ports[0]), ("single", 0, 1, ports[1])]
    run_ranks(HARNESS, folder, ranks)
    return folder


@pytest.fixture(scope="module")
def pair(folder: Path) -> list[dict[str, Any]]:
    """The facts of the two ranks."""
    return [json.loads((folder / f"pair-{rank}.json").read_text()) for rank in (0, 1)]


@pytest.fixture(scope="module")
def single(folder: Path) -> dict[str, Any]:
    """The facts of the single rank."""
    return json.loads((folder / "single-0.json").read_text())


@pytest.fixture(scope="module")
def plain_gradient(
    folder: Path, make_llama: Callable[..., Any], make_encoded: Callable[..., EncodedRows]
) -> dict[str, torch.Tensor]:
    """The blocks of the first step's gradient, by autograd alone, row by row in float64."""
    from smt_ray.data.batches import step_micro_batches

    model = make_llama().double()
    encoded = load_tokens(folder / "tokens.safetensors", "training")
    assert encoded is not None
    loss = SupervisedLoss(model, narrow=False)
    for batch in step_micro_batches(
        encoded, StepPlan(len(encoded), BATCH_SIZE, SEED).rows(0),
        mode="padded", max_tokens=1, train_on_inputs=False,
    ):  # fmt: skip
        loss(batch).backward()
    selection = Selection.load(folder / "selection.safetensors")
    return {
        f"model.{name}.blocks": torch.stack(
            [
                model.get_parameter(f"{name}.weight").grad[r * 8 : r * 8 + 8, c * 8 : c * 8 + 8]
                for r, c in module.indices.tolist()
            ]
        )
        for name, module in selection.modules.items()
        if len(module.indices)
    }


def distance(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    """The norm of the difference of all parameters, relative to the norm of what is expected."""
    assert found.keys() == expected.keys()
    difference = sum(float((found[n].double() - expected[n]).square().sum()) for n in expected)
    return float((difference / sum(float(e.square().sum()) for e in expected.values())) ** 0.5)


@pytest.mark.parametrize("max_tokens", [1, 80], ids=["rows-of-1", "rows-of-4"])
@pytest.mark.parametrize(("num_ranks", "stage"), [(1, 0), (2, 0), (2, 2), (2, 3)])
def test_gradient_depends_on_neither_ranks_nor_micro_batches_nor_zero_stage(
    folder: Path, plain_gradient: dict[str, torch.Tensor], num_ranks: int, stage: int,
    max_tokens: int,
) -> None:  # fmt: skip
    found = load_file(folder / f"gradient-{num_ranks}-{stage}-{max_tokens}.safetensors")
    assert distance(found, plain_gradient) < 1e-5


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_recomputed_activations_give_exactly_the_same_gradient(folder: Path, stage: int) -> None:
    found = load_file(folder / f"recomputed-{stage}.safetensors")
    expected = load_file(folder / f"gradient-2-{stage}-80.safetensors")
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert found.keys() == expected.keys()


def test_the_micro_batches_had_one_or_four_rows_and_some_were_empty(
    pair: list[dict[str, Any]], single: dict[str, Any]
) -> None:
    for stage in (0, 2, 3):
        assert [rank[f"gradient-2-{stage}-1"]["rows"] for rank in pair] == [[1] * 3 + [0], [1] * 4]
        assert [rank[f"gradient-2-{stage}-80"]["rows"] for rank in pair] == [[4], [3]]
    assert single["gradient-1-0-1"]["rows"] == [1] * 7
    assert max(single["gradient-1-0-80"]["rows"]) >= 4


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_the_recorded_norm_is_that_of_the_gradient(
    pair: list[dict[str, Any]], plain_gradient: dict[str, torch.Tensor], stage: int
) -> None:
    expected = float(sum(float(g.square().sum()) for g in plain_gradient.values())) ** 0.5
    assert pair[0][f"gradient-2-{stage}-1"]["norm"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("method", METHODS[1:])
@pytest.mark.parametrize("stage", [2, 3])
def test_the_gradient_of_other_methods_on_two_ranks_equals_that_of_peft_or_autograd(
    folder: Path, make_llama: Callable[..., Any], method: str, stage: int
) -> None:
    from peft import LoraConfig, get_peft_model

    model = make_llama()
    if method in ("lora", "dora"):
        config = LoraConfig(
            r=4, lora_alpha=8, target_modules=["q_proj", "v_proj", "down_proj"],
            use_dora=method == "dora",
        )  # fmt: skip
        get_peft_model(model, config)
    if method not in ("columns", "sift"):  # which start from the weights of the base model
        initial = load_file(folder / f"initial-{method}-{stage}.safetensors")
        assert set(initial) == {n for n, p in model.named_parameters() if p.requires_grad}
        model.load_state_dict(initial, strict=False)
    model.double()
    rows, total, num_targets = load_tokens(folder / "tokens.safetensors", "training"), 0.0, 0
    assert rows is not None
    for row in StepPlan(len(rows), BATCH_SIZE, SEED).rows(0):
        ids, first = rows.row(row).long(), int(rows.prompt_lengths[row])
        logits = model(input_ids=ids[None]).logits[0]
        total = total + F.cross_entropy(logits[first - 1 : -1], ids[first:], reduction="sum")
        num_targets += len(ids) - first
    (total / num_targets).backward()
    expected = {f"model.{n}": p.grad for n, p in model.named_parameters() if p.requires_grad}
    if method == "sift":
        chosen = PlaceSelection.load(folder / "elements.safetensors").modules
        expected = {
            f"model.{n}.blocks": expected[f"model.{n}.weight"].flatten()[module.places]
            for n, module in chosen.items()
        }
    elif method == "columns":
        chosen = PlaceSelection.load(folder / "columns.safetensors").modules
        expected = {
            f"model.{n}.blocks": expected[f"model.{n}.weight"][:, module.places].t()
            for n, module in chosen.items()
            if len(module.places)
        }
    found = load_file(folder / f"gradient-{method}-{stage}.safetensors")
    assert distance(found, expected) < 1e-5


@pytest.mark.parametrize("name", ["smt-1-float32", *TRAINED])
def test_a_resumed_training_equals_an_uninterrupted_one_bit_for_bit_with_dropout(
    pair: list[dict[str, Any]], name: str
) -> None:
    for rank in pair:
        fact = rank[f"resume-{name}"]
        assert fact["equal"], fact["difference"]
    fact = pair[0][f"resume-{name}"]
    assert fact["resumed_losses"] == fact["losses"][3:]


@pytest.mark.parametrize("name", QUANTISED)
def test_blocks_beside_a_quantised_base_resume_bit_for_bit(
    pair: list[dict[str, Any]], name: str
) -> None:
    assert all(rank[f"quantised-{name}"]["equal"] for rank in pair)
    fact = pair[0][f"quantised-{name}"]
    assert all(".smt_delta.default.blocks/" in key for key in fact["trained"])
    kind, _, dtype = name.split("-")
    same = pair[0][f"quantised-{kind}-2-{dtype}"]["losses"]
    assert fact["losses"] == pytest.approx(same, rel=1e-5 if dtype == "float32" else 1e-3)
    whole = pair[0][f"resume-smt-2-{dtype}"]["losses"]
    assert fact["losses"] == pytest.approx(whole, rel=0.1)
    assert fact["losses"] != whole


def test_a_single_rank_resumes_bit_for_bit_too(single: dict[str, Any]) -> None:
    assert single["resume-smt-2-float32"]["equal"], single["resume-smt-2-float32"]


def test_dropout_and_clipping_had_an_effect(pair: list[dict[str, Any]]) -> None:
    with_dropout = pair[0]["resume-smt-0-float32"]
    assert with_dropout["losses"][0] != pytest.approx(pair[0]["loss-without-dropout"], rel=1e-4)
    assert max(with_dropout["norms"]) > 0.5  # the harness clips there


@pytest.mark.parametrize(
    ("method", "stage"), [("smt", 1), *((m, s) for m in METHODS for s in (2, 3))]
)
def test_all_zero_stages_have_the_same_losses(
    pair: list[dict[str, Any]], method: str, stage: int
) -> None:
    losses = [pair[0][f"resume-{method}-{s}-float32"]["losses"] for s in (0, stage)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_zero_3_has_the_losses_of_zero_2_in_bfloat16_except_for_the_order_of_one_sum(
    pair: list[dict[str, Any]], method: str
) -> None:
    """ZeRO-3 inserts a node before every module, where the gradients of its input are summed.

    The input of a LoRA layer gets two gradients, which ZeRO-2 adds one by one to those of other
    layers. With such a node ZeRO-2 has the losses of ZeRO-3; without it they differ by 1e-4.
    """
    two, three = (pair[0][f"resume-{method}-{stage}-bfloat16"]["losses"] for stage in (2, 3))
    if method in ("lora", "dora"):
        assert three == pytest.approx(two, rel=1e-3)
        two = pair[0][f"summed-at-layers-{method}"]
    assert three == pytest.approx(two, rel=2e-5)


@pytest.mark.parametrize("name", ["smt-1-float32", *TRAINED])
def test_untrained_parameters_stay_bitwise_unchanged_and_trained_ones_change(
    pair: list[dict[str, Any]], name: str
) -> None:
    for rank in pair:
        assert rank[f"resume-{name}"]["kept"]
        assert rank[f"resume-{name}"]["changed"]


@pytest.mark.parametrize("method", METHODS)
def test_one_rank_resumes_from_a_state_of_two_ranks_and_the_other_way_round(
    pair: list[dict[str, Any]], single: dict[str, Any], method: str
) -> None:
    for facts in (single, *pair):
        assert facts[f"cross-{method}"]["param"] < 1e-6, facts[f"cross-{method}"]


@pytest.mark.parametrize("stage", [2, 3])
def test_a_preemption_causes_one_checkpoint_at_the_same_step_on_all_ranks(
    pair: list[dict[str, Any]], stage: int
) -> None:
    for rank in pair:
        fact = rank[f"preempt-{stage}"]
        assert fact["checkpoints"] == [3, 6]  # 6 is the end
        assert fact["asked"] == 1
        assert fact["equal"]
        assert fact["undisturbed"]


@pytest.mark.parametrize("name", TRAINED)
def test_the_adapter_on_its_base_and_the_merged_model_predict_like_the_trained_model(
    pair: list[dict[str, Any]], name: str
) -> None:
    fact = pair[0][f"adapter-{name}"]
    exact, engine = name.endswith("float32"), fact["engine"]
    assert fact["adapter"] == pytest.approx(engine, rel=1e-6 if exact else 1e-4)
    # Merging rounds the sum of a weight and an update to the weight's dtype.
    assert fact["merged"] == pytest.approx(engine, rel=1e-6 if exact else 1e-3)
    assert fact["agreement"] > (0.99 if exact else 0.95)
    assert abs(engine - fact["base"]) > 10 * abs(engine - fact["adapter"])
    assert pair[1][f"adapter-{name}"] == {"num_exported": 0}  # only rank 0 needs them


def test_a_loss_that_is_not_finite_on_one_rank_ends_all_ranks_and_names_step_and_rows(
    pair: list[dict[str, Any]], make_encoded: Callable[..., EncodedRows]
) -> None:
    encoded = make_encoded()
    rows = StepPlan(len(encoded), BATCH_SIZE, SEED).rows(POISONED_STEP)
    facts = [rank["diverge-loss-2-float32"] for rank in pair]
    assert facts[0]["error"] == facts[1]["error"]
    assert f"the loss of step {POISONED_STEP + 1} must be finite" in facts[0]["error"]
    assert str(rows) in facts[0]["error"]
    assert facts[0]["recorded"] == [1, 2, 3, 4]
    assert facts[0]["checkpoints"] == facts[1]["checkpoints"] == [3]


@pytest.mark.parametrize(
    ("stage", "dtype"), [(0, "float32"), (2, "float32"), (3, "float32"), (2, "bfloat16")]
)
def test_a_gradient_that_is_not_finite_on_one_rank_ends_all_ranks(
    pair: list[dict[str, Any]], stage: int, dtype: str
) -> None:
    facts = [rank[f"diverge-gradient-{stage}-{dtype}"] for rank in pair]
    assert facts[0]["error"] == facts[1]["error"]
    assert "the gradient norm of step 1 must be finite" in facts[0]["error"]
    assert facts[0]["recorded"] == facts[0]["checkpoints"] == []


@pytest.mark.parametrize("stage", [2, 3])
def test_ranks_save_a_large_state_in_even_shares(pair: list[dict[str, Any]], stage: int) -> None:
    ours, theirs = (facts[f"shares-{stage}"] for facts in pair)
    assert ours["equal"]
    assert theirs["equal"]
    assert ours["own"] + theirs["own"] == ours["whole"]
    assert 0.3 < ours["own"] / ours["whole"] < 0.7


@pytest.mark.parametrize("stage", [2, 3])
def test_ranks_save_a_large_model_in_shares(pair: list[dict[str, Any]], stage: int) -> None:
    for facts in pair:
        found = facts[f"shares-{stage}"]
        assert found["files"] == [
            "base_model.json",
            "tuned_model-00001-of-00002.safetensors",
            "tuned_model-00002-of-00002.safetensors",
        ]
        assert found["same model"]
