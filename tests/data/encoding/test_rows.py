"""Claims about rows as token ids, for every kind of tokenizer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from smt_ray.data.encoding.ids import encode_completion, encode_prompt, encode_prompts
from smt_ray.data.encoding.rows import Encoding, Limits, encode_into, encode_rows
from smt_ray.data.encoding.stored import EncodedRows, join, load_tokens, save_tokens
from smt_ray.data.prompts import Prompts, build_prompt
from smt_ray.data.rows import Row
from smt_ray.errors import UserError

BOS, EOS = 1, 2
ROOMY = 2000


def split(encoded: EncodedRows, index: int) -> tuple[list[int], list[int]]:
    """The ids of a row's prompt and the ids after it."""
    ids, length = encoded.row(index).tolist(), int(encoded.prompt_lengths[index])
    return ids[:length], ids[length:]


def test_the_kinds_of_tokenizers_differ(
    make_tokenizer: Callable[[str], Any],
) -> None:
    def ends(kind: str) -> tuple[bool, bool]:
        ids = make_tokenizer(kind)("Add 1 and 2.")["input_ids"]
        return ids[0] == BOS, ids[-1] == EOS

    assert ends("bytes") == (False, False)
    assert ends("bytes, adds BOS") == (True, False)
    assert ends("bytes, appends EOS") == (False, True)
    assert ends("metaspace, adds BOS") == (True, False)
    assert ends("metaspace, adds BOS, appends EOS") == (True, True)


def test_a_row_begins_with_bos_if_the_tokenizer_adds_it_and_ends_with_one_eos(
    tokenizer: Any, kind: str, rows: list[Row]
) -> None:
    encoded, _ = encode_rows(tokenizer, rows, Encoding(max_length=ROOMY))
    for index in range(len(encoded)):
        ids = encoded.row(index).tolist()
        assert ids.count(BOS) == int("BOS" in kind)
        assert (ids[0] == BOS) == ("BOS" in kind)
        assert (ids.count(EOS), ids[-1]) == (1, EOS)


@pytest.mark.parametrize("form", ["clean", "legacy"])
def test_a_row_is_the_prompt_of_evaluation_and_its_output(
    tokenizer: Any, rows: list[Row], form: Any
) -> None:
    encoded, _ = encode_rows(
        tokenizer, rows, Encoding(max_length=ROOMY), prompts=Prompts(tokenizer, form)
    )
    assert len(encoded) == len(rows)
    for index, row in enumerate(rows):
        text = build_prompt(row, form)
        prompt, completion = split(encoded, index)
        assert prompt == encode_prompt(tokenizer, text)
        assert completion[-1] == EOS
        written = tokenizer.decode(completion[:-1])
        # A metaspace tokenizer adds a space before a separate text, and strips it again.
        assert written.lstrip(" ") == row.output
        whole = tokenizer.decode([*prompt, *completion], skip_special_tokens=True)
        assert whole.replace(f"{text} {row.output}", text + row.output) == text + row.output


def test_the_completion_is_the_rest_of_the_tokenised_whole(tokenizer: Any, rows: list[Row]) -> None:
    encoded, _ = encode_rows(tokenizer, rows, Encoding(max_length=ROOMY))
    for index, row in enumerate(rows):
        whole = tokenizer(build_prompt(row) + row.output, add_special_tokens=False)["input_ids"]
        ids = [token for token in encoded.row(index).tolist() if token not in (BOS, EOS)]
        assert ids == whole


def test_a_token_across_the_end_of_the_prompt_is_split_there(
    make_tokenizer: Callable[[str], Any],
) -> None:
    tokenizer = make_tokenizer("bytes")
    row = Row("Add.", "\n\nIt is 3.")
    prompt = build_prompt(row)
    alone = tokenizer(prompt)["input_ids"]
    assert tokenizer(prompt + row.output)["input_ids"][: len(alone)] != alone  # it merges indeed
    encoded, _ = encode_rows(tokenizer, [row])
    assert split(encoded, 0)[0] == alone
    assert tokenizer.decode(encoded.row(0)) == prompt + row.output + "</s>"


def test_evaluation_encodes_a_completion_like_training(tokenizer: Any, rows: list[Row]) -> None:
    encoded, _ = encode_rows(tokenizer, rows, Encoding(max_length=ROOMY))
    for index, row in enumerate(rows):
        prompt, completion = split(encoded, index)
        ids = encode_completion(tokenizer, build_prompt(row), prompt, row.output)
        assert [*ids, EOS] == completion


