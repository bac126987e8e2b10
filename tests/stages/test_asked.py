"""Claims about the rows of an evaluation: what cannot be asked is found before training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from smt_ray.config.load import load_config
from smt_ray.errors import UserError
from smt_ray.stages.asked import check_asked
from smt_ray.stages.plan import make_plan

NO_SYSTEM = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}"
    "{% endif %}<{{ m.role }}>{{ m.content }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
ROW = {"question": "2+2?", "answer": "4"}


@pytest.fixture
def check(tmp_path: Path) -> Any:
    def run(row: Any, *overrides: str, retention: bool = False, **task: Any) -> None:
        path = tmp_path / "rows.jsonl"
        path.write_text(json.dumps(ROW) + "\n" + json.dumps(row))
        entry = {
            "name": "sums", "rows": str(path), "answer": "number", "max_new_tokens": 16, **task,
        }  # fmt: skip
        evaluation = {"retention": [str(path)]} if retention else {"tasks": [entry]}
        given = [f"storage={tmp_path}", f"evaluation={json.dumps(evaluation)}", *overrides]
        check_asked(make_plan(load_config(None, given)))

    return run


def test_rows_that_can_be_asked_pass(check: Any) -> None:
    check({"question": "3+3?", "answer": "6"})
    check({"text": "A text."}, retention=True)


@pytest.mark.parametrize(
    ("row", "overrides", "task", "rule"),
    [
        ({**ROW, "system": "x"}, [f"data.chat_template={NO_SYSTEM!r}"], {}, "no system"),
        (
            {"instruction": "a", "input": "b", "output": "4"},
            [],
            {"prompt": "published"},
            "no place",
        ),
        ({"question": "x " * 300, "answer": "4"}, [], {}, "must fit the model's"),
    ],
)
def test_a_row_that_cannot_be_asked_is_named(
    check: Any, row: Any, overrides: list[str], task: dict[str, Any], rule: str
) -> None:
    with pytest.raises(UserError) as caught:
        check(row, *overrides, **task)
    assert "rows.jsonl, row 1" in caught.value.field
    assert rule in caught.value.rule


def test_a_text_that_cannot_be_read_is_named_or_left_out(check: Any) -> None:
    row = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "</s>"}]}
    template = f"data.chat_template={NO_SYSTEM!r}"
    with pytest.raises(UserError, match=r"rows\.jsonl, row 1: a reply must not contain"):
        check(row, template, retention=True)
    check(row, template, "data.bad_rows=skip", retention=True)


def test_a_task_of_lm_eval_that_leaves_no_room_for_a_prompt_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"a": "1+1=", "b": "2"}')
    file = tmp_path / "sums.yaml"
    text = (
        "task: sums\ndataset_path: json\ntest_split: test\noutput_type: generate_until\n"
        f"dataset_kwargs: {{data_files: {{test: {tmp_path}/rows.jsonl}}}}\n"
        'doc_to_text: "{{a}}"\ndoc_to_target: "{{b}}"\n'
    )
    given = [f"storage={tmp_path}", f"evaluation={{lm_eval: [{file}]}}"]
    file.write_text(text)  # by default it generates 256 tokens
    with pytest.raises(UserError, match=r"sums generates more tokens than the model's 256"):
        check_asked(make_plan(load_config(None, given)))
    file.write_text(text + "generation_kwargs: {max_gen_toks: 255}\n")
    check_asked(make_plan(load_config(None, given)))
