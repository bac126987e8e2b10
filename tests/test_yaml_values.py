"""Claims about YAML texts: each is read, or refused for a reason, and nothing is endless."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from smt_ray.yaml_values import MAX_DEPTH, parse_yaml

DEEP = 5_000
LAUGHS = "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"{this}: &{this} [{', '.join([f'*{before}'] * 10)}]\n"
    for before, this in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("? [a, b]\n: 1", "a key must be a plain value"),
        ("model:\n  ? {a: b}\n  : 1", "a key must be a plain value"),
        ("a: 1\na: 2", "the key a is repeated"),
        ("a: &a\n  b: *a", "nested at most 50 deep"),
        ("a: &a [*a]", "nested at most 50 deep"),
        ("a: " + "[" * DEEP + "]" * DEEP, "nested at most 50 deep"),
        ("a: " + "{a: " * DEEP + "1" + "}" * DEEP, "nested at most 50 deep"),
        ("".join(" " * i + "a:\n" for i in range(2_000)), "nested at most 50 deep"),
        ("a: " + "[" * MAX_DEPTH + "]" * MAX_DEPTH, "nested at most 50 deep"),
        (LAUGHS, "at most 1,000,000 values"),
        ("a: " + "9" * 5_000, "4300 digits"),
        ("a: !!python/object/apply:os.system [ls]", "could not determine a constructor"),
        ("a: 1\n---\na: 2", "a single document"),
        ("a: \0", "not allowed"),
        ("a: \ud800", "not allowed"),
    ],
)
def test_a_text_is_refused_for_a_reason_on_one_line(text: str, rule: str) -> None:
    with pytest.raises(ValueError, match=rule) as raised:
        parse_yaml(text)
    assert len(str(raised.value).splitlines()) == 1


def test_aliases_and_the_deepest_values_are_read() -> None:
    assert parse_yaml("a: &a {b: 1}\nc: *a\nd:\n  <<: *a\n  e: 2") == {
        "a": {"b": 1}, "c": {"b": 1}, "d": {"b": 1, "e": 2},
    }  # fmt: skip
    text = "[" * MAX_DEPTH + "]" * MAX_DEPTH
    assert parse_yaml(text) == json.loads(text)


Plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text("abé \n:-#'"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab:"), inner, max_size=3),
    max_leaves=8,
)


@given(Plain)
def test_what_yaml_writes_is_read_back(value: Any) -> None:
    assert parse_yaml(yaml.safe_dump(value, allow_unicode=True)) == value


@given(st.text("ab1.e- \n\t[]{}:,&*!?|>'\"#%@`~<", max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        value = parse_yaml(text)
    except ValueError:
        return
    repr(value)  # it ends, so the value does not contain itself
