"""Claims about conversations: their targets, and templates that cannot be used."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import processors
from transformers import AddedToken

from smt_ray.data.batches import step_micro_batches
from smt_ray.data.cache import load_tokens, save_tokens
from smt_ray.data.encoding import encode_rows
from smt_ray.data.rows import Row, parse_row
from smt_ray.errors import UserError

TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{{ eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
REWRITING = (
    "{% for m in messages %}<{{ m.role }}>{% if loop.last %}{{ m.content }}{% endif %}"
    "{{ eos_token }}\n{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
TURNS = [("system", "Be brief."), ("user", "Hi"), ("assistant", "Yo"), ("user", "2+2?"),
         ("assistant", "four")]  # fmt: skip


def chat(*turns: tuple[str, str]) -> Row:
    messages = [{"role": role, "content": content} for role, content in turns]
    return parse_row({"messages": messages}, source="chat.json", index=0)


@pytest.fixture
def tokenizer(kind: str, make_tokenizer: Callable[[str], Any]) -> Any:
    made = copy.deepcopy(make_tokenizer(kind))
    made.chat_template = TEMPLATE
    return made


class Slow:
    """A tokenizer without offsets."""

    is_fast = False

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def __call__(self, *texts: Any, **options: Any) -> Any:
        assert not options.pop("return_offsets_mapping", False)
        return self._tokenizer(*texts, **options)


def tokenised(tokenizer: Any, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def rendered(tokenizer: Any, *turns: tuple[str, str], to_speak: bool = False) -> str:
    messages = [{"role": role, "content": content} for role, content in turns]
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=to_speak)


def learned(tokenizer: Any, row: Row, **options: Any) -> list[str]:
    """The texts of a row's adjacent targets."""
    encoded, _ = encode_rows(tokenizer, [row], **options)
    places, ids = encoded.targets(0, False).tolist(), encoded.row(0).tolist()
    runs: list[list[int]] = []
    for place in places:
        if place - 1 not in places:
            runs.append([])
        runs[-1].append(ids[place])
    return [tokenizer.decode(run) for run in runs]


def test_the_targets_are_the_turns_of_the_assistant_with_their_ends(
    tokenizer: Any,
) -> None:
    eos = tokenizer.eos_token
    assert learned(tokenizer, chat(*TURNS)) == [f"Yo{eos}", f"four{eos}"]


def test_a_row_is_the_tokenised_text_of_the_template_up_to_its_last_eos(
    tokenizer: Any,
) -> None:
    encoded, _ = encode_rows(tokenizer, [chat(*TURNS)])
    whole = rendered(tokenizer, *TURNS)
    assert encoded.row(0).tolist() == tokenised(tokenizer, whole.removesuffix("\n"))


def test_the_tokens_before_a_turn_are_the_prompt_of_the_model(tokenizer: Any) -> None:
    encoded, _ = encode_rows(tokenizer, [chat(*TURNS)])
    ids, places = encoded.row(0).tolist(), encoded.targets(0, False).tolist()
    begins = [place for place in places if place - 1 not in places]
    for begin, turn in zip(begins, (2, 4), strict=True):
        assert ids[:begin] == tokenised(
            tokenizer, rendered(tokenizer, *TURNS[:turn], to_speak=True)
        )


@pytest.mark.parametrize("template", [TEMPLATE, TEMPLATE.replace(">", "> ")])
def test_a_tokenizer_without_offsets_gives_the_same_row(tokenizer: Any, template: str) -> None:
    tokenizer.chat_template = template
    fast, slow = (encode_rows(made, [chat(*TURNS)])[0] for made in (tokenizer, Slow(tokenizer)))
    assert slow.row(0).tolist() == fast.row(0).tolist()
    assert slow.targets(0, False).tolist() == fast.targets(0, False).tolist()


@pytest.mark.parametrize("trim", [False, True])
def test_a_token_across_a_border_is_split_there(
    make_tokenizer: Callable[[str], Any], trim: bool
) -> None:
    tokenizer = copy.deepcopy(make_tokenizer("bytes"))
    # Offsets may not include the space at the beginning of a token.
    tokenizer.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=trim)
    tokenizer.chat_template = TEMPLATE.replace(">", "> ")
    turns = [("user", "Is it?"), ("assistant", "the answer"), ("user", "So?"),
             ("assistant", "the correct")]  # fmt: skip
    opened = [rendered(tokenizer, *turns[:n], to_speak=True) for n in (1, 3)]
    assert tokenised(tokenizer, opened[0] + "the")[-2] != tokenised(tokenizer, opened[0])[-1]
    first = [*tokenised(tokenizer, opened[0]), *tokenised(tokenizer, "the answer</s>\n<user> So?")]
    encoded, _ = encode_rows(tokenizer, [chat(*turns)])
    assert encoded.row(0).tolist()[: len(first)] == first
    assert learned(tokenizer, chat(*turns)) == ["the answer</s>", "the correct</s>"]


