"""Claims about LoRA and DoRA as methods, against peft alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from smt_ray.data.batches import step_micro_batches
from smt_ray.data.encoding import EncodedRows
from smt_ray.errors import UserError
from smt_ray.methods.lora import (
    LoraMethod,
    LoraSettings,
    choose_rank,
    find_targets,
    target_shapes,
)
from smt_ray.methods.registry import find_method
from smt_ray.training.loss import SupervisedLoss

Make = Callable[..., Any]
TARGETS = ["q_proj", "k_proj", "v_proj", "up_proj", "down_proj"]
IDS = torch.arange(20).view(2, 10)
# Layers of make_llama: q 32 x 32, k and v 16 x 32, up and down 64 x 32 and 32 x 64.
INS_AND_OUTS = 2 * (64 + 48 + 48 + 96 + 96)
OUTS = 2 * (32 + 16 + 16 + 64 + 32)


def make_method(name: str, **changes: Any) -> LoraMethod:
    settings = LoraSettings(
        rank=4, alpha=8, dropout=0.3, target_modules=TARGETS, use_dora=name == "dora", seed=3
    )
    return LoraMethod(replace(settings, **changes))


def tuned(method: Any, model: Any, seed: int = 1) -> dict[str, torch.Tensor]:
    """Moves what is trained, as an engine would; the new values in fp32."""
    generator, values = torch.Generator().manual_seed(seed), {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            noise = torch.randn(parameter.shape, generator=generator)
            values[name] = parameter.detach().float() + 0.05 * noise
            parameter.data.copy_(values[name])
    return values


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=IDS).logits
    return found


@pytest.fixture(params=["lora", "dora"])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def adapter(name: str, make_llama: Make, tmp_path: Path) -> Path:
    """A tuned adapter of make_llama's model."""
    method, model, folder = make_method(name), make_llama(), tmp_path / "adapter"
    method.prepare(model, zero_stage=0)
    folder.mkdir()
    method.save(model, tuned(method, model), folder)
    return folder


def test_exactly_the_factors_are_trained_and_both_percentages_are_known(
    name: str, make_llama: Make
) -> None:
    model = make_llama()
    base = sum(p.numel() for p in model.parameters())
    method = make_method(name)
    method.prepare(model, zero_stage=0)
    trained = [n for n, p in model.named_parameters() if p.requires_grad]
    assert all("lora_" in n for n in trained)
    expected = 4 * INS_AND_OUTS + (OUTS if name == "dora" else 0)
    summary = method.count(model).summary()
    assert (summary.num_trainable, summary.num_base) == (expected, base)
    assert summary.percent_of_base == pytest.approx(100 * expected / base)
    assert summary.percent_of_total == pytest.approx(100 * expected / (base + expected))


def test_the_counts_are_those_that_peft_prints(name: str, make_llama: Make) -> None:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=4, target_modules=TARGETS, use_dora=name == "dora")
    trained, total = get_peft_model(make_llama(), config).get_nb_trainable_parameters()
    method, model = make_method(name), make_llama()
    method.prepare(model, zero_stage=0)
    counts = method.count(model)
    assert (counts.num_trainable, counts.num_total) == (trained, total)


def test_an_untrained_adapter_changes_nothing_and_dropout_is_on_in_training_alone(
    name: str, make_llama: Make
) -> None:
    model = make_llama()
    before, method = logits(model), make_method(name)
    method.prepare(model, zero_stage=0)
    torch.testing.assert_close(logits(model), before)
    tuned(method, model)
    assert torch.equal(logits(model), logits(model))
    model.train()
    assert not torch.equal(logits(model), logits(model))


def test_the_factors_begin_as_the_seed_says_and_the_global_generator_stands_still(
    name: str, make_llama: Make
) -> None:
    def begin(seed: int, noise: int) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        model = make_llama()
        torch.manual_seed(noise)
        make_method(name, seed=seed).prepare(model, zero_stage=0)
        state = torch.random.get_rng_state()
        return {n: p for n, p in model.named_parameters() if p.requires_grad}, state

    (a, state), (b, _), (c, _) = begin(3, 1), begin(3, 2), begin(4, 1)
    torch.manual_seed(1)
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(torch.equal(a[n], b[n]) for n in a)
    assert not all(torch.equal(a[n], c[n]) for n in a)


