"""Claims about the names and values that MLflow takes."""

from __future__ import annotations

from smt_ray.tracking.params import as_text, clean_key, flatten, shorten


def test_flattening_keeps_every_leaf_and_lists_whole() -> None:
    tree = {"selection": {"budget": 0.0084, "groups": {}}, "data": {"train": ["a", "b"]}}
    assert flatten(tree) == {
        "selection.budget": 0.0084,
        "selection.groups": {},
        "data.train": ["a", "b"],
    }


def test_keys_keep_the_characters_that_mlflow_takes() -> None:
    assert clean_key("eval/ARC-c: tuned_1.0") == "eval/ARC-c: tuned_1.0"
    assert clean_key("tasks[0]@é") == "tasks_0___"
    assert len(clean_key("k" * 999)) == 250


def test_a_cut_value_fits_exactly_and_says_how_long_it_was() -> None:
    cut = shorten("v" * 7000, 6000)
    assert len(cut) == 6000
    assert cut.endswith("... (cut, 7000 characters)")
    assert shorten("v" * 6000, 6000) == "v" * 6000


def test_equal_values_have_equal_texts() -> None:
    assert as_text({"b": 1, "a": None}) == as_text({"a": None, "b": 1}) == '{"a": null, "b": 1}'
    assert as_text("plain") == "plain"
