"""Claims about the forms of the prompt, to the byte."""

from __future__ import annotations

from typing import Literal

import pytest

from smt_ray.data.prompts import build_prompt
from smt_ray.data.rows import Row
from smt_ray.errors import UserError

PLAIN = Row("Add 1 and 2.\nSay it.", "It is 3.")
PAIRED = Row("Add them.", "It is 3.", "1, 2")
INDENT = " " * 16


@pytest.mark.parametrize("purpose", ["training", "evaluation"])
def test_the_clean_form(purpose: Literal["training", "evaluation"]) -> None:
    assert build_prompt(PLAIN, "clean", purpose) == (
        "Below is an instruction that describes a task. Write a response that appropriately"
        " completes the request.\n\n"
        "### Instruction:\nAdd 1 and 2.\nSay it.\n\n"
        "### Response:\n"
    )
    assert build_prompt(PAIRED, "clean", purpose) == (
        "Below is an instruction that describes a task, paired with an input that provides further"
        " context. Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nAdd them.\n\n"
        "### Input:\n1, 2\n\n"
        "### Response:\n"
    )


def test_the_legacy_form_in_training() -> None:
    assert build_prompt(PLAIN, "legacy", "training") == (
        "Below is an instruction that describes a task. Write a response that appropriately"
        " completes the request.  \n"
        "\n"
        f"{INDENT}### Instruction:\n"
        f"{INDENT}Add 1 and 2.\nSay it.\n"
        f"{INDENT}\n"
        f"{INDENT}### Response:\n"
        f"{INDENT}"
    )


def test_the_legacy_form_in_evaluation() -> None:
    assert build_prompt(PLAIN, "legacy", "evaluation") == (
        "Below is an instruction that describes a task. Write a response that appropriately"
        " completes the request. \n"
        "\n"
        f"{INDENT}### Instruction:\n"
        f"{INDENT}Add 1 and 2.\nSay it.\n"
        "\n"
        f"{INDENT}### Response:\n"
        f"{INDENT}"
    )


@pytest.mark.parametrize(
    ("purpose", "strays", "between"), [("training", " ", INDENT), ("evaluation", "", "")]
)
def test_the_legacy_form_with_an_input_has_one_extra_space_less(
    purpose: Literal["training", "evaluation"], strays: str, between: str
) -> None:
    assert build_prompt(PAIRED, "legacy", purpose) == (
        "Below is an instruction that describes a task, paired with an input that provides further"
        f" context. Write a response that appropriately completes the request.{strays}\n"
        "\n"
        f"{INDENT}### Instruction:\n"
        f"{INDENT}Add them.\n"
        f"{between}\n"
        f"{INDENT}### Input:\n"
        f"{INDENT}1, 2\n"
        f"{between}\n"
        f"{INDENT}### Response:\n"
        f"{INDENT}"
    )


@pytest.mark.parametrize(("purpose", "strays"), [("training", "  "), ("evaluation", " ")])
def test_the_published_form(purpose: Literal["training", "evaluation"], strays: str) -> None:
    assert build_prompt(PLAIN, "published", purpose) == (
        "<s> Below is an instruction that describes a task. Write a response that appropriately"
        f" completes the request.{strays}\n\n"
        "### Instruction:\nAdd 1 and 2.\nSay it.\n\n"
        "### Response:\n"
    )


def test_the_clean_form_has_the_system_text_and_earlier_turns() -> None:
    row = Row("And 4?", "Even.", system="Say even or odd.", history=(("3?", "Odd."),))
    assert build_prompt(row) == (
        "Say even or odd.\n\n### Instruction:\n3?\n\n### Response:\nOdd.\n\n"
        "### Instruction:\nAnd 4?\n\n### Response:\n"
    )


@pytest.mark.parametrize(
    ("form", "row", "field"),
    [
        ("published", PAIRED, "input"),
        ("published", Row("a", "b", system="c"), "system"),
        ("legacy", Row("a", "b", system="c"), "system"),
        ("legacy", Row("a", "b", history=(("c", "d"),)), "history"),
    ],
)
def test_a_published_form_refuses_what_it_has_no_place_for(
    form: Literal["published", "legacy"], row: Row, field: str
) -> None:
    with pytest.raises(UserError, match=f"field '{field}': has no place in the prompt form {form}"):
        build_prompt(row, form)


def test_a_prompt_does_not_contain_the_answer() -> None:
    for form in ("clean", "legacy", "published"):
        for purpose in ("training", "evaluation"):
            assert "3" not in build_prompt(PLAIN, form, purpose)