def test_many_prompts_are_encoded_like_single_ones(tokenizer: Any, rows: list[Row]) -> None:
    prompts = [build_prompt(row) for row in rows]
    assert encode_prompts(tokenizer, prompts) == [encode_prompt(tokenizer, p) for p in prompts]


def test_a_prompt_that_ends_with_the_text_of_eos_keeps_it(
    make_tokenizer: Callable[[str], Any],
) -> None:
    assert encode_prompt(make_tokenizer("bytes"), "Say </s>")[-1] == EOS


def test_rows_longer_than_the_limit_are_truncated_and_counted(
    tokenizer: Any, rows: list[Row]
) -> None:
    whole, _ = encode_rows(tokenizer, rows, Encoding(max_length=ROOMY))
    limit = int(whole.lengths.median())
    cut, counts = encode_rows(tokenizer, rows, Encoding(max_length=limit, train_on_inputs=True))
    assert cut.lengths.tolist() == whole.lengths.clamp(max=limit).tolist()
    for index in range(len(rows)):
        assert cut.row(index).tolist() == whole.row(index)[:limit].tolist()
    assert 0 < counts.num_truncated == int((whole.lengths > limit).sum()) < len(rows)
    assert (counts.num_rows, counts.num_dropped) == (len(rows), 0)
    assert counts.num_tokens == int(cut.lengths.sum())


def test_rows_longer_than_the_limit_are_dropped_and_counted_if_configured(
    tokenizer: Any, rows: list[Row]
) -> None:
    whole, _ = encode_rows(tokenizer, rows, Encoding(max_length=ROOMY))
    limit = int(whole.lengths.median())
    placed = [replace(row, position=100 + i) for i, row in enumerate(rows)]
    left, counts = encode_rows(tokenizer, placed, Encoding(max_length=limit, overlong="drop"))
    kept = [i for i in range(len(rows)) if int(whole.lengths[i]) <= limit]
    assert left.positions.tolist() == [100 + i for i in kept]
    assert [left.row(i).tolist() for i in range(len(left))] == [whole.row(i).tolist() for i in kept]
    assert (counts.num_rows, counts.num_truncated) == (len(kept), 0)
    assert counts.num_dropped == len(rows) - len(kept) > 0


def test_a_row_truncated_before_its_first_target_is_dropped_and_counted_once(
    make_tokenizer: Callable[[str], Any],
) -> None:
    tokenizer = make_tokenizer("bytes")
    rows = [Row("Add.", "3"), Row("Add all of these numbers: " + "7 " * 50, "350")]
    short = len(encode_prompt(tokenizer, build_prompt(rows[0])))
    encoded, counts = encode_rows(tokenizer, rows, Encoding(max_length=short + 1))
    assert len(encoded) == 1
    assert (counts.num_rows, counts.num_truncated, counts.num_dropped) == (1, 1, 1)
    assert encoded.num_targets(False).tolist() == [1]
    # If prompts are trained on, every row has a target.
    _, counts = encode_rows(tokenizer, rows, Encoding(max_length=short, train_on_inputs=True))
    assert (counts.num_rows, counts.num_truncated, counts.num_dropped) == (2, 2, 0)


def test_the_error_for_rows_without_targets_names_max_length(
    make_tokenizer: Callable[[str], Any],
) -> None:
    with pytest.raises(UserError) as caught:
        encode_rows(make_tokenizer("bytes"), [Row("Add.", "3")], Encoding(max_length=4))
    assert (caught.value.field, caught.value.got) == ("data.max_length", 4)


def test_a_tokenizer_without_eos_is_an_error(make_tokenizer: Callable[[str], Any]) -> None:
    from transformers import PreTrainedTokenizerFast

    raw = make_tokenizer("bytes").backend_tokenizer
    with pytest.raises(UserError, match="must have an EOS token"):
        encode_rows(PreTrainedTokenizerFast(tokenizer_object=raw), [Row("Add.", "3")])


def test_targets_are_the_completion_or_all_but_the_first_token() -> None:
    encoded = EncodedRows(
        input_ids=torch.arange(9, dtype=torch.int32),
        offsets=torch.tensor([0, 5, 9]),
        prompt_lengths=torch.tensor([3, 0], dtype=torch.int32),  # a row may have an empty prompt
        positions=torch.tensor([0, 1], dtype=torch.int32),
    )
    assert encoded.lengths.tolist() == [5, 4]
    assert [encoded.targets(row, False).tolist() for row in (0, 1)] == [[3, 4], [1, 2, 3]]
    assert encoded.num_targets(False).tolist() == [2, 3]
    assert [encoded.targets(row, True).tolist() for row in (0, 1)] == [[1, 2, 3, 4], [1, 2, 3]]
    assert encoded.num_targets(True).tolist() == [4, 3]


