"""Texts that a model writes after prompts: greedy or by beams, in batches as one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from smt_ray.data.encoding import encode_prompts
from smt_ray.evaluation.batches import (
    check_lengths,
    inference,
    not_finite,
    padding_id,
    plan_batches,
)
from smt_ray.evaluation.decoding import UnpaddedPenalty
from smt_ray.evaluation.prefix import prefill


class Generated(NamedTuple):
    """What was written after a prompt.

    Attributes:
        text: The new text alone, without special tokens.
        num_prompt_tokens: Of the prompt.
        num_new_tokens: Of the text, without EOS.
    """

    text: str
    num_prompt_tokens: int
    num_new_tokens: int


def generate_texts(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    *,
    max_new_tokens: int,
    batch_tokens: int = 8192,
    num_beams: int = 1,
    repetition_penalty: float = 1.0,
    names: Sequence[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Generated]:
    """What the model writes after each prompt, up to EOS or ``max_new_tokens``.

    Nothing is sampled, and the model's own generation settings (sampling, penalties, minimum
    length) are set aside; of them only the EOS ids are heeded. In float32 a text does not depend on
    the batch that its prompt is in; lower precisions may break near-ties otherwise in another
    batch. What a batch's prompts begin with alike is computed once.

    Args:
        model: A transformers causal language model.
        tokenizer: Its tokenizer; prompts get BOS by its rule.
        prompts: The texts to continue.
        max_new_tokens: Most tokens to write.
        batch_tokens: Most tokens a batch, prompts, padding, new tokens and beams together.
        num_beams: 1 is greedy.
        repetition_penalty: See :class:`smt_ray.evaluation.decoding.Decoding`; 1 is none.
        names: What to call each prompt in an error; by default its position.
        progress: Called with the numbers of prompts done and of all, after each batch.

    Returns:
        In the order of ``prompts``.

    Raises:
        UserError: A prompt and its new tokens exceed the model's positions, or logits are not
            finite.
    """
    # An adapter's wrapper hands its generation settings on to the model inside and leaves them
    # there.
    model = model.get_base_model() if hasattr(model, "get_base_model") else model
    names = names or [f"prompt {i}" for i in range(len(prompts))]
    encoded = encode_prompts(tokenizer, prompts) if prompts else []
    lengths = [len(ids) + max_new_tokens for ids in encoded]
    check_lengths(model, lengths, names)
    settings = _settings(model, tokenizer, max_new_tokens, num_beams)
    found: dict[int, Generated] = {}
    with inference(model), _generation_settings(model, settings):
        for batch in plan_batches([n * num_beams for n in lengths], batch_tokens):
            of_batch = [encoded[i] for i in batch], [names[i] for i in batch]
            written = _generate_batch(model, *of_batch, settings, repetition_penalty)
            for i, new_ids in zip(batch, written, strict=True):
                text = tokenizer.decode(new_ids, skip_special_tokens=True)
                found[i] = Generated(text, len(encoded[i]), len(new_ids))
            if progress:
                progress(len(found), len(prompts))
    return [found[i] for i in range(len(prompts))]


def _settings(model: Any, tokenizer: Any, max_new_tokens: int, num_beams: int) -> GenerationConfig:
    eos = model.generation_config.eos_token_id
    eos_ids = {*(eos if isinstance(eos, (list, tuple)) else [eos]), tokenizer.eos_token_id}
    return GenerationConfig(
        do_sample=False,
        num_beams=num_beams,
        max_new_tokens=max_new_tokens,
        eos_token_id=sorted(eos_ids - {None}) or None,
        pad_token_id=padding_id(tokenizer),
        use_cache=True,
    )


@contextmanager
def _generation_settings(model: Any, settings: GenerationConfig) -> Iterator[None]:
    # transformers fills whatever ``settings`` leaves open from the model's own ones: swap those
    # too.
    own = model.generation_config
    model.generation_config = settings
    try:
        yield
    finally:
        model.generation_config = own


def _generate_batch(
    model: Any,
    prompts: list[list[int]],
    names: list[str],
    settings: GenerationConfig,
    repetition_penalty: float,
) -> list[list[int]]:
    input_ids, mask, cache = prefill(model, prompts, settings.pad_token_id, settings.num_beams)
    watch = _FiniteWatch()
    processors = LogitsProcessorList([watch])
    if repetition_penalty != 1:
        processors.append(UnpaddedPenalty(repetition_penalty, mask, settings.num_beams))
    output = model.generate(
        input_ids=input_ids,
        attention_mask=mask,
        generation_config=settings,
        logits_processor=processors,
        **({"past_key_values": cache} if cache else {}),
    )
    bad = watch.bad_rows(len(prompts))
    if bad:
        raise not_finite(names[bad[0]])
    eos_ids = set(settings.eos_token_id or ())
    new_ids: list[list[int]] = output[:, input_ids.shape[1] :].tolist()
    return [_until(eos_ids, ids) for ids in new_ids]


def _until(eos_ids: set[int], ids: list[int]) -> list[int]:
    """The ids before the first EOS: after it a row holds only padding."""
    return ids[: next((i for i, token in enumerate(ids) if token in eos_ids), len(ids))]


class _FiniteWatch(LogitsProcessor):
    """Changes no score; remembers, on the device, which rows ever had a score that is no number."""

    def __init__(self) -> None:
        self._bad: torch.Tensor | None = None

    def __call__(self, input_ids: torch.LongTensor, scores: torch.Tensor) -> torch.Tensor:
        # NaN if any score is, infinite if any is +inf or all are -inf; a single -inf is legitimate.
        bad = ~scores.logsumexp(-1).isfinite()
        self._bad = bad if self._bad is None else self._bad | bad
        return scores

    def bad_rows(self, num_rows: int) -> list[int]:
        assert self._bad is not None
        return self._bad.view(num_rows, -1).any(-1).nonzero().flatten().tolist()