def test_gradients_through_our_batches_equal_pefts_on_whole_logits(
    name: str, make_llama: Make, make_encoded: Callable[..., EncodedRows]
) -> None:
    from peft import LoraConfig, get_peft_model

    method, ours, rows = make_method(name), make_llama(), [3, 1, 20, 36, 9]
    method.prepare(ours, zero_stage=0)
    initial = tuned(method, ours)
    encoded, loss = make_encoded(), SupervisedLoss(ours.double())
    for batch in step_micro_batches(
        encoded, rows, mode="padded", max_tokens=40, train_on_inputs=False
    ):
        loss(batch).backward()
    config = LoraConfig(
        r=4, lora_alpha=8, lora_dropout=0.3, target_modules=TARGETS, use_dora=name == "dora",
    )  # fmt: skip
    theirs: Any = get_peft_model(make_llama(), config).eval()
    theirs.load_state_dict({f"base_model.model.{n}": p for n, p in initial.items()}, strict=False)
    theirs.double()
    total, num_targets = torch.zeros((), dtype=torch.float64), 0
    for row in rows:
        ids, first = encoded.row(row).long(), int(encoded.prompt_lengths[row])
        found = theirs(input_ids=ids[None]).logits[0]
        total = total + F.cross_entropy(found[first - 1 : -1], ids[first:], reduction="sum")
        num_targets += len(ids) - first
    (total / num_targets).backward()
    compared = {n: p.grad for n, p in ours.named_parameters() if p.requires_grad}
    assert compared.keys() == initial.keys()
    for parameter, gradient in compared.items():
        expected = theirs.get_parameter(f"base_model.model.{parameter}").grad
        # Losses are float32 sums.
        torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_saved_loaded_and_merged_is_the_tuned_model_whatever_the_engine_left_behind(
    name: str, make_llama: Make, tmp_path: Path, dtype: torch.dtype
) -> None:
    method, model = make_method(name), make_llama().to(dtype)
    before = logits(model)
    method.prepare(model, zero_stage=0)
    values = tuned(method, model)
    expected = logits(model)
    for parameter in model.parameters():
        parameter.data = torch.empty(0, dtype=dtype)  # partitioned away, as under ZeRO-3
    method.save(model, values, tmp_path)
    fresh, loaded = make_llama().to(dtype), find_method(tmp_path)
    loaded.load(fresh, tmp_path)
    assert torch.equal(logits(fresh), expected)
    assert not any(parameter.requires_grad for parameter in fresh.parameters())
    loaded.merge(fresh)
    near = 1e-5 if dtype == torch.float32 else 0.05
    torch.testing.assert_close(logits(fresh), expected, rtol=0, atol=near)
    assert (expected - before).abs().max() > 10 * near
    assert [n for n, _ in fresh.named_parameters()] == [
        n for n, _ in make_llama().named_parameters()
    ]


def test_a_merged_model_is_saved_as_a_plain_one(
    adapter: Path, make_llama: Make, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    model, method = make_llama(), find_method(adapter)
    method.load(model, adapter)
    method.merge(model)
    model.save_pretrained(tmp_path / "merged")
    assert not any("adapter" in file.name for file in (tmp_path / "merged").iterdir())
    alone = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    assert torch.equal(logits(alone), logits(model))


def test_peft_alone_loads_the_adapter(adapter: Path, make_llama: Make) -> None:
    from peft import PeftModel

    ours = make_llama()
    find_method(adapter).load(ours, adapter)
    theirs = PeftModel.from_pretrained(make_llama(), str(adapter))
    assert torch.equal(logits(theirs), logits(ours))


def test_an_adapter_that_peft_alone_wrote_is_loaded_too(
    name: str, make_llama: Make, tmp_path: Path
) -> None:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=2, target_modules=".*v_proj", use_dora=name == "dora")
    theirs = get_peft_model(make_llama(), config).eval()
    tuned(None, theirs)
    theirs.save_pretrained(str(tmp_path), save_embedding_layers=False)
    ours = make_llama()
    find_method(tmp_path).load(ours, tmp_path)
    assert torch.equal(logits(ours), logits(theirs))


def test_equal_adapters_are_equal_bytes_and_name_their_base(
    name: str, make_llama: Make, tmp_path: Path
) -> None:
    make_llama().save_pretrained(tmp_path / "base")
    folders = []
    for targets in (TARGETS, TARGETS[::-1]):
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
        method = make_method(name, target_modules=targets)
        method.prepare(model, zero_stage=0)
        folders.append(tmp_path / f"adapter-{len(folders)}")
        folders[-1].mkdir()
        method.save(model, tuned(method, model), folders[-1])
    a, b = ({p.name: p.read_bytes() for p in folder.iterdir()} for folder in folders)
    assert a == b
    assert json.loads(a["adapter_config.json"])["base_model_name_or_path"] == str(tmp_path / "base")
    assert json.loads(a["base_model.json"])["name_or_path"] == str(tmp_path / "base")


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"seed": 1}, "weight"),
        ({"intermediate_size": 96}, "config"),
        ({"num_hidden_layers": 3}, "config"),
    ],
)
def test_another_base_is_refused_and_left_as_it_was(
    adapter: Path, make_llama: Make, changes: dict[str, int], what: str
) -> None:
    model = make_llama(**changes)
    before = logits(model)
    with pytest.raises(UserError, match=f"base model it was trained on; the {what} differs"):
        find_method(adapter).load(model, adapter)
    assert torch.equal(logits(model), before)
    assert not any("lora" in n for n, _ in model.named_parameters())


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"intermediate_size": 96}, "size mismatch"),
        ({"num_hidden_layers": 3}, "model.layers.2.self_attn.q_proj.lora_A"),
        ({"num_hidden_layers": 1}, "model.layers.1."),
        (None, "not found in the base model"),
    ],
)
def test_an_adapter_without_a_record_of_its_base_must_fit_all_the_same(
    adapter: Path, make_llama: Make, changes: dict[str, int] | None, what: str
) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    (adapter / "base_model.json").unlink()
    if changes is None:
        config = GPT2Config(vocab_size=100, n_embd=32, n_layer=1, n_head=4, n_positions=32)
        model: Any = GPT2LMHeadModel(config).eval()
    else:
        model = make_llama(**changes)
    before = logits(model)
    with pytest.raises(UserError, match="must fit the model that it is put on") as caught:
        find_method(adapter).load(model, adapter)
    assert what in caught.value.got
    assert torch.equal(logits(model), before)
    assert not any("lora" in n for n, _ in model.named_parameters())


