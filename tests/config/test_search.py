"""Claims about searches: the run of a point, and bad configurations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from smt_ray.config.load import load_config, validate_section
from smt_ray.config.search import SearchConfig, load_search
from smt_ray.errors import UserError

TUNE = Path(__file__).parents[2] / "configs" / "tune"
RUN = {
    "model": {"builtin": "tiny"},
    "data": {"train": ["builtin:tiny_arithmetic"], "validation_rows": 8},
    "training": {"max_steps": 4, "validate_every_steps": 2},
}
RATE = "training.learning_rate"


def make(**changes: Any) -> SearchConfig:
    values = {"name": "mine", "run": RUN, "space": {RATE: {"choice": [0.1, 0.2]}}, **changes}
    return validate_section(SearchConfig, values)


def test_the_run_of_a_point_has_its_settings_and_a_name_of_its_own() -> None:
    one, two = (make().make_run({RATE: rate}) for rate in (0.1, 0.2))
    assert (one.training.learning_rate, two.training.learning_rate) == (0.1, 0.2)
    assert one.name != two.name
    assert one.name.startswith("mine-smt-")
    assert one.name == make().make_run({RATE: 0.1}).name


def test_a_trial_saves_a_checkpoint_at_each_validation_unless_the_run_sets_an_interval() -> None:
    assert make().make_run({}).training.checkpoint_every_steps == 2
    training = {**RUN["training"], "checkpoint_every_steps": 4}
    other = make(run={**RUN, "training": training})
    assert other.make_run({}).training.checkpoint_every_steps == 4


def test_the_values_of_a_point_are_a_file_of_the_same_run(tmp_path: Path) -> None:
    import yaml

    search, point = make(), {RATE: 0.2}
    run = search.make_run(point)
    path = tmp_path / "best.yaml"
    path.write_text(yaml.safe_dump({**search.run_values(point), "name": run.name}))
    assert load_config(path) == run


@pytest.mark.parametrize(
    ("domain", "reason"),
    [
        ({"normal": [0, 1]}, "must be one of choice, grid_search, uniform"),
        ({"choice": [1], "uniform": [0, 1]}, "must be one of"),
        ({"choice": []}, "at least one value"),
        ({"uniform": [0.1]}, r"needs the numbers \[low, high\]"),
        ({"quniform": [0.1, 0.2]}, r"needs the numbers \[low, high, quantum\]"),
        ({"uniform": [0.2, 0.1]}, "low below high"),
        ({"randint": [1, 2.5]}, "whole numbers"),
    ],
)
def test_a_bad_domain_is_refused_with_its_key(domain: dict[str, Any], reason: str) -> None:
    with pytest.raises(UserError, match=f"space.{RATE}.*{reason}"):
        make(space={RATE: domain})


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("deepspeed.zero_stage", "does not change results"),
        ("resources.num_workers", "does not change results"),
        ("storage", "does not change results"),
        ("evaluation.num_beams", "does not change the validation loss"),
    ],
)
def test_a_key_that_does_not_change_the_validation_loss_is_refused(key: str, reason: str) -> None:
    with pytest.raises(UserError, match=rf"space\.{key} {reason}"):
        make(space={key: {"choice": [1, 2]}})


def test_a_key_that_changes_results_is_accepted() -> None:
    keys = ("deepspeed.extra", "lora", "seed", "selection.budget", "warmup.num_steps")
    assert set(make(space={key: {"choice": [1]} for key in keys}).domains) == set(keys)


def test_domains_that_optuna_does_not_support_are_refused() -> None:
    with pytest.raises(UserError, match="no quantum on a logarithmic scale; use loguniform"):
        make(space={RATE: {"qloguniform": [0.1, 0.4, 0.1]}}, algorithm="optuna")
    with pytest.raises(UserError, match="optuna has no grid_search"):
        make(space={RATE: {"grid_search": [0.1]}}, algorithm="optuna")
    with pytest.raises(UserError, match="lists or mappings"):
        make(space={"lora.target_modules": {"choice": [["q_proj"]]}}, algorithm="optuna")


def test_a_search_needs_validation_rows_and_asha_needs_losses_during_training() -> None:
    train = {"train": ["builtin:tiny_arithmetic"]}
    without_rows = {**RUN, "data": train, "training": {"max_steps": 4}}
    with pytest.raises(UserError, match=r"run\.data\.validation_rows"):
        make(run=without_rows).make_run({})
    without_losses = {**RUN, "training": {"max_steps": 4}}
    with pytest.raises(UserError, match=r"run\.training\.validate_every_steps"):
        make(run=without_losses).make_run({})
    assert make(run=without_losses, scheduler="none").make_run({})


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({}, r"run\.training\.validate_every_steps"),
        ({"asha": {"grace_period": 12}}, r"asha\.grace_period"),
    ],
)
def test_a_training_shorter_than_the_grace_period_of_asha_is_refused(
    changes: dict[str, Any], field: str
) -> None:
    run = {**RUN, "training": {"max_steps": 10, "validate_every_steps": 15}}
    search = make(run=run, **changes)
    with pytest.raises(UserError, match=rf"{field}: must be at most the steps of training \(10\)"):
        search.asha_steps([search.make_run({})])


def test_asha_uses_the_steps_of_the_longest_training() -> None:
    search = make(space={"training.max_steps": {"choice": [4, 40, 20]}})
    runs = [search.make_run({"training.max_steps": steps}) for steps in (4, 40, 20)]
    assert search.asha_steps(runs) == (2, 40)
    epochs = make(run={**RUN, "training": {"num_epochs": 1, "validate_every_steps": 2}})
    assert epochs.asha_steps([epochs.make_run({})])[1] >= 10**9


def test_the_ends_of_a_domain_are_all_values_of_a_list_or_both_ends_of_a_range() -> None:
    space = {"a": {"choice": [1, 2, 3]}, "b": {"uniform": [0.0, 1.0]}, "c": {"randint": [2, 9]}}
    ends = {key: domain.ends() for key, domain in make(space=space).domains.items()}
    assert ends == {"a": [1, 2, 3], "b": [0.0, 1.0], "c": [2, 8]}


def test_overrides_reach_the_run_and_the_search() -> None:
    search = load_search(TUNE / "tiny.yaml", ["num_samples=2", "run.training.max_steps=30"])
    assert (search.num_samples, search.make_run({}).training.max_steps) == (2, 30)
