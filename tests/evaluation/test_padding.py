"""Claims about models that cannot be padded, or whose cache cannot be copied."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from smt_ray.evaluation.batches import EXACT, Padding
from smt_ray.evaluation.generate import generate_texts
from smt_ray.evaluation.likelihood import candidate_log_likelihoods
from smt_ray.models.config import model_class
from smt_ray.probe.probe import small_model
from smt_ray.probe.shrink import shrunk

CANDIDATES = ["yes", "no, never", "perhaps"]


def watch_batches(model: Any) -> list[tuple[int, ...]]:
    """The shapes of all inputs of a model."""
    shapes: list[tuple[int, ...]] = []
    model.get_input_embeddings().register_forward_pre_hook(
        lambda _, args: shapes.append(tuple(args[0].shape))
    )
    return shapes


def test_without_left_padding_prompts_of_one_length_are_generated_together(
    model, tokenizer
) -> None:
    prompts = ["abcd", "x", "dcba", "two words", "y"]
    expected = generate_texts(model, tokenizer, prompts, max_new_tokens=4)
    shapes = watch_batches(model)
    never = Padding(left=False, inside=False, right=False)
    found = generate_texts(model, tokenizer, prompts, max_new_tokens=4, padding=never)
    assert found == expected
    firsts = sorted(shape for shape in shapes if shape[1] > 1)
    assert firsts == [(1, 10), (2, 2), (2, 5)]  # with BOS


def test_without_padding_on_the_right_rows_of_one_length_are_scored_together(
    model, tokenizer
) -> None:
    prompts = ["abcd", "x", "two words"]
    candidates = [CANDIDATES] * len(prompts)
    expected = candidate_log_likelihoods(model, tokenizer, prompts, candidates)
    shapes = watch_batches(model)
    never = Padding(left=False, inside=False, right=False)
    found = candidate_log_likelihoods(model, tokenizer, prompts, candidates, padding=never)
    for one, other in zip(found, expected, strict=True):
        assert one.scores == pytest.approx(other.scores, rel=1e-5)
    assert len({length for _, length in shapes}) == len(shapes)


@pytest.mark.parametrize("model_type", ["mamba", "jamba", "falcon_h1", "lfm2"])
def test_a_recurrent_model_scores_candidates_as_single_rows(model_type: str, tokenizer) -> None:
    from transformers import CONFIG_MAPPING

    config = shrunk(CONFIG_MAPPING[model_type]())
    with torch.device("meta"):
        model = small_model(model_class(config).from_config(config))
    prompts = ["sun", "a longer prompt than that"]
    found = candidate_log_likelihoods(
        model, tokenizer, prompts, [CANDIDATES] * 2, padding=EXACT, batch_tokens=300
    )
    for prompt, row in zip(prompts, found, strict=True):
        for candidate, score in zip(CANDIDATES, row.scores, strict=True):
            ids = torch.tensor([tokenizer(prompt + candidate)["input_ids"]])
            first = len(tokenizer(prompt)["input_ids"])
            with torch.no_grad():
                log_probs = model(input_ids=ids, use_cache=False).logits[0].log_softmax(-1)
            values = log_probs[first - 1 : -1].gather(-1, ids[0, first:, None])
            assert score == pytest.approx(values.mean().item(), rel=1e-4)