@pytest.mark.parametrize("trim", [False, True])
def test_spaces_that_belong_to_a_special_token_do_not_shorten_a_row(
    make_tokenizer: Callable[[str], Any], trim: bool
) -> None:
    tokenizer = copy.deepcopy(make_tokenizer("bytes"))
    tokenizer.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=trim)
    swallowing = AddedToken("<assistant>", rstrip=True, special=True, normalized=False)
    tokenizer.add_tokens([swallowing], special_tokens=True)
    tokenizer.chat_template = TEMPLATE.replace(">", ">\n")
    encoded, _ = encode_rows(tokenizer, [chat(*TURNS)])
    whole = rendered(tokenizer, *TURNS)
    assert encoded.row(0).tolist() == tokenised(tokenizer, whole.removesuffix("\n"))
    assert learned(tokenizer, chat(*TURNS)) == ["Yo</s>", "four</s>"]


def test_a_row_ends_with_eos_even_if_the_template_has_none(tokenizer: Any) -> None:
    tokenizer.chat_template = TEMPLATE.replace("{{ eos_token }}", "")
    assert learned(tokenizer, chat(*TURNS)) == ["Yo\n", f"four\n{tokenizer.eos_token}"]


def test_the_first_token_is_never_a_target(tokenizer: Any) -> None:
    tokenizer.chat_template = (
        "{% for m in messages if m.role != 'system' %}{{ m.content }}{{ eos_token }}{% endfor %}"
    )
    encoded, _ = encode_rows(tokenizer, [chat(TURNS[0], ("assistant", "Yo"), *TURNS[1:3])])
    places = encoded.targets(0, False).tolist()
    assert places[0] == 1
    assert encoded.num_targets(False).tolist() == [len(places)]


def test_a_truncated_row_keeps_the_turns_before_the_cut(tokenizer: Any) -> None:
    whole, _ = encode_rows(tokenizer, [chat(*TURNS)])
    length = int(whole.lengths[0]) - 2
    first, second = learned(tokenizer, chat(*TURNS), max_length=length)
    assert first == f"Yo{tokenizer.eos_token}"
    assert second
    assert "four".startswith(second)
    assert second != "four"


def test_a_conversation_of_two_turns_has_one_span_of_targets(tokenizer: Any) -> None:
    encoded, _ = encode_rows(tokenizer, [chat(("user", "Hi"), ("assistant", "Yo"))])
    assert encoded.is_target is None


def test_counts_targets_and_batches_agree_in_every_mode(tokenizer: Any, tmp_path: Path) -> None:
    rows = [chat(*TURNS), Row("Add.", "3"), chat(*TURNS[1:3]), chat(*TURNS[:3])]
    made, _ = encode_rows(tokenizer, rows)
    save_tokens(tmp_path / "tokens", {"training": made})
    encoded = load_tokens(tmp_path / "tokens", "training")
    assert encoded is not None
    for on_inputs in (False, True):
        counts = [len(encoded.targets(row, on_inputs)) for row in range(4)]
        assert encoded.num_targets(on_inputs).tolist() == counts
        found = {}
        for mode in ("padded", "packed", "prefix_packed"):
            (batch,) = step_micro_batches(
                encoded, range(4), mode=mode, max_tokens=10_000, train_on_inputs=on_inputs
            )
            assert batch.weights.sum().item() == pytest.approx(1)
            order = torch.argsort(batch.targets, stable=True)
            totals = torch.zeros(1000).index_add_(0, batch.targets[order], batch.weights[order])
            found[mode] = totals
        assert torch.allclose(found["padded"], found["packed"])
        assert torch.allclose(found["padded"], found["prefix_packed"])


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        (None, "need a tokenizer that has a chat template"),
        (REWRITING, "must leave earlier turns as they are"),
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
    ],
)
def test_a_template_that_cannot_be_used_is_named(
    tokenizer: Any, template: str | None, reason: str
) -> None:
    tokenizer.chat_template = template
    with pytest.raises(UserError, match=reason):
        encode_rows(tokenizer, [chat(*TURNS)])


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([], "field 'messages': must be a list of turns"),
        ([{"role": "user"}], "turn 0: must have role and content"),
        ([{"role": "bot", "content": "x"}], "turn 0, role: must be one of system, user"),
        ([{"role": "assistant", "content": ""}], "turn 0, content: must be a text"),
        ([{"role": "user", "content": "x"}], "must end with a turn of the assistant; got 'user'"),
        ([{"role": "assistant", "content": "x"}], "must not begin with the assistant"),
    ],
)
def test_a_bad_conversation_is_named_by_file_row_and_turn(messages: Any, reason: str) -> None:
    with pytest.raises(UserError, match=f"chat.json, row 3, .*{reason}"):
        parse_row({"messages": messages}, source="chat.json", index=3)
