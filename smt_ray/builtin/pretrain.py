"""Pretrains the embedded model, a tokenizer and a Llama, on generated text only.

    python -m smt_ray.builtin.pretrain [--out FOLDER]

The defaults make the model of this package, in 10 to 20 minutes on one CPU core. The seed
determines the text, the initial weights and the order. With the same machine, number of threads and
version of torch it determines every bit of the result.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from smt_ray.builtin import MODEL_DIR
from smt_ray.builtin.corpus import PROMPT_HEAD, PROMPT_TAIL, documents
from smt_ray.builtin.suites import TASKS, generate_rows

PAD, BOS, EOS = "<pad>", "<s>", "</s>"
SEED = 0
VOCAB_SIZE = 1150
CONTEXT_LENGTH = 256
WINDOW_LENGTH = 128
BATCH_SIZE = 16
NUM_STEPS = 2800
LEARNING_RATE = 3e-3
NUM_LR_WARMUP_STEPS = 100
NUM_TOKENIZER_DOCUMENTS = 20_000
NUM_LOG_STEPS = 100


def build_tokenizer(seed: int = SEED) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer, trained on the corpus and the training rows.

    It puts ``<s>`` before a text, and can encode every text. Each half of the prompt is one token.

    Args:
        seed: The seed of the documents.
    """
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[PAD, BOS, EOS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    rows = (row for task in TASKS for row in generate_rows(task, "train"))
    texts = itertools.chain(
        itertools.islice(documents(seed), NUM_TOKENIZER_DOCUMENTS),
        (f"{row['instruction']} {row['output']}" for row in rows),
    )
    core.train_from_iterator(texts, trainer)
    core.add_tokens([AddedToken(text, normalized=False) for text in (PROMPT_HEAD, PROMPT_TAIL)])
    core.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A",
        pair=f"{BOS} $A $B",
        special_tokens=[(BOS, core.token_to_id(BOS))],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        model_max_length=CONTEXT_LENGTH,
        clean_up_tokenization_spaces=False,
    )


def build_model(tokenizer: PreTrainedTokenizerFast, seed: int = SEED) -> LlamaForCausalLM:
    """An untrained Llama with grouped keys and values and tied embeddings.

    Args:
        tokenizer: The tokenizer, with the vocabulary and the special tokens.
        seed: The seed of the weights.
    """
    torch.manual_seed(seed)
    special = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT_LENGTH,
        initializer_range=0.05,
        tie_word_embeddings=True,
        **special,
    )
    model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(**special, do_sample=False)
    return model


def windows(
    tokenizer: PreTrainedTokenizerFast, seed: int, batch_size: int
) -> Iterator[torch.Tensor]:
    """Endless batches of token ids, (batch_size, WINDOW_LENGTH).

    Each window begins with a document, and only its last document may be truncated.
    """
    told, row, rows = documents(seed), [], []
    while True:
        texts = list(itertools.islice(told, batch_size))
        for ids in tokenizer(texts, add_special_tokens=False).input_ids:
            row += [tokenizer.bos_token_id, *ids, tokenizer.eos_token_id]
            if len(row) >= WINDOW_LENGTH:
                rows.append(row[:WINDOW_LENGTH])
                row = []
        while len(rows) >= batch_size:
            yield torch.tensor(rows[:batch_size])
            rows = rows[batch_size:]


def train(
    model: LlamaForCausalLM, batches: Iterator[torch.Tensor], num_steps: int, learning_rate: float
) -> None:
    """Trains all parameters in place with AdamW and a linear schedule, and prints the loss."""
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.05, fused=True
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / NUM_LR_WARMUP_STEPS, 1 - step / num_steps)
    )
    start, total = time.perf_counter(), 0.0
    model.train()
    for step, ids in enumerate(itertools.islice(batches, num_steps), 1):
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        total += loss.item()
        if step % NUM_LOG_STEPS == 0:
            seconds = time.perf_counter() - start
            print(f"step {step} loss {total / NUM_LOG_STEPS:.4f} {seconds:.0f} s", flush=True)
            total = 0.0


def main() -> None:
    """Makes the tokenizer and the model, and saves both in one folder."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--out", type=Path, default=MODEL_DIR, help="folder to write to")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--num-steps", type=int, default=NUM_STEPS)
    parser.add_argument("--num-threads", type=int, default=1, help="CPU threads")
    args = parser.parse_args()
    torch.set_num_threads(args.num_threads)
    tokenizer = build_tokenizer(args.seed)
    model = build_model(tokenizer, args.seed)
    train(model, windows(tokenizer, args.seed, BATCH_SIZE), args.num_steps, LEARNING_RATE)
    model.save_pretrained(args.out)
    tokenizer.save_pretrained(args.out)


if __name__ == "__main__":
    main()
