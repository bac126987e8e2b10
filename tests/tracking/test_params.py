"""Names and values are given the form that MLflow accepts."""

from __future__ import annotations

from smt_ray.tracking.params import (
    MAX_TAG_CHARS,
    as_description,
    as_text,
    clean_key,
    config_params,
    shorten,
    tag_key,
)


def test_parameters_leave_out_the_names_of_run_and_storage() -> None:
    config = {"name": "a", "storage": "b", "seed": 0, "run": {"storage": "c", "data": {"dir": "d"}}}
    assert config_params(config) == {"seed": 0, "run.data.dir": "d"}


def test_a_description_has_no_pictures_and_ends_with_a_whole_table() -> None:
    assert as_description("# a\n\n| b |\n\n![c](c.png)\n![d](d.png)\n\nend\n") == "| b |\n\nend"
    tables = [f"## {i}\n\n{'|' * 3000}" for i in range(4)]
    cut = as_description("\n\n".join(tables))
    assert cut == "\n\n".join([*tables[:2], "The rest is among the artifacts."])
    assert len(as_description("x" * 9000)) < MAX_TAG_CHARS


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


def test_tags_that_mlflow_shows_in_places_of_their_own_get_its_names() -> None:
    assert tag_key("user") == "mlflow.user"
    assert tag_key("source") == "mlflow.source.name"
    assert tag_key("description") == "mlflow.note.content"
    assert tag_key("method") == "method"
