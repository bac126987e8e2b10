"""Claims about places that are filled again: the same texts as one by one, in fewer steps."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaForCausalLM, MistralConfig, MistralForCausalLM

from smt_ray.evaluation.batches import plan_batches
from smt_ray.evaluation.generate import generate_texts

HEADER = "Below is an instruction. "
NEW = 40


@pytest.fixture
def many() -> list[str]:
    """Prompts of unlike length; some begin alike."""
    return [f"{HEADER * (i % 3 > 0)}{'word ' * (i * 7 % 5)}{i}:" for i in range(15)]


@pytest.fixture
def ending(model: LlamaForCausalLM, tokenizer, many) -> LlamaForCausalLM:
    """The model, ending texts at the character that makes them most unlike in length."""
    free = [text.text for text in generate_texts(model, tokenizer, many, max_new_tokens=NEW)]
    ends = {char: len({text.find(char) for text in free}) for char in set("".join(free))}
    stop = max(sorted(ends), key=ends.__getitem__)
    model.generation_config.eos_token_id = [1, *tokenizer(stop, add_special_tokens=False).input_ids]
    return model


def steps(model: torch.nn.Module) -> list[tuple[int, int]]:
    """Rows and columns looked at of each forward of one token, as they happen."""
    seen: list[tuple[int, int]] = []

    def note(_: object, __: object, inputs: dict[str, torch.Tensor]) -> None:
        if inputs["input_ids"].shape[1] == 1:
            num_columns = inputs["past_key_values"].get_seq_length() + 1
            seen.append((len(inputs["input_ids"]), num_columns))

    model.register_forward_pre_hook(note, with_kwargs=True)
    return seen


@pytest.mark.parametrize("batch_tokens", [1, 150, 400, 100_000])
@pytest.mark.parametrize("penalty", [1.0, 1.3])
def test_texts_that_end_at_unlike_times_equal_those_of_prompts_alone(
    ending, tokenizer, many, batch_tokens: int, penalty: float
) -> None:
    options = {"max_new_tokens": NEW, "repetition_penalty": penalty}
    together = generate_texts(ending, tokenizer, many, batch_tokens=batch_tokens, **options)
    alone = [generate_texts(ending, tokenizer, [prompt], **options)[0] for prompt in many]
    assert together == alone
    lengths = {generated.num_new_tokens for generated in together}
    assert len(lengths) > 3
    assert min(lengths) < NEW // 2


def test_places_are_filled_again_within_the_limit(ending, tokenizer, many) -> None:
    batch_tokens = 400
    seen = steps(ending)
    found = generate_texts(ending, tokenizer, many, max_new_tokens=NEW, batch_tokens=batch_tokens)
    # A text takes a step for each of its tokens, the one that ends it included.
    texts = [min(text.num_new_tokens + 1, NEW) for text in found]
    lengths = [text.num_prompt_tokens + NEW for text in found]
    assert max(rows * columns for rows, columns in seen) <= batch_tokens
    # Of a whole batch the longest text decides.
    batches = plan_batches(lengths, batch_tokens)
    assert len(seen) < 0.8 * sum(max(texts[i] for i in batch) for batch in batches)


def test_those_that_are_left_go_on_without_the_ended(ending, tokenizer, many) -> None:
    seen = steps(ending)
    generate_texts(ending, tokenizer, many, max_new_tokens=NEW)
    rows = [rows for rows, _ in seen]
    assert rows == sorted(rows, reverse=True)
    assert rows[0] == len(many)
    assert rows[-1] < len(many) / 2


def test_what_a_long_prompt_leaves_is_no_longer_looked_at(model, tokenizer) -> None:
    """What prompts begin with alike stands before the padding, and would keep it in the batch."""
    prompts = [HEADER + "a" * 200, *(f"{HEADER}{i}:" for i in range(12))]
    (stop,) = generate_texts(model, tokenizer, prompts[:1], max_new_tokens=1)
    model.generation_config.eos_token_id = tokenizer(stop.text, add_special_tokens=False).input_ids
    alone = [generate_texts(model, tokenizer, [p], max_new_tokens=NEW)[0] for p in prompts]
    seen = steps(model)
    assert generate_texts(model, tokenizer, prompts, max_new_tokens=NEW, batch_tokens=800) == alone
    wide = [columns > 200 for _, columns in seen]
    assert wide == [True] * sum(wide) + [False] * (len(seen) - sum(wide))
    assert 0 < sum(wide) < 3
    assert max(rows for rows, _ in seen) > 6
    assert max(rows * columns for rows, columns in seen) <= 800


@pytest.mark.parametrize("batch_tokens", [200, 100_000])
def test_a_model_that_looks_a_number_of_places_back_writes_in_whole_batches(
    tokenizer, many, batch_tokens: int
) -> None:
    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=98, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, sliding_window=6, initializer_range=0.3,
        eos_token_id=1,
    )  # fmt: skip
    model = MistralForCausalLM(config).eval()
    together = generate_texts(model, tokenizer, many, max_new_tokens=NEW, batch_tokens=batch_tokens)
    alone = [generate_texts(model, tokenizer, [prompt], max_new_tokens=NEW)[0] for prompt in many]
    assert together == alone
