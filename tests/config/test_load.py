"""A YAML file and overrides become one validated config, or one clear error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from smt_ray.config.data import Source
from smt_ray.config.fields import flatten
from smt_ray.config.load import apply_overrides, load_config, to_yaml, validate_config
from smt_ray.errors import UserError

MINIMAL = "model: {builtin: tiny}\ndata: {train: ['builtin:tiny_arithmetic']}\n"


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def write(text: str, name: str = "mine.yaml") -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write


def refusal(*overrides: str, path: Path | None = None) -> UserError:
    with pytest.raises(UserError) as caught:
        load_config(path, overrides)
    assert "\n" not in str(caught.value)
    return caught.value


def test_an_override_replaces_one_value_and_leaves_its_neighbours() -> None:
    before, after = load_config(), load_config(None, ["training.max_steps=7"])
    assert after.training.max_steps == 7
    assert after.training.learning_rate == before.training.learning_rate
    assert after.warmup == before.warmup


def test_the_last_of_several_overrides_counts() -> None:
    assert load_config(None, ["seed=1", "seed=2"]).seed == 2


def test_an_override_is_yaml_and_may_hold_equals_signs(write: Any) -> None:
    config = load_config(
        write(MINIMAL),
        ["data.train=[a=b.json, {hub: me/mine, split: test}]", "tracking.uri=http://h:1/?a=b"],
    )
    assert config.data.train[0] == "a=b.json"
    assert config.data.train[1] == Source(hub="me/mine", split="test")
    assert config.tracking.uri == "http://h:1/?a=b"


def test_an_override_adds_a_section_that_is_missing_or_empty(write: Any) -> None:
    path = write(MINIMAL + "resources:\n")
    config = load_config(path, ["resources.num_workers=2", "deepspeed.extra.steps_per_print=5"])
    assert config.resources.num_workers == 2
    assert config.deepspeed.extra == {"steps_per_print": 5}


def test_an_override_may_remove_a_default() -> None:
    config = load_config(None, ["selection.budget=null", "selection.num_blocks=64"])
    assert (config.selection.budget, config.selection.num_blocks) == (None, 64)


def test_a_model_is_not_logged_without_a_tracker() -> None:
    values = ["model.builtin=tiny", "data.train=[builtin:tiny_arithmetic]"]
    with pytest.raises(UserError, match="log_model needs a tracker"):
        load_config(None, [*values, "tracking.log_model=true", "tracking.enabled=false"])


@pytest.mark.parametrize("scheme", ["http", "https", "postgresql", "mysql+pymysql"])
def test_a_password_in_the_tracking_uri_is_refused_and_not_repeated(scheme: str) -> None:
    error = refusal(f"tracking.uri={scheme}://somebody:canary@host/m", "tracking.enabled=false")
    assert error.field == "tracking"
    assert "uri must not hold a password" in error.rule
    assert "MLFLOW_TRACKING_PASSWORD" in error.rule
    assert "canary" not in str(error)
    assert load_config(None, [f"tracking.uri={scheme}://somebody@host/m"]).tracking.uri


@pytest.mark.parametrize("item", ["training.max_steps", "=3", "--steps"])
def test_an_override_without_key_or_value_is_refused(item: str) -> None:
    error = refusal(item)
    assert (error.field, error.got) == ("override", item)
    assert "training.max_steps=10" in error.fix


def test_an_override_below_a_value_names_the_value() -> None:
    error = refusal("model.builtin.deeper=1")
    assert (error.field, error.got) == ("model.builtin.deeper", "tiny")
    assert error.rule == "model.builtin is a value, not a section"


def test_an_override_that_is_not_yaml_names_its_key() -> None:
    error = refusal("data.train=[")
    assert (error.field, error.got) == ("data.train", "[")


@pytest.mark.parametrize(
    ("text", "value"), [("1e-4", 1e-4), ("2E+3", 2000.0), ("1.5e-4", 1.5e-4), (".5e2", 50.0)]
)
def test_a_number_with_an_exponent_is_a_float(write: Any, text: str, value: float) -> None:
    path = write(MINIMAL + f"training: {{learning_rate: {text}}}\n")
    assert load_config(path).training.learning_rate == value
    assert load_config(None, [f"training.learning_rate={text}"]).training.learning_rate == value


def test_reading_exponents_does_not_change_pyyaml_itself() -> None:
    assert yaml.safe_load("1e-4") == "1e-4"


def test_a_repeated_key_is_refused(write: Any) -> None:
    error = refusal(path=write(MINIMAL + "seed: 1\nseed: 2\n"))
    assert "the key seed is repeated" in error.rule


@pytest.mark.parametrize(
    ("override", "field", "got"),
    [
        ("seed='3'", "seed", "3"),
        ("seed=1.5", "seed", 1.5),
        ("seed=true", "seed", True),
        ("training.learning_rate=fast", "training.learning_rate", "fast"),
        ("data.train_on_inputs=1", "data.train_on_inputs", 1),
        ("data.train_on_inputs='yes'", "data.train_on_inputs", "yes"),
        ("warmup.num_steps=0", "warmup.num_steps", 0),
        ("training.lr_schedule=step", "training.lr_schedule", "step"),
        ("deepspeed.zero_stage=4", "deepspeed.zero_stage", 4),
        ("resources.use_gpu=maybe", "resources.use_gpu", "maybe"),
        ("selection.block_size=big", "selection.block_size", "big"),
        ("evaluation.tasks=boolq", "evaluation.tasks", "boolq"),
        ("evaluation.tasks=[1]", "evaluation.tasks.0", 1),
        ("data.train=[7]", "data.train.0", 7),
        ("name='../up'", "name", "../up"),
        ("selection.budget=1.5", "selection.budget", 1.5),
        ("training=3", "training", 3),
    ],
)
def test_a_value_of_another_type_or_range_is_refused_by_name(
    override: str, field: str, got: object
) -> None:
    error = refusal(override)
    assert error.field == field
    assert (error.got, type(error.got)) == (got, type(got))
    assert error.fix or field == "training"  # sections have no description


def test_several_bad_values_are_counted_and_a_union_counts_once() -> None:
    assert "more" not in refusal("selection.block_size=big").rule
    assert refusal("selection.block_size=big", "data.prompt=x").rule.endswith("; 1 more")


@pytest.mark.parametrize(
    ("source", "place", "rule"),
    [
        ("{split: train}", "data.train.0", "needs exactly one of path and hub"),
        ("{path: a.json, hub: me/mine}", "data.train.0", "needs exactly one of path and hub"),
        ("{path: a.json, revision: v2}", "data.train.0", "are for hub datasets"),
        ("{path: a.json, columns: {reply: b}}", "data.train.0.columns", "must be fields of rows"),
        ("{path: a.json, weight: 0}", "data.train.0.weight", "greater than 0"),
        ("{path: a.json, weight: .inf}", "data.train.0.weight", "finite"),
        (
            "{path: a.json, columns: {input: q, instruction: q}}",
            "data.train.0.columns",
            "two fields",
        ),
        ("{path: a.json, wieght: 2}", "data.train.0.wieght", "unknown key"),
    ],
)
def test_a_bad_source_says_what_is_wrong(source: str, place: str, rule: str) -> None:
    error = refusal(f"data.train=[{source}]")
    assert error.field == place
    assert rule in error.rule


@pytest.mark.parametrize(
    ("overrides", "field"),
    [
        (["data.validation_rows=2.5"], "data.validation_rows"),
        (["data.validation_rows=-1"], "data.validation_rows"),
        (["data.validation_rows=.inf"], "data.validation_rows"),
        (["data.validation=[a.json]", "data.validation_rows=2"], "data"),
    ],
)
def test_validation_rows_are_a_number_or_a_share(overrides: list[str], field: str) -> None:
    assert refusal(*overrides).field == field
    assert load_config(None, ["data.validation_rows=0.1"]).data.validation_rows == 0.1


def test_the_text_of_a_chat_template_becomes_part_of_the_config(tmp_path: Any) -> None:
    path = tmp_path / "chat.jinja"
    path.write_text("{{ messages }}")
    config = load_config(None, [f"data.chat_template={path}"])
    assert config.data.chat_template == "{{ messages }}"


def test_whole_numbers_are_accepted_as_floats() -> None:
    assert load_config(None, ["training.weight_decay=1"]).training.weight_decay == 1.0


@pytest.mark.parametrize(
    ("override", "field", "near"),
    [
        ("trainig.max_steps=1", "trainig", "training"),
        ("training.learning_rte=1", "training.learning_rte", "learning_rate"),
        ("selection.blocksize=1", "selection.blocksize", "block_size"),
        ("data.train=[{hub: a/b, splitt: c}]", "data.train.0.splitt", "split"),
    ],
)
def test_an_unknown_key_suggests_a_similar_one(override: str, field: str, near: str) -> None:
    error = refusal(override)
    assert (error.field, error.rule) == (field, "unknown key")
    assert error.fix == f"did you mean {near}?"


def test_an_unknown_key_without_a_similar_one_lists_the_known_keys() -> None:
    assert "num_workers" in refusal("resources.zzz=1").fix


@pytest.mark.parametrize("key", ["model", "data"])
def test_a_key_without_a_default_must_be_set(write: Any, key: str) -> None:
    values = yaml.safe_load(MINIMAL)
    del values[key]
    error = refusal(path=write(yaml.safe_dump(values)))
    assert (error.field, error.rule) == (key, "must be set")


@pytest.mark.parametrize(
    ("text", "rule"),
    [("", "mapping"), ("- a\n", "mapping"), ("a: [1\nb: 2", "valid YAML"), ("a: 1\n\tb", "YAML")],
)
def test_a_file_that_is_not_a_mapping_is_refused_by_its_path(
    write: Any, text: str, rule: str
) -> None:
    path = write(text)
    error = refusal(path=path)
    assert error.field == str(path)
    assert rule in error.rule


@pytest.mark.parametrize("kind", ["missing", "folder", "binary"])
def test_a_file_that_cannot_be_read_is_refused_by_its_path(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "config.yaml"
    if kind == "folder":
        path.mkdir()
    if kind == "binary":
        path.write_bytes(b"\xff\xfe\x00")
    error = refusal(path=path)
    assert (error.field, error.got) == ("CONFIG", str(path))


def test_a_name_depends_on_the_file_name_and_the_content(write: Any) -> None:
    path = write(MINIMAL, "my run.yaml")
    names = {load_config(path).name, load_config(str(path)).name}
    assert len(names) == 1
    assert names.pop().startswith("my-run-")
    assert load_config().name.startswith("quickstart-")


def test_a_name_changes_with_semantic_keys_only() -> None:
    name = load_config().name
    assert load_config(None, ["resources.num_workers=7", "storage=elsewhere"]).name == name
    assert load_config(None, ["training.max_steps=7"]).name != name


def test_a_name_that_is_given_is_kept() -> None:
    assert load_config(None, ["name=mine", "seed=3"]).name == "mine"


def test_a_default_that_is_written_out_changes_no_name(write: Any) -> None:
    aloud = MINIMAL + "selection: {budget: 0.0084}\ntraining: {num_epochs: 3, batch_size: 16}\n"
    assert load_config(write(MINIMAL)).name == load_config(write(aloud)).name


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["selection.budget=null", "selection.num_blocks=8", "training.adam_betas=[0.8, 0.9]"],
        ["training.max_steps=null", "training.num_epochs=2", "data.max_rows=9"],
        ["data.train=[{hub: a/b}, c.json]", "deepspeed.extra={flops_profiler: {enabled: false}}"],
    ],
)
def test_a_dumped_config_is_read_back_the_same(write: Any, overrides: list[str]) -> None:
    config = load_config(None, overrides)
    assert validate_config(config.model_dump(mode="json")) == config
    assert load_config(write(to_yaml(config))) == config


def test_a_config_cannot_be_changed() -> None:
    config = load_config()
    with pytest.raises(ValueError, match="frozen"):
        config.seed = 3
    with pytest.raises(ValueError, match="frozen"):
        config.training.max_steps = 3


def test_overrides_apply_to_plain_values_in_place() -> None:
    values: dict[str, Any] = {"a": {"b": 1}}
    assert apply_overrides(values, ["a.c=2", "d=x"]) is values
    assert values == {"a": {"b": 1, "c": 2}, "d": "x"}


def test_flattening_keeps_every_value_and_does_not_flatten_lists() -> None:
    tree = {"selection": {"budget": 0.0084, "groups": {}}, "data": {"train": ["a", "b"]}}
    assert flatten(tree) == {
        "selection.budget": 0.0084,
        "selection.groups": {},
        "data.train": ["a", "b"],
    }
