"""A random Llama of a few thousand parameters, and a tokenizer of single characters."""

from __future__ import annotations

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from smt_ray.data.rows import Row

NUM_POSITIONS = 512
NUM_TOKENS = 98
SPACE, NEWLINE = "Ġ", "Ċ"  # as the byte-level pre-tokenizer writes them


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer with one token for each printable ASCII character, and BOS before every text."""
    alphabet = [*map(chr, range(33, 127)), SPACE, NEWLINE]
    vocabulary = {token: i for i, token in enumerate(["<s>", "</s>", *alphabet])}
    raw = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    raw.decoder = decoders.ByteLevel()
    raw.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token="<s>", eos_token="</s>", clean_up_tokenization_spaces=False
    )


@pytest.fixture
def model() -> LlamaForCausalLM:
    """A random model whose greedy texts differ from prompt to prompt; it trains with dropout."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=NUM_TOKENS,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=NUM_POSITIONS,
        initializer_range=0.3,
        bos_token_id=0,
        eos_token_id=1,
        attention_dropout=0.5,
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="session")
def prompts() -> list[str]:
    """Prompts of different lengths, which are not sorted by length."""
    words = [
        "sun",
        "a much longer prompt than the others",
        "x",
        "two words",
        "in between these",
        "y",
    ]
    return [f"{word}:" for word in words]


@pytest.fixture(scope="session")
def choice_rows() -> list[Row]:
    formats = "Answer format: answer1/answer2/answer3/answer4"
    labels = ["answer2", "answer1", "answer4", "answer3", "answer1"]
    return [
        Row(f"Choose{'!' * 7 * i}\n\n{formats}", f"the correct answer is {label}", answer=label)
        for i, label in enumerate(labels)
    ]
