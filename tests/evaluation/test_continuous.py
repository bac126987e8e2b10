"""Claims about continuous batching: the same texts as for single prompts, in fewer steps."""

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
    """Prompts of different lengths, some with a common prefix."""
    return [f"{HEADER * (i % 3 > 0)}{'word ' * (i * 7 % 5)}{i}:" for i in range(15)]


@pytest.fixture
def ending(model: LlamaForCausalLM, tokenizer, many) -> LlamaForCausalLM:
    """A model whose EOS is the character that makes the lengths of the texts differ most."""
    free = [text.text for text in generate_texts(model, tokenizer, many, max_new_tokens=NEW)]
    ends = {char: len({text.find(char) for text in free}) for char in set("".join(free))}
    stop = max(sorted(ends), key=ends.__getitem__)
    model.generation_config.eos_token_id = [1, *tokenizer(stop, add_special_tokens=False).input_ids]
    return model


def steps(model: torch.nn.Module) -> list[tuple[int, int]]:
    """A list that gets the rows and the columns of each forward pass over one token."""
    seen: list[tuple[int, int]] = []

    def note(_: object, __: object, inputs: dict[str, torch.Tensor]) -> None:
        if inputs["input_ids"].shape[1] == 1:
            num_columns = inputs["past_key_values"].get_seq_length() + 1
            seen.append((len(inputs["input_ids"]), num_columns))

    model.register_forward_pre_hook(note, with_kwargs=True)
    return seen


@pytest.mark.parametrize("batch_tokens", [1, 150, 400, 100_000])
@pytest.mark.parametrize("penalty", [1.0, 1.3])
def test_texts_of_different_lengths_equal_those_of_single_prompts(
    ending, tokenizer, many, batch_tokens: int, penalty: float
) -> None:
    options = {"max_new_tokens": NEW, "repetition_penalty": penalty}
    together = generate_texts(ending, tokenizer, many, batch_tokens=batch_tokens, **options)
    alone = [generate_texts(ending, tokenizer, [prompt], **options)[0] for prompt in many]
    assert together == alone
    lengths = {generated.num_new_tokens for generated in together}
    assert len(lengths) > 3
    assert min(lengths) < NEW // 2


def test_waiting_prompts_take_free_places_within_the_limit(ending, tokenizer, many) -> None:
    batch_tokens = 400
    seen = steps(ending)
    found = generate_texts(ending, tokenizer, many, max_new_tokens=NEW, batch_tokens=batch_tokens)
    # A text takes one step for each of its tokens, including EOS.
    texts = [min(text.num_new_tokens + 1, NEW) for text in found]
    lengths = [text.num_prompt_tokens + NEW for text in found]
    assert max(rows * columns for rows, columns in seen) <= batch_tokens
    # Without continuous batching, a batch takes as many steps as its longest text.
    batches = plan_batches(lengths, batch_tokens)
    assert len(seen) < 0.8 * sum(max(texts[i] for i in batch) for batch in batches)


def test_ended_texts_leave_the_batch(ending, tokenizer, many) -> None:
    seen = steps(ending)
    generate_texts(ending, tokenizer, many, max_new_tokens=NEW)
    rows = [rows for rows, _ in seen]
    assert rows == sorted(rows, reverse=True)
    assert rows[0] == len(many)
    assert rows[-1] < len(many) / 2


def test_a_batch_becomes_narrower_when_its_longest_prompt_ends(model, tokenizer) -> None:
    """The common prefix is on the left of the padding, which must be removed all the same."""
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
def test_a_model_with_a_sliding_window_generates_without_continuous_batching(
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


@pytest.mark.parametrize("bound", [50, 70])
def test_texts_end_as_those_of_single_prompts_where_a_model_drops_its_cache(
    ending, tokenizer, many, bound: int
) -> None:
    """Phi-3 does so at a bound of positions, while texts of the batch have different lengths."""
    options = {"max_new_tokens": NEW}
    alone = [generate_texts(ending, tokenizer, [prompt], **options)[0] for prompt in many]
    prepare, drops = ending.prepare_inputs_for_generation, []

    def dropping(input_ids, past_key_values=None, **kwargs):
        if past_key_values and past_key_values.get_seq_length() <= bound < input_ids.shape[1]:
            drops.append(len(input_ids))
            past_key_values, kwargs["next_sequence_length"] = None, None
        return prepare(input_ids, past_key_values=past_key_values, **kwargs)

    ending.prepare_inputs_for_generation = dropping
    together = generate_texts(ending, tokenizer, many, batch_tokens=400, **options)
    assert max(drops) > 1
    assert together == alone
