from __future__ import annotations

import math

import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from smt_ray.errors import UserError
from smt_ray.evaluation import likelihood

CANDIDATES = [
    [
        "the answer is 1",
        "the answer is 12",
        "the answer is 120",
    ],  # each is the beginning of the next
    ["true", "false"],  # nothing in common
    ["a", "b", "c", "d"],  # one token each
    ["only one"],
    ["option1", "option2"],  # only the last token differs
    ["same", "same and more", "different altogether, and long"],
]


def candidate_log_likelihoods(*arguments: object, **options: object) -> list[list[float]]:
    """The scores alone."""
    return [row.scores for row in likelihood.candidate_log_likelihoods(*arguments, **options)]


def naive(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    prompt: str,
    candidate: str,
    with_eos: bool,
) -> float:
    """The negative loss of the completion's tokens in one forward pass over the whole text."""
    num_prompt = len(tokenizer(prompt)["input_ids"])
    ids = tokenizer(prompt + candidate)["input_ids"] + [1] * with_eos
    labels = torch.tensor([[-100] * num_prompt + ids[num_prompt:]])
    with torch.no_grad():
        return -model(torch.tensor([ids]), labels=labels).loss.item()


@pytest.mark.parametrize("with_eos", [False, True])
@pytest.mark.parametrize("batch_tokens", [1, 70, 150, 10_000])
def test_likelihood_equals_the_full_forward_of_each_candidate(
    model, tokenizer, prompts, batch_tokens: int, with_eos: bool
) -> None:
    scores = candidate_log_likelihoods(
        model, tokenizer, prompts, CANDIDATES, with_eos=with_eos, batch_tokens=batch_tokens
    )
    for prompt, candidates, row in zip(prompts, CANDIDATES, scores, strict=True):
        expected = [naive(model, tokenizer, prompt, c, with_eos) for c in candidates]
        assert row == pytest.approx(expected, abs=2e-5)


def test_likelihood_under_a_sliding_window_equals_the_full_forward(tokenizer, prompts) -> None:
    from transformers import MistralConfig, MistralForCausalLM

    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=98,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        sliding_window=6,
        initializer_range=0.3,
    )
    model = MistralForCausalLM(config).eval()
    scores = candidate_log_likelihoods(model, tokenizer, prompts, CANDIDATES, batch_tokens=150)
    for prompt, candidates, row in zip(prompts, CANDIDATES, scores, strict=True):
        expected = [naive(model, tokenizer, prompt, c, False) for c in candidates]
        assert row == pytest.approx(expected, abs=2e-5)


HEADER = "Below is an instruction. "


@pytest.mark.parametrize("batch_tokens", [150, 10_000])
def test_likelihood_after_a_common_prefix_equals_the_full_forward(
    model, tokenizer, prompts, batch_tokens: int
) -> None:
    headed = [HEADER + prompt for prompt in prompts]
    scores = candidate_log_likelihoods(
        model, tokenizer, headed, CANDIDATES, batch_tokens=batch_tokens
    )
    for prompt, candidates, row in zip(headed, CANDIDATES, scores, strict=True):
        expected = [naive(model, tokenizer, prompt, c, False) for c in candidates]
        assert row == pytest.approx(expected, abs=2e-5)


def test_a_common_prefix_is_run_once_up_to_the_positions_that_scores_need(model, tokenizer) -> None:
    shapes: list[tuple[int, ...]] = []
    model.model.embed_tokens.register_forward_pre_hook(
        lambda _, args: shapes.append(tuple(args[0].shape))
    )
    candidates = [["the answer is 1", "the answer is 2"]] * 3
    num_header = len(tokenizer(HEADER)["input_ids"])
    num_common = len(tokenizer("the answer is ", add_special_tokens=False)["input_ids"])
    candidate_log_likelihoods(model, tokenizer, [HEADER + end for end in "xyz"], candidates)
    assert shapes == [(1, num_header), (3, 1 + num_common)]
    shapes.clear()
    alike = candidate_log_likelihoods(model, tokenizer, [HEADER + "x"] * 3, candidates)
    assert shapes == [(1, num_header), (3, 1 + num_common)]
    assert alike[0] == pytest.approx(alike[2], abs=1e-6)


def test_a_hundred_candidates_cost_two_forward_passes(model, tokenizer) -> None:
    calls: list[int] = []
    model.register_forward_hook(lambda *_: calls.append(1))
    candidates = [f"the correct answer is {i}" for i in range(100)]
    candidate_log_likelihoods(model, tokenizer, ["How many?"], [candidates], batch_tokens=8192)
    assert len(calls) == 2


def test_labels_that_differ_in_one_token_cost_one_forward_pass(model, tokenizer) -> None:
    calls: list[int] = []
    model.register_forward_hook(lambda *_: calls.append(1))
    candidates = [f"the correct answer is answer{i}" for i in range(1, 5)]
    candidate_log_likelihoods(model, tokenizer, ["Which?"], [candidates])
    assert len(calls) == 1


def test_logits_that_are_not_finite_are_an_error_that_names_the_row(model, tokenizer) -> None:
    with torch.no_grad():
        model.model.embed_tokens.weight[tokenizer.convert_tokens_to_ids("Z")] = math.nan
    with pytest.raises(UserError, match="row 1: the model's logits must be finite"):
        candidate_log_likelihoods(model, tokenizer, ["a", "Z"], [["b", "c"], ["b", "c"]])


def test_a_row_without_candidates_or_with_an_empty_candidate_is_an_error(model, tokenizer) -> None:
    with pytest.raises(UserError, match=r"row 0.*at least one candidate"):
        candidate_log_likelihoods(model, tokenizer, ["a"], [[]])
    with pytest.raises(UserError, match=r"row 0.*at least one token"):
        candidate_log_likelihoods(model, tokenizer, ["a"], [["b", ""]])


def test_a_row_longer_than_the_models_positions_is_named(model, tokenizer) -> None:
    with pytest.raises(UserError, match=r"row 0.*512 positions"):
        candidate_log_likelihoods(model, tokenizer, ["x" * 510], [["b", "two"]])


def test_the_tokens_of_a_row_are_those_of_its_prompt_and_of_all_its_candidates(
    model, tokenizer, prompts
) -> None:
    rows = likelihood.candidate_log_likelihoods(model, tokenizer, prompts, CANDIDATES)
    for prompt, candidates, row in zip(prompts, CANDIDATES, rows, strict=True):
        num_prompt = len(tokenizer(prompt)["input_ids"])
        whole = [len(tokenizer(prompt + c)["input_ids"]) for c in candidates]
        assert row.num_prompt_tokens == num_prompt
        assert row.num_candidate_tokens == sum(whole) - num_prompt * len(candidates)