def test_the_same_base_in_another_dtype_is_taken(adapter: Path, make_llama: Make) -> None:
    find_method(adapter).load(make_llama().bfloat16(), adapter)


@pytest.mark.parametrize("damage", ["truncated", "missing a tensor", "of another size"])
def test_a_damaged_adapter_is_refused_and_the_model_left_plain(
    adapter: Path, make_llama: Make, damage: str
) -> None:
    file = adapter / "adapter_model.safetensors"
    tensors = load_file(file)
    first = next(iter(tensors))
    if damage == "truncated":
        file.write_bytes(file.read_bytes()[:-8])
    elif damage == "missing a tensor":
        save_file({n: t for n, t in tensors.items() if n != first}, file)
    else:
        save_file({**tensors, first: torch.ones(3, 3)}, file)
    model = make_llama()
    with pytest.raises(UserError) as caught:
        find_method(adapter).load(model, adapter)
    assert str(adapter) in caught.value.field
    assert "\n" not in str(caught.value)
    assert not any("lora" in n for n, _ in model.named_parameters())


def test_an_adapter_of_another_kind_is_refused(make_llama: Make, tmp_path: Path) -> None:
    from peft import IA3Config, get_peft_model

    config = IA3Config(target_modules=["v_proj"], feedforward_modules=[])
    get_peft_model(make_llama(), config).save_pretrained(str(tmp_path), save_embedding_layers=False)
    with pytest.raises(UserError, match="LoRA adapter's config"):
        find_method(tmp_path).load(make_llama(), tmp_path)
    (tmp_path / "adapter_config.json").unlink()
    with pytest.raises(UserError, match="must be an adapter's folder"):
        find_method(tmp_path)


@pytest.mark.parametrize(
    ("targets", "parts"),
    [
        (["query"], ["must each match at least one module", "'query'", "q_proj"]),
        (["embed_tokens"], ["must name linears", "embed_tokens is a Embedding"]),
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


def test_an_untied_head_may_be_adapted_and_still_sees_supervised_positions_alone(
    name: str, make_llama: Make, make_encoded: Callable[..., EncodedRows]
) -> None:
    model, encoded, shapes = make_llama(tie_word_embeddings=False), make_encoded(), []
    method = make_method(name, target_modules=["lm_head"])
    method.prepare(model, zero_stage=0)
    model.lm_head.register_forward_hook(lambda _, __, output: shapes.append(output.shape))
    (batch,) = step_micro_batches(
        encoded, [0, 1], mode="padded", max_tokens=80, train_on_inputs=False
    )
    SupervisedLoss(model)(batch).backward()
    assert shapes == [(1, int(encoded.num_targets(False)[:2].sum()), 100)]


def test_gpt2s_conv1d_is_a_linear_whose_weight_stands_the_other_way(name: str) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(vocab_size=100, n_embd=32, n_layer=2, n_head=4, n_positions=32)
    model = GPT2LMHeadModel(config).eval()
    shapes = target_shapes(find_targets(model, ["c_attn"]))
    assert set(shapes.values()) == {(96, 32)}
    base = sum(p.numel() for p in model.parameters())
    method = make_method(name, target_modules=["c_attn"])
    method.prepare(model, zero_stage=0)
    expected = 2 * (4 * (96 + 32) + (96 if name == "dora" else 0))
    assert (method.count(model).num_trainable, method.count(model).num_base) == (expected, base)
    tuned(method, model)
    before = logits(model)
    method.merge(model)
    torch.testing.assert_close(logits(model), before, rtol=0, atol=1e-5)


# Two modules: 8 outputs of 4 inputs, and 6 of 10: 12 + 16 = 28 parameters a rank, 14 magnitudes.
SHAPES = {"a": (8, 4), "b": (6, 10)}


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
def test_a_budget_is_the_rank_that_is_nearest(budget: float, use_dora: bool, rank: int) -> None:
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
