"""Texts that a model writes after prompts, greedy or by beams: many at a time as one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from transformers import GenerationConfig

from smt_ray.data.encoding import encode_prompts
from smt_ray.evaluation.batches import check_batch_tokens, check_lengths, inference, padding_id
from smt_ray.evaluation.inflight import InflightGenerator


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
        progress: Called with the numbers of prompts done and of all, whenever texts have ended.

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
    check_batch_tokens(batch_tokens)
    settings = _settings(model, tokenizer, max_new_tokens, num_beams)
    found: dict[int, Generated] = {}
    with inference(model), _generation_settings(model, settings):
        generator = InflightGenerator(model, settings, repetition_penalty)
        for ended in generator.generate(encoded, names, batch_tokens):
            for i, new_ids in ended.items():
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
