from __future__ import annotations

import copy
import logging
import math
import warnings
from itertools import takewhile

import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from smt_ray.errors import UserError
from smt_ray.evaluation import generate

NEW = 12


def generate_texts(*arguments: object, **options: object) -> list[str]:
    """The texts alone."""
    return [generated.text for generated in generate.generate_texts(*arguments, **options)]


def one_by_one(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    prompts: list[str],
    **options: object,
) -> list[str]:
    """Generates the text of one prompt after the other, by transformers and without padding."""
    texts = []
    for prompt in prompts:
        ids = torch.tensor([tokenizer(prompt)["input_ids"]])
        output = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=NEW,
            pad_token_id=1,
            **options,
        )
        texts.append(tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True))
    return texts


def explain(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, prompt: str, texts: tuple[str, str]
) -> str:
    """Says where two greedy texts of a prompt begin to differ, and by how much their logits do.

    If the two best tokens tie within rounding, either text is right; a large gap is a mistake.
    """
    pairs = takewhile(lambda pair: pair[0] == pair[1], zip(*texts, strict=False))
    same = "".join(character for character, _ in pairs)
    ids = torch.tensor([tokenizer(prompt + same)["input_ids"]])
    with torch.no_grad():
        first, second = model(ids).logits[0, -1].topk(2).values.tolist()
    return f"{texts[0]!r} and {texts[1]!r} differ after {same!r}: logits {first - second:.2e} apart"


def assert_same(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, prompts: list[str],
    found: list[str], expected: list[str],
) -> None:  # fmt: skip
    """Asserts that texts are the same; the message explains every difference."""
    rows = zip(prompts, zip(found, expected, strict=True), strict=True)
    others = [explain(model, tokenizer, prompt, row) for prompt, row in rows if row[0] != row[1]]
    assert not others, "\n".join(others)


def middle_of(text: str) -> str:
    """A character, which is a token, whose first occurrence is after the third character."""
    return next(char for i, char in enumerate(text) if i > 2 and char not in text[:i])


@pytest.mark.parametrize("batch_tokens", [1, 60, 100, 10_000])
@pytest.mark.parametrize("num_beams", [1, 3])
def test_texts_equal_generation_row_by_row_at_any_batch_size(
    model, tokenizer, prompts, batch_tokens: int, num_beams: int
) -> None:
    texts = generate_texts(
        model,
        tokenizer,
        prompts,
        max_new_tokens=NEW,
        batch_tokens=batch_tokens,
        num_beams=num_beams,
    )
    expected = one_by_one(model, tokenizer, prompts, num_beams=num_beams)
    assert_same(model, tokenizer, prompts, texts, expected)
    assert len(set(texts)) == len(texts)


def test_the_message_about_texts_that_differ_has_the_gap_of_their_logits(
    model, tokenizer, prompts
) -> None:
    (text,) = generate_texts(model, tokenizer, prompts[:1], max_new_tokens=NEW)
    other = text[:3] + ("b" if text[3] == "a" else "a") + text[4:]
    with pytest.raises(AssertionError, match=r"differ after .*: logits \d\.\d+e[+-]\d+ apart"):
        assert_same(model, tokenizer, prompts[:1], [other], [text])


@pytest.mark.parametrize("batch_tokens", [1, 10_000])
@pytest.mark.parametrize("num_beams", [1, 3])
def test_a_repetition_penalty_ignores_padding(
    model, tokenizer, prompts, batch_tokens: int, num_beams: int
) -> None:
    """The reference is transformers without padding; with padding it generates other texts."""
    options = {"num_beams": num_beams, "repetition_penalty": 1.5}
    expected = one_by_one(model, tokenizer, prompts, **options)
    assert expected != one_by_one(model, tokenizer, prompts, num_beams=num_beams)
    padded = copy.deepcopy(tokenizer)
    padded.pad_token = "e"  # a token that texts contain
    texts = generate_texts(
        model, padded, prompts, max_new_tokens=NEW, batch_tokens=batch_tokens, **options
    )
    assert texts == expected


def test_a_text_ends_before_eos_while_others_continue(model, tokenizer, prompts) -> None:
    free = generate_texts(model, tokenizer, prompts, max_new_tokens=NEW)
    stop = middle_of(free[0])
    model.generation_config.eos_token_id = [1, *tokenizer(stop, add_special_tokens=False).input_ids]
    texts = generate_texts(model, tokenizer, prompts, max_new_tokens=NEW)
    assert texts == [text.split(stop)[0] for text in free]
    assert 0 < len(texts[0]) < len(free[0])
    assert texts != free
    assert any(text == whole for text, whole in zip(texts, free, strict=True))


