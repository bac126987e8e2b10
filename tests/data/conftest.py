"""Tokenizers of several kinds, trained on the built-in rows."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

from smt_ray.builtin.suites import TASKS, generate_rows
from smt_ray.data.prompts import build_prompt
from smt_ray.data.rows import Row

SPECIAL = ["<unk>", "<s>", "</s>"]


@pytest.fixture(scope="session")
def rows() -> list[Row]:
    return [Row(**r) for task in TASKS for r in generate_rows(task, "train")[:20]]


@cache
def corpus() -> tuple[str, ...]:
    found = [Row(**record) for task in TASKS for record in generate_rows(task, "train")[:200]]
    return tuple(build_prompt(row) + row.output for row in found)


def byte_level(template: str | None) -> Tokenizer:
    """The kind of GPT-2: bytes, words with the space before them, and merged line breaks."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    raw.train_from_iterator([*corpus(), "\n\n\n\n" * 50, " " * 16 * 50], trainer)
    return with_template(raw, template)


def metaspace(template: str | None, prepend: str | None = None) -> Tokenizer:
    """The kind of Llama: ▁ for spaces, and one before every text.

    Args:
        template: See :func:`with_template`.
        prepend: The scheme of later Llamas: ``always``, or only before the ``first`` text and not
            after special tokens.
    """
    raw = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    if prepend:
        raw.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=prepend, split=False)
    else:
        spaces = normalizers.Replace(" ", "▁")
        raw.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), spaces])
    raw.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    fallback = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=700, special_tokens=SPECIAL + fallback, max_token_length=12, show_progress=False
    )
    raw.train_from_iterator(corpus(), trainer)
    return with_template(raw, template)


def with_template(raw: Tokenizer, template: str | None) -> Tokenizer:
    if template is not None:
        raw.post_processor = processors.TemplateProcessing(
            single=template, special_tokens=[("<s>", 1), ("</s>", 2)]
        )
    return raw


KINDS: dict[str, Callable[[], Tokenizer]] = {
    "bytes": lambda: byte_level(None),
    "bytes, adds BOS": lambda: byte_level("<s> $A"),
    "bytes, appends EOS": lambda: byte_level("$A </s>"),
    "metaspace, adds BOS": lambda: metaspace("<s> $A"),
    "metaspace, adds BOS, appends EOS": lambda: metaspace("<s> $A </s>"),
    "metaspace always, adds BOS": lambda: metaspace("<s> $A", "always"),
    "metaspace first, adds BOS": lambda: metaspace("<s> $A", "first"),
}


@cache
def build(kind: str) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=KINDS[kind](),
        bos_token="<s>",
        eos_token="</s>",
        clean_up_tokenization_spaces=False,
    )


@pytest.fixture(scope="session")
def make_tokenizer() -> Callable[[str], PreTrainedTokenizerFast]:
    return build


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def tokenizer(kind: str) -> Any:
    return build(kind)