def test_rows_of_several_chunks_are_encoded_like_few_rows(
    make_tokenizer: Callable[[str], Any], rows: list[Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = make_tokenizer("bytes")
    whole, _ = encode_rows(tokenizer, rows)
    monkeypatch.setattr("smt_ray.data.encoding.rows.CHUNK", 7)
    seen: list[int] = []
    prompts, parts = Prompts(tokenizer, "clean"), []
    encode_into(parts.append, prompts, rows, Encoding(), on_rows=seen.append)
    chunked = join(parts)
    assert seen == [*range(7, len(rows), 7), len(rows)]
    assert torch.equal(chunked.input_ids, whole.input_ids)
    assert torch.equal(chunked.offsets, whole.offsets)


def test_tokens_are_read_as_they_were_written(
    tmp_path: Path, make_encoded: Callable[..., EncodedRows]
) -> None:
    training, validation = make_encoded(9), make_encoded(4, seed=2)
    path = tmp_path / "tokens.safetensors"
    save_tokens(path, {"training": training, "validation": validation})
    for name, rows in (("training", training), ("validation", validation)):
        loaded = load_tokens(path, name)
        assert loaded is not None
        for field in ("input_ids", "offsets", "prompt_lengths"):
            before, after = getattr(rows, field), getattr(loaded, field)
            assert torch.equal(before, after)
            assert before.dtype == after.dtype
    save_tokens(path, {"training": training})
    assert load_tokens(path, "validation") is None


def test_a_plain_text_is_learned_as_a_whole(tokenizer: Any, kind: str) -> None:
    encoded, _ = encode_rows(tokenizer, [Row("", "A plain document.", is_verbatim=True)])
    ids = encoded.row(0).tolist()
    assert tokenizer.decode(ids[1:] if "BOS" in kind else ids).strip() == "A plain document.</s>"
    assert encoded.targets(0, False).tolist() == list(range(1, len(ids)))


@pytest.mark.parametrize("form", ["clean", "legacy", "published", "auto"])
def test_a_verbatim_prompt_is_the_same_in_every_form(tokenizer: Any, form: Any) -> None:
    row = Row("Say what: ", "that", is_verbatim=True)
    prompts = Prompts(tokenizer, form)
    assert prompts.ask(row).text == "Say what: "
    encoded, _ = encode_rows(tokenizer, [row], prompts=prompts)
    asked = encode_prompt(tokenizer, prompts.ask(row))
    assert split(encoded, 0)[0] == asked


def test_special_tokens_that_a_verbatim_text_has_are_not_added(tokenizer: Any) -> None:
    texts = [Row("", f"<s>{text}</s>", is_verbatim=True) for text in ("A text.", "Another.")]
    for index, row in enumerate(texts):
        ids = encode_rows(tokenizer, texts)[0].row(index).tolist()
        assert (ids[0], ids.count(BOS)) == (BOS, 1)
        assert (ids[-1], ids.count(EOS)) == (EOS, 1)
        assert row.output.startswith(tokenizer.decode(ids[0]))


@pytest.mark.parametrize(
    ("limits", "rule"),
    [
        (Limits(vocabulary=9), "must have token ids below 9"),
        (Limits(positions=9), "must fit the model's 9 positions"),
    ],
)
def test_a_row_that_the_model_cannot_take_is_named_or_left_out(
    make_tokenizer: Callable[[str], Any], rows: list[Row], limits: Limits, rule: str
) -> None:
    tokenizer = make_tokenizer("bytes")
    bad = replace(rows[0], place="rows.json, row 4")
    with pytest.raises(UserError, match=f"rows.json, row 4: {rule}"):
        encode_rows(tokenizer, [bad], Encoding(limits=limits))
    with pytest.raises(UserError, match=rule):
        encode_rows(tokenizer, [bad], Encoding(limits=limits, bad_rows="skip"))
    short = Row("", "\x00", is_verbatim=True)
    limits = Limits(*(limit and max(limit, 300) for limit in limits))
    long = replace(bad, output="x y z " * 200)
    encoded, counts = encode_rows(
        tokenizer,
        [short, long],
        Encoding(ROOMY, limits=limits._replace(vocabulary=None), bad_rows="skip"),
    )
    assert len(encoded) + counts.bad.number == 2
