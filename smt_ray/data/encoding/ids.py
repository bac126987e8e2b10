"""Prompts and completions as token ids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from smt_ray.data.rows import Prompt


def encode_prompt(tokenizer: Any, prompt: str | Prompt) -> list[int]:
    """The ids of a prompt, with BOS if the tokenizer adds it, and without EOS."""
    return encode_prompts(tokenizer, [prompt])[0]


def encode_prompts(tokenizer: Any, prompts: Sequence[str | Prompt]) -> list[list[int]]:
    """The ids of many prompts; see :func:`encode_prompt`."""
    asked = [prompt if isinstance(prompt, Prompt) else Prompt(prompt) for prompt in prompts]
    found: list[list[int]] = [[]] * len(asked)
    for has_specials in (False, True):
        places = [i for i, prompt in enumerate(asked) if prompt.has_specials == has_specials]
        texts = [asked[place].text for place in places]
        encoded = (
            tokenizer(texts, add_special_tokens=not has_specials)["input_ids"] if texts else []
        )
        for place, ids in zip(places, encoded, strict=True):
            found[place] = ids if has_specials else _unfinished(tokenizer, asked[place].text, ids)
    return found


def _unfinished(tokenizer: Any, text: str, ids: list[int]) -> list[int]:
    """The ids without the EOS that some tokenizers append to every text."""
    appended = ids and ids[-1] == tokenizer.eos_token_id and not text.endswith(tokenizer.eos_token)
    return ids[:-1] if appended else ids


def encode_completion(
    tokenizer: Any, prompt: str | Prompt, prompt_ids: Sequence[int], completion: str
) -> list[int]:
    """The ids of a completion after its prompt, without EOS.

    They are the ids after the prompt in the tokenised whole text. If the prompt's ids are not the
    beginning of that, because a token crosses the border, the completion is tokenised separately.
    """
    asked = prompt if isinstance(prompt, Prompt) else Prompt(prompt)
    whole = encode_prompt(tokenizer, asked._replace(text=asked.text + completion))
    return after_prompt(tokenizer, whole, prompt_ids, completion)


def after_prompt(
    tokenizer: Any, whole: list[int], prompt_ids: Sequence[int], completion: str
) -> list[int]:
    """The ids of a completion, from those of the whole text; see :func:`encode_completion`."""
    if whole[: len(prompt_ids)] == list(prompt_ids):
        return whole[len(prompt_ids) :]
    ids: list[int] = tokenizer(completion, add_special_tokens=False)["input_ids"]
    return ids