def test_the_eos_of_the_tokenizer_ends_a_text_too(model, tokenizer, prompts) -> None:
    free = generate_texts(model, tokenizer, prompts, max_new_tokens=NEW)
    stop = middle_of(free[0])
    other = copy.deepcopy(tokenizer)
    other.eos_token = stop
    model.generation_config.eos_token_id = None
    texts = generate_texts(model, other, prompts, max_new_tokens=NEW)
    assert texts == [text.split(stop)[0] for text in free]


def test_attention_ignores_padding(model, tokenizer, prompts) -> None:
    padded = copy.deepcopy(tokenizer)
    padded.pad_token = "<s>"
    padded.backend_tokenizer.post_processor = None  # so that only padding has this token
    texts = generate_texts(model, padded, prompts, max_new_tokens=NEW)
    with torch.no_grad():
        model.model.embed_tokens.weight[0] = 1e4
    assert generate_texts(model, padded, prompts, max_new_tokens=NEW) == texts


def test_the_models_own_generation_settings_change_nothing_and_are_restored(
    model, tokenizer, prompts
) -> None:
    expected = generate_texts(model, tokenizer, prompts, max_new_tokens=NEW)
    own = model.generation_config
    own.update(
        do_sample=True,
        temperature=5.0,
        top_k=3,
        repetition_penalty=9.0,
        min_new_tokens=NEW,
        max_length=4,
        num_beams=2,
    )
    assert generate_texts(model, tokenizer, prompts, max_new_tokens=NEW) == expected
    assert model.generation_config is own
    assert own.temperature == 5.0


def test_sampling_fields_of_the_model_give_no_warning(model, tokenizer, prompts, caplog) -> None:
    # Many generation_config.json files set them; ``update`` would already warn.
    model.generation_config.temperature = 0.1
    model.generation_config.top_p = 0.75
    logger = transformers_logging.get_logger("transformers")
    logger.addHandler(caplog.handler)
    try:
        with warnings.catch_warnings(), caplog.at_level(logging.WARNING):
            warnings.simplefilter("error")
            generate_texts(model, tokenizer, prompts, max_new_tokens=2)
    finally:
        logger.removeHandler(caplog.handler)
    assert not caplog.records


def test_a_model_in_training_mode_generates_in_evaluation_mode(model, tokenizer, prompts) -> None:
    expected = generate_texts(model, tokenizer, prompts, max_new_tokens=NEW)
    model.train()
    assert generate_texts(model, tokenizer, prompts, max_new_tokens=NEW) == expected
    assert model.training


def test_a_prompt_without_room_for_its_answer_is_named(model, tokenizer) -> None:
    prompts = ["fits", "x" * 505]
    with pytest.raises(UserError, match=r"prompt 1.*512 positions; got '518 tokens'"):
        generate_texts(model, tokenizer, prompts, max_new_tokens=NEW)
    assert len(generate_texts(model, tokenizer, prompts, max_new_tokens=6)) == 2


@pytest.mark.parametrize("num_beams", [1, 2])
def test_logits_that_are_not_finite_are_an_error_that_names_the_row(
    model, tokenizer, num_beams: int
) -> None:
    with torch.no_grad():
        model.model.embed_tokens.weight[tokenizer.convert_tokens_to_ids("Z")] = math.nan
    names = ["first", "second", "third"]
    with pytest.raises(UserError, match="second: the model's logits must be finite"):
        generate_texts(
            model,
            tokenizer,
            ["a", "Z", "b"],
            max_new_tokens=NEW,
            num_beams=num_beams,
            names=names,
        )


def test_progress_ends_with_all_prompts(model, tokenizer, prompts) -> None:
    seen: list[tuple[int, int]] = []
    generate_texts(
        model,
        tokenizer,
        prompts,
        max_new_tokens=1,
        batch_tokens=40,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert len(seen) > 1
    assert seen == sorted(seen)
    assert seen[-1] == (6, 6)


def test_no_prompts_give_no_texts(model, tokenizer) -> None:
    assert generate_texts(model, tokenizer, [], max_new_tokens=1) == []


def test_a_model_whose_layers_are_spread_gives_the_same_texts(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, prompts: list[str]
) -> None:
    """The hooks of spread layers, with all of them on the CPU."""
    from accelerate import dispatch_model

    places = {"model.embed_tokens": "cpu", "model.norm": "cpu", "model.rotary_emb": "cpu"}
    layers = {f"model.layers.{i}": "cpu" for i in range(len(model.model.layers))}
    spread = copy.deepcopy(model)
    dispatch_model(spread, device_map={**places, **layers, "lm_head": "cpu"}, force_hooks=True)
    assert hasattr(spread.model.layers[0], "_hf_hook")
    options = {"max_new_tokens": NEW, "batch_tokens": 300}
    expected = generate_texts(model, tokenizer, prompts, **options)
    assert generate_texts(spread, tokenizer, prompts, **options) == expected
