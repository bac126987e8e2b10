"""Claims about the common prefix of prompts: it is shared where exact, and changes no text."""

from __future__ import annotations

import pytest
import torch
from transformers import GPTNeoConfig, GPTNeoForCausalLM, MistralConfig, MistralForCausalLM

from smt_ray.evaluation.generate import generate_texts
from smt_ray.evaluation.prefix import prefill

HEADER = "Below is an instruction. "
NEW = 12


@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize("penalty", [1.0, 1.5])
def test_texts_after_a_common_prefix_equal_those_of_single_prompts(
    model, tokenizer, prompts, num_beams: int, penalty: float
) -> None:
    headed = [HEADER + prompt for prompt in prompts]
    options = {"max_new_tokens": NEW, "num_beams": num_beams, "repetition_penalty": penalty}
    together = generate_texts(model, tokenizer, headed, **options)
    alone = [generate_texts(model, tokenizer, [prompt], **options)[0] for prompt in headed]
    assert together == alone
    assert len({generated.text for generated in together}) > 1


def test_tokens_are_counted_by_prompt_and_text(model, tokenizer, prompts) -> None:
    headed = [HEADER + prompt for prompt in prompts]
    for prompt, found in zip(
        headed, generate_texts(model, tokenizer, headed, max_new_tokens=NEW), strict=True
    ):
        assert found.num_prompt_tokens == len(tokenizer(prompt)["input_ids"])
        assert found.num_new_tokens == len(
            tokenizer(found.text, add_special_tokens=False)["input_ids"]
        )


def test_the_prefix_is_run_once_and_one_token_of_each_prompt_is_not_cached(model) -> None:
    lengths: list[tuple[int, ...]] = []
    model.model.embed_tokens.register_forward_pre_hook(
        lambda _, args: lengths.append(tuple(args[0].shape))
    )
    prefix = list(range(2, 14))
    ids, mask, cache = prefill(model, [prefix, [*prefix, 20, 21]], pad_id=0, num_beams=2)
    assert lengths == [(1, 11)]
    assert ids.tolist() == [[*prefix[:11], 0, 0, 13], [*prefix, 20, 21]]
    assert mask.tolist() == [[1] * 11 + [0, 0, 1], [1] * 14]
    assert cache.get_seq_length() == 11
    assert cache.layers[0].keys.shape[0] == 4


@pytest.mark.parametrize("prompts", [[[2, 3, 4]] * 2, [list(range(2, 40))]], ids=["short", "one"])
def test_a_short_prefix_and_a_single_prompt_are_not_cached(model, prompts: list[list[int]]) -> None:
    ids, mask, cache = prefill(model, prompts, pad_id=0)
    assert cache is None
    assert ids.tolist() == prompts
    assert mask.all()


def test_beam_search_works_after_prompts_that_differ_only_in_their_last_token(
    model, tokenizer
) -> None:
    prompts = [f"{HEADER}{letter}" for letter in "aab"]
    options = {"max_new_tokens": NEW, "num_beams": 3}
    together = generate_texts(model, tokenizer, prompts, **options)
    assert together == [generate_texts(model, tokenizer, [p], **options)[0] for p in prompts]


def test_a_model_with_a_sliding_window_gets_whole_prompts() -> None:
    """With padding in between, its window would contain fewer of the row's tokens."""
    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=98, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, sliding_window=6,
    )  # fmt: skip
    model = MistralForCausalLM(config).eval()
    prompts = [list(range(2, 40)), list(range(2, 41))]
    _, _, cache = prefill(model, prompts, pad_id=0)
    assert cache is None


def test_a_model_that_counts_padding_as_distance_gets_whole_prompts() -> None:
    """Its local attention then computes the same for a prompt as for the prompt alone."""
    torch.manual_seed(0)
    config = GPTNeoConfig(
        vocab_size=98, hidden_size=32, intermediate_size=48, num_layers=2, num_heads=4,
        attention_types=[[["global", "local"], 1]], window_size=8, initializer_range=0.3,
        bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    model = GPTNeoForCausalLM(config).eval()
    short, long = [*range(2, 30), 40, 41], list(range(2, 60))
    ids, mask, cache = prefill(model, [short, long], pad_id=0, share=False)
    num_before = cache.get_seq_length() if cache else 0
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    with torch.no_grad():
        logits = model(
            input_ids=ids[:, num_before:], attention_mask=mask,
            position_ids=positions[:, num_before:], past_key_values=cache,
        ).logits  # fmt: skip
        alone = model(input_ids=torch.tensor([short])).logits
    torch.testing.assert_close(logits[0, -1], alone[0, -1])
