"""Claims about chat with questions from a pipe: its answers, its words, and what it refuses."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable

import pytest

from smt_ray import cli
from smt_ray.artifacts.runs import RunFolder
from smt_ray.builtin import MODEL_DIR
from tests.cli.refusals import Refused, assert_names

Chat = Callable[..., tuple[str, str]]
MODEL = ("--model", str(MODEL_DIR), "--max-new-tokens", "8")


@pytest.fixture
def chat(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Chat:
    """Runs chat with lines from a pipe; returns what it printed to both outputs."""

    def run(lines: str, *arguments: str) -> tuple[str, str]:
        monkeypatch.setattr(sys, "argv", ["smt-ray", "chat", *arguments])
        monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert not end.value.code
        captured = capsys.readouterr()
        return captured.out, captured.err

    return run


def answers(out: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in out.splitlines()]


def test_each_line_is_a_question_up_to_exit(chat: Chat) -> None:
    out, error = chat("One?\n\n  Two? \nexit\nThree?\n", *MODEL, "--json")
    assert [answer["question"] for answer in answers(out)] == ["One?", "Two?"]
    assert all(answer["model"] for answer in answers(out))
    assert "prompt form clean, earlier turns are asked along, greedy, at most 8 new" in error


def test_the_end_of_the_input_ends_the_chat(chat: Chat) -> None:
    out, _ = chat("One?", *MODEL)
    assert out.startswith("question: One?\nmodel: ")
    assert chat("", *MODEL)[0] == ""


def test_a_new_conversation_is_asked_like_the_first(chat: Chat) -> None:
    out, _ = chat("What does a hen lay?\nWhy?\n/new\nWhy?\n", *MODEL, "--json")
    alone, _ = chat("Why?\n", *MODEL, "--json")
    _, second, third = answers(out)
    assert third == answers(alone)[0]
    without, _ = chat("What does a hen lay?\nWhy?\n", *MODEL, "--json", "--no-history")
    assert answers(without)[1] == third
    assert second["question"] == "Why?"


def test_a_question_that_is_too_long_ends_a_pipe(
    refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("word " * 300 + "\n"))
    assert_names(refused("chat", *MODEL), "the question: prompt and answer must fit", "256")


@pytest.mark.parametrize("errors", ["strict", "surrogateescape"])
def test_bytes_that_are_no_text_are_refused(
    refused: Refused, monkeypatch: pytest.MonkeyPatch, errors: str
) -> None:
    """Python's errors for standard input depend on the locale."""
    lines = io.TextIOWrapper(io.BytesIO(b"caf\xe9?\n"), encoding="utf-8", errors=errors)
    monkeypatch.setattr(sys, "stdin", lines)
    assert_names(refused("chat", *MODEL), "the question: must be UTF-8 text")


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ([], ["chat: needs exactly one of --run and --model"]),
        (["--run", "mine", "--model", "m"], ["exactly one of"]),
        (["--run", "mine", "--adapter", "a"], ["--adapter: needs --model"]),
        (["--model", "./m"], ["--model: must be a folder"]),
        (["--model", "m", "--adapter", "a"], ["--adapter: must be an adapter's folder"]),
        (["--model", "m", "--verbatim", "--system", "s"], ["--system: has no place"]),
        (["--run", "yours"], ["no such run", "runs there: mine"]),
        (["--run", "mine"], ["--run: was not trained yet"]),
    ],
)
def test_a_bad_chat_is_refused(
    refused: Refused, trained: RunFolder, arguments: list[str], parts: list[str]
) -> None:
    trained.update(stages={})
    assert_names(refused("chat", *arguments, "--storage", trained.storage.root), *parts)
