"""Texts that a model generates after prompts: greedy decoding, beam search or sampling."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from transformers import GenerationConfig

from smt_ray.data.encoding.ids import encode_prompts
from smt_ray.data.rows import Prompt
from smt_ray.evaluation.batches import (
    EXACT,
    Padding,
    check_batch_tokens,
    check_lengths,
    inference,
    padding_id,
)
from smt_ray.evaluation.continuous import ContinuousGenerator


class Generated(NamedTuple):
    """The text that was generated after a prompt.

    Attributes:
        text: The new text without special tokens.
        num_prompt_tokens: The number of tokens of the prompt.
        num_new_tokens: The number of generated tokens, without EOS.
    """

    text: str
    num_prompt_tokens: int
    num_new_tokens: int


def generate_texts(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str | Prompt],
    *,
    max_new_tokens: int,
    batch_tokens: int = 8192,
    num_beams: int = 1,
    repetition_penalty: float = 1.0,
    temperature: float = 0.0,
    padding: Padding = EXACT,
    names: Sequence[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Generated]:
    """Generates a text after each prompt, up to EOS or ``max_new_tokens``.

    Nothing is sampled, unless a temperature is given. Of the model's own generation settings only
    the EOS ids are used. In float32 a text does not depend on the other prompts of its batch; in
    lower precisions near-ties may be decided differently. A prefix that all prompts of a batch
    share is computed once.

    Args:
        model: A transformers causal language model.
        tokenizer: Its tokenizer, which decides whether prompts begin with BOS.
        prompts: The texts to continue.
        max_new_tokens: The largest number of generated tokens.
        batch_tokens: The largest number of tokens of a batch: prompts, padding, new tokens and
            beams together.
        num_beams: The number of beams; 1 is greedy decoding.
        repetition_penalty: See :class:`smt_ray.evaluation.decoding.Decoding`; 1 is no penalty.
        temperature: The number that logits are divided by before tokens are drawn from all of their
            probabilities; 0 takes the most likely token.
        padding: Where padding leaves the model's results as they are. Without padding on the left,
            prompts of equal lengths are generated together.
        names: The name of each prompt in errors; by default its position.
        progress: A function that is called with the number of finished prompts and the number of
            all prompts, whenever texts have ended.

    Returns:
        The texts in the order of ``prompts``.

    Raises:
        UserError: A prompt and its new tokens exceed the model's positions, or logits are not
            finite.
    """
    # The wrapper of an adapter would copy its generation settings into the model and leave them
    # there.
    model = model.get_base_model() if hasattr(model, "get_base_model") else model
    names = names or [f"prompt {i}" for i in range(len(prompts))]
    encoded = encode_prompts(tokenizer, prompts) if prompts else []
    lengths = [len(ids) + max_new_tokens for ids in encoded]
    check_lengths(model, lengths, names)
    check_batch_tokens(batch_tokens)
    settings = _settings(model, tokenizer, max_new_tokens, num_beams, temperature)
    found: dict[int, Generated] = {}
    with inference(model), _generation_settings(model, settings):
        generator = ContinuousGenerator(model, settings, repetition_penalty, padding)
        for ended in generator.generate(encoded, names, batch_tokens):
            for i, new_ids in ended.items():
                text = tokenizer.decode(new_ids, skip_special_tokens=True)
                found[i] = Generated(text, len(encoded[i]), len(new_ids))
            if progress:
                progress(len(found), len(prompts))
    return [found[i] for i in range(len(prompts))]


def _settings(
    model: Any, tokenizer: Any, max_new_tokens: int, num_beams: int, temperature: float
) -> GenerationConfig:
    eos = model.generation_config.eos_token_id
    eos_ids = {*(eos if isinstance(eos, (list, tuple)) else [eos]), tokenizer.eos_token_id}
    # By default, transformers would draw from the 50 most likely tokens only.
    drawn = {"temperature": temperature, "top_k": 0, "top_p": 1.0} if temperature else {}
    return GenerationConfig(
        do_sample=bool(temperature),
        **drawn,
        num_beams=num_beams,
        max_new_tokens=max_new_tokens,
        eos_token_id=sorted(eos_ids - {None}) or None,
        pad_token_id=padding_id(tokenizer),
        use_cache=True,
    )


@contextmanager
def _generation_settings(model: Any, settings: GenerationConfig) -> Iterator[None]:
    # transformers takes settings that are not given from the model's own, so those are replaced.
    own = model.generation_config
    model.generation_config = settings
    try:
        yield
    finally:
        model.generation_config = own
