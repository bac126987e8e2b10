"""Claims about a trained warm-up, against a plain training loop in float64; see harness.py."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from smt_ray.builtin import MODEL_DIR
from smt_ray.data.batches import StepPlan
from smt_ray.data.encoding.stored import EncodedRows, load_tokens, save_tokens
from tests.ranks import free_port, run_ranks

pytestmark = pytest.mark.slow

HARNESS = Path(__file__).with_name("harness.py")
NUM_STEPS, BATCH_SIZE, SEED = 4, 7, 3  # those of the harness, like the other constants
BETAS, EPSILON, DECAY, CLIP = (0.9, 0.95), 1e-3, 0.1, 0.5
RATES = (0.005, 0.01, 0.01, 0.01)  # two warm-up steps, then a constant rate
TARGETS = ("q_proj", "k_proj", "v_proj")
EXACT = [f"{ranks}-{stage}-float32" for ranks in (1, 2) for stage in (0, 1, 2, 3)]
ROUNDED = [f"{ranks}-{stage}-bfloat16" for ranks in (1, 2) for stage in (0, 2, 3)]


@pytest.fixture(scope="module")
def folder(
    tmp_path_factory: pytest.TempPathFactory,
    make_llama: Callable[..., Any],
    make_encoded: Callable[..., EncodedRows],
) -> Path:
    """The measurements of two ranks and of one."""
    folder = tmp_path_factory.mktemp("trained")
    make_llama().save_pretrained(folder / "model")
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (folder / "model" / file).write_bytes((MODEL_DIR / file).read_bytes())
    save_tokens(folder / "tokens.safetensors", {"training": make_encoded()})
    ports = free_port(), free_port()
    ranks = [(0, 2, ports[0]), (1, 2, ports[0]), (0, 1, ports[1])]
    run_ranks(HARNESS, folder, ranks)
    return folder


@pytest.fixture(scope="module")
def facts(folder: Path) -> dict[str, Any]:
    """The facts by number of ranks, ZeRO stage and dtype."""
    return {
        f"{ranks}-{name}": fact
        for ranks in (1, 2)
        for name, fact in json.loads((folder / f"{ranks}.json").read_text()).items()
    }


def gradient(model: Any, encoded: EncodedRows, rows: list[int]) -> None:
    """Computes the gradient of the mean over the targets of all rows, one row at a time."""
    num_targets = sum(int(encoded.lengths[r] - encoded.prompt_lengths[r]) for r in rows)
    model.zero_grad()
    for row in rows:
        ids, first = encoded.row(row).long(), int(encoded.prompt_lengths[row])
        logits = model(input_ids=ids[None]).logits[0, first - 1 : -1]
        (F.cross_entropy(logits, ids[first:], reduction="sum") / num_targets).backward()


@pytest.fixture(scope="module")
def reference(folder: Path, make_llama: Callable[..., Any]) -> dict[str, torch.Tensor]:
    """The weights and the gradient sums before clipping of a full fine-tuning in float64."""
    encoded = load_tokens(folder / "tokens.safetensors", "training")
    assert encoded is not None
    model, plan = make_llama().double(), StepPlan(len(encoded), BATCH_SIZE, SEED)
    optimizer = torch.optim.AdamW(
        model.parameters(), betas=BETAS, eps=EPSILON, weight_decay=DECAY
    )  # fmt: skip
    sums: dict[str, Any] = {}
    for step, rate in enumerate(RATES):
        gradient(model, encoded, plan.rows(step))
        for name, module in model.named_modules():
            if name.endswith(TARGETS):
                sums[f"sum/{name}"] = sums.get(f"sum/{name}", 0) + module.weight.grad
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
    sums |= model.named_parameters()
    return {name: value.detach() for name, value in sums.items()}


def differences(folder: Path, name: str, reference: dict[str, torch.Tensor]) -> dict[str, float]:
    """The largest relative difference of a tensor, among sums and among changes of weights."""
    found = load_file(folder / f"{name}.safetensors")
    assert found.keys() == reference.keys()
    original = load_file(folder / "model" / "model.safetensors")
    worst = {"sums": 0.0, "changes": 0.0}
    for key, expected in reference.items():
        is_sum = key.startswith("sum/")
        scale = expected if is_sum else expected - original[key].double()
        difference = float((found[key].double() - expected).norm() / scale.norm())
        kind = "sums" if is_sum else "changes"
        worst[kind] = max(worst[kind], difference)
    return worst


@pytest.mark.parametrize("name", EXACT)
def test_a_trained_warm_up_is_a_full_fine_tuning_that_sums_its_gradients(
    folder: Path, reference: dict[str, torch.Tensor], name: str
) -> None:
    worst = differences(folder, name, reference)
    assert worst["sums"] < 1e-5
    assert worst["changes"] < 5e-5


@pytest.mark.parametrize("name", ROUNDED)
def test_in_bfloat16_it_is_the_same_up_to_rounding(
    folder: Path, reference: dict[str, torch.Tensor], name: str
) -> None:
    worst = differences(folder, name, reference)
    assert worst["sums"] < 0.05
    assert worst["changes"] < 0.2


def test_two_ranks_have_the_sums_of_one(folder: Path) -> None:
    for stage in (0, 1, 2, 3):
        one, two = (load_file(folder / f"{n}-{stage}-float32.safetensors") for n in (1, 2))
        for key in one:
            if key.startswith("sum/"):
                assert float((one[key] - two[key]).norm() / one[key].norm()) < 1e-5, key


def test_gradients_were_clipped_but_not_their_sums(facts: dict[str, Any]) -> None:
    for name in EXACT:
        assert min(facts[name]["norms"]) > 2 * CLIP


@pytest.mark.parametrize("name", [*EXACT, *ROUNDED])
def test_it_resumes_exactly_with_sums_elsewhere_and_activation_checkpointing(
    facts: dict[str, Any], name: str
) -> None:
    assert facts[name]["resumed"] == 0
    assert facts[name]["again"]


def test_the_kept_model_loads_as_a_plain_model_with_the_new_weights_in_its_dtype(
    folder: Path,
) -> None:
    trained = load_file(folder / "2-3-bfloat16.safetensors")
    kept: Any = AutoModelForCausalLM.from_pretrained(folder / "kept")
    assert (folder / "kept" / "tokenizer.json").exists()
    for name, parameter in kept.named_parameters():
        assert parameter.dtype == torch.bfloat16
        assert torch.equal(parameter, trained[name].bfloat16()), name
