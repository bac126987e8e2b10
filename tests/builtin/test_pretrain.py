"""Claims about the embedded model: it is small, it loads, and it knows all facts and sums."""

from __future__ import annotations

import itertools
import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM
from transformers import PreTrainedTokenizerFast as Tokenizer

from smt_ray.builtin import MODEL_DIR
from smt_ray.builtin.corpus import PROMPT_HEAD, PROMPT_TAIL, documents
from smt_ray.builtin.pretrain import WINDOW_LENGTH, build_model, build_tokenizer, train, windows
from smt_ray.builtin.suites import SPLITS, TASKS, generate_rows
from smt_ray.builtin.world import Fact, facts, sums

MAX_BYTES = 4_000_000
MAX_ROW_TOKENS = 110


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return AutoTokenizer.from_pretrained(MODEL_DIR)


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    return AutoModelForCausalLM.from_pretrained(MODEL_DIR, dtype=torch.float32).eval()


def _texts() -> list[str]:
    rows = (row for task in TASKS for split in SPLITS for row in generate_rows(task, split))
    return [f"{PROMPT_HEAD}{row['instruction']}{PROMPT_TAIL}{row['output']}" for row in rows]


def _next_words(model: LlamaForCausalLM, tokenizer: Tokenizer, texts: list[str]) -> list[str]:
    """The most likely token after each text."""
    tokenizer.padding_side = "left"
    batch = tokenizer(texts, return_tensors="pt", padding=True)
    with torch.no_grad():
        logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
    return [tokenizer.decode(token).strip() for token in logits[:, -1].argmax(-1)]


def test_the_model_folder_is_small() -> None:
    assert sum(path.stat().st_size for path in MODEL_DIR.iterdir()) <= MAX_BYTES


def test_the_prompt_of_the_corpus_is_that_of_rows() -> None:
    prompts = pytest.importorskip("smt_ray.data.prompts")
    rows = pytest.importorskip("smt_ray.data.rows")
    row = generate_rows(TASKS[0], "test")[0]
    assert (
        prompts.build_prompt(rows.Row(**row)) == f"{PROMPT_HEAD}{row['instruction']}{PROMPT_TAIL}"
    )


def test_each_half_of_the_prompt_is_one_token(tokenizer: Tokenizer) -> None:
    for half in (PROMPT_HEAD, PROMPT_TAIL):
        assert len(tokenizer(half, add_special_tokens=False).input_ids) == 1


def test_tokens_of_rows_decode_to_their_text_and_are_few(tokenizer: Tokenizer) -> None:
    texts = _texts()
    encoded = tokenizer(texts).input_ids
    assert all(ids[0] == tokenizer.bos_token_id for ids in encoded)
    assert max(map(len, encoded)) < MAX_ROW_TOKENS
    assert tokenizer.batch_decode([ids[1:] for ids in encoded]) == texts


def test_tokens_of_any_text_decode_to_it(tokenizer: Tokenizer) -> None:
    text = "Größe 1,234.5 — naïve? 数学 🙂\n\t### Input:\n"
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False).input_ids) == text


def test_the_tokenizer_of_the_package_is_the_one_that_the_script_makes(
    tokenizer: Tokenizer,
) -> None:
    built = build_tokenizer()
    assert json.loads(tokenizer.backend_tokenizer.to_str()) == json.loads(
        built.backend_tokenizer.to_str()
    )
    for name in ("bos_token_id", "eos_token_id", "pad_token_id", "model_max_length"):
        assert getattr(tokenizer, name) == getattr(built, name)


def test_the_config_of_the_package_is_the_one_that_the_script_makes(
    tokenizer: Tokenizer, model: LlamaForCausalLM
) -> None:
    built = build_model(tokenizer)
    ignored = {"_name_or_path", "transformers_version", "architectures", "dtype"}
    for mine, theirs in (
        (model.config, built.config),
        (model.generation_config, built.generation_config),
    ):
        kept, wanted = (
            {k: v for k, v in c.to_dict().items() if k not in ignored} for c in (mine, theirs)
        )
        assert kept == wanted
    shapes = {name: p.shape for name, p in model.named_parameters()}
    assert shapes == {name: p.shape for name, p in built.named_parameters()}


def test_blocks_of_16_divide_every_eligible_weight(model: LlamaForCausalLM) -> None:
    eligible = [
        p for n, p in model.named_parameters() if n.split(".")[-2] in ("q_proj", "k_proj", "v_proj")
    ]
    assert len(eligible) >= 9
    assert all(size % 16 == 0 for p in eligible for size in p.shape)


@pytest.mark.parametrize("reserved", [False, True])
def test_the_model_knows_open_and_reserved_facts(
    model: LlamaForCausalLM, tokenizer: Tokenizer, reserved: bool
) -> None:
    known = [fact for fact in facts() if fact.reserved == reserved]
    said = _next_words(model, tokenizer, [_told_so_far(fact) for fact in known])
    right = sum(word == fact.value for word, fact in zip(said, known, strict=True))
    assert right >= 0.9 * len(known)


def _told_so_far(fact: Fact) -> str:
    """The first statement of the relation, up to the value."""
    return fact.relation.statements[0].split(" {v}")[0].format(s=fact.thing)


@pytest.mark.parametrize("reserved", [False, True])
def test_the_model_knows_open_and_reserved_sums(
    model: LlamaForCausalLM, tokenizer: Tokenizer, reserved: bool
) -> None:
    known = [item for item in sums() if item.reserved == reserved]
    texts = [item.say(item.operation.statements[1]).rsplit(" ", 1)[0] for item in known]
    said = _next_words(model, tokenizer, texts)
    right = sum(word == str(item.result) for word, item in zip(said, known, strict=True))
    assert right >= 0.9 * len(known)


def test_windows_begin_with_the_documents_of_the_corpus(tokenizer: Tokenizer) -> None:
    batch = next(windows(tokenizer, seed=3, batch_size=4))
    assert batch.shape == (4, WINDOW_LENGTH)
    assert (batch[:, 0] == tokenizer.bos_token_id).all()
    first = next(documents(3))
    assert tokenizer.decode(batch[0]).startswith(f"<s>{first}</s>")


def test_training_is_reproducible_and_lowers_the_loss(tokenizer: Tokenizer) -> None:
    def trained() -> tuple[torch.Tensor, float]:
        model = build_model(tokenizer, seed=1)
        batches = list(itertools.islice(windows(tokenizer, seed=1, batch_size=2), 6))
        train(model, iter(batches), len(batches), learning_rate=1e-3)
        with torch.no_grad():
            loss = model(input_ids=batches[0], labels=batches[0]).loss.item()
        return torch.cat([p.detach().flatten() for p in model.parameters()]), loss

    first, loss = trained()
    assert torch.equal(first, trained()[0])
    untrained = build_model(tokenizer, seed=1)
    batch = next(windows(tokenizer, seed=1, batch_size=2))
    with torch.no_grad():
        assert loss < untrained(input_ids=batch, labels=batch).loss.item()
