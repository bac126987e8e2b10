"""Claims about the preview of rows."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stdout
from pathlib import Path

import pytest

from smt_ray.config.load import load_config
from smt_ray.reporting.text.commands.preview import print_preview
from smt_ray.run.preview import preview

TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture
def rows(tmp_path: Path) -> str:
    turns = [("user", "2+2?"), ("assistant", "five"), ("user", "No."), ("assistant", "four")]
    messages = [{"role": role, "content": content} for role, content in turns]
    messages[1] |= {"weight": 0}
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"messages": messages}) + "\n" + json.dumps({"text": "A text."}))
    return str(path)


def test_rows_are_shown_as_their_tokens_with_what_is_learned(rows: str) -> None:
    config = load_config(None, [f"data.train=[{rows}]", f"data.chat_template={TEMPLATE!r}"])
    found = preview(config, 3)
    assert (found.form, found.num_rows, len(found.rows)) == ("chat", 2, 2)
    chat, text = found.rows
    assert chat.place == f"{rows}, row 0"
    assert chat.pieces == [
        ("<user>2+2?</s><assistant>five</s><user>No.</s><assistant>", False), ("four</s>", True),
    ]  # fmt: skip
    assert text.pieces[-1] == ("A text.</s>", True)
    with redirect_stdout(io.StringIO()) as file:
        print_preview(found)
    assert "<assistant>\u27e6four</s>\u27e7" in file.getvalue()
    assert f"{rows}, row 0: {chat.num_tokens} tokens, {chat.num_learned} learned" in file.getvalue()


def test_a_row_that_cannot_be_used_says_why(rows: str) -> None:
    template = "{{ raise_exception('no thanks') }}"
    found = preview(
        load_config(None, [f"data.train=[{rows}]", f"data.chat_template={template!r}"]), 1
    )
    assert "no thanks" in str(found.rows[0].error)
    with redirect_stdout(io.StringIO()) as file:
        print_preview(found)
    assert "cannot be used" in file.getvalue()
