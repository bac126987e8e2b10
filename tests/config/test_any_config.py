"""Claims about any config and override: it is valid, or refused in one line."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from smt_ray.config.comparison import ComparisonConfig
from smt_ray.config.fields import flatten
from smt_ray.config.load import apply_overrides, load_config, load_named, to_yaml, validate_config
from smt_ray.config.run import RunConfig
from smt_ray.config.search import SearchConfig
from smt_ray.errors import UserError

REPOSITORY = Path(__file__).parents[2]
KEYS = sorted(flatten(load_config().model_dump(mode="json")))
Scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(10**40), 10**40)
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["auto", "smt", "lora", "tiny", "builtin:tiny_arithmetic", "s3://a", "../x"])
)
Values = st.recursive(
    Scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)


def result_of(call: Callable[[], Any]) -> Any:
    """What a call returns; None if it raises the error for users, which is no long text."""
    try:
        return call()
    except UserError as error:
        problem = error
    assert problem.field
    assert problem.rule
    assert len(str(problem)) < 3_000
    return None


@given(st.lists(st.tuples(st.sampled_from(KEYS), Values), min_size=1, max_size=3))
@example([("training.max_steps", 10**30)])
@example([("training.epsilon", float("inf"))])
@example([("deepspeed.extra", {"fp16": {"enabled": True}})])
@example([("deepspeed.extra", {"zero_optimization": {"stage": 3}})])
@example([("resources.num_workers", 10**12)])
@example([("name", "a" * 300)])
def test_any_value_of_a_key_is_taken_or_refused(given: list[tuple[str, Any]]) -> None:
    values = load_config().model_dump(mode="json")
    items = [f"{key}={yaml.safe_dump(value, default_flow_style=True)}" for key, value in given]
    config = result_of(lambda: validate_config(apply_overrides(values, items)))
    if config is not None:
        assert validate_config(yaml.safe_load(to_yaml(config))) == config


@given(st.text(max_size=60) | st.builds("{}={}".format, st.text(max_size=20), st.text(max_size=20)))
@example("=")
@example(".".join("a" * 5_000) + "=1")
@example("model.architecture=&a {b: *a}")
@example("model.architecture={[a]: 1}")
@example("training..max_steps=1")
@example("name=\udc80")
def test_any_override_is_taken_or_refused(item: str) -> None:
    result_of(lambda: load_config(None, [item]))


def test_any_file_is_taken_or_refused(tmp_path: Path) -> None:
    files = {
        RunConfig: "smt_ray/config/quickstart.yaml",
        SearchConfig: "configs/tune/tiny.yaml",
        ComparisonConfig: "configs/compare/tiny.yaml",
    }
    whole = {kind: yaml.safe_load((REPOSITORY / file).read_text()) for kind, file in files.items()}
    path = tmp_path / "a.yaml"

    @given(st.sampled_from(sorted(files, key=str)), st.data())
    def any_part_may_be_anything(kind: Any, data: st.DataObject) -> None:
        values = copy.deepcopy(whole[kind])
        place = values
        while True:  # walks to a part, which becomes anything
            keys = sorted(place, key=str) if isinstance(place, dict) else list(range(len(place)))
            key = data.draw(st.sampled_from(keys))
            if isinstance(place[key], dict | list) and place[key] and data.draw(st.booleans()):
                place = place[key]
                continue
            place[key] = data.draw(Values)
            break
        path.write_text(yaml.safe_dump(values, allow_unicode=True), encoding="utf-8")
        result_of(lambda: load_named(kind, path, []))

    any_part_may_be_anything()
