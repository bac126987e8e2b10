"""Claims about the commands of the benchmarks, which run in tiny settings and write JSON."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import evaluation, linear, planning, step
from benchmarks.configurations import NAMES, PEERS, PHASES
from tests.benchmarks.answers import assert_spread, read

TINY_STEP = (
    "--rounds 1 --layers 1 --batch-size 4 --warmup-steps 1 --threads 1 --gemm-tokens 8"
    " --suites builtin:tiny_arithmetic"
)
TINY_LINEAR = "--tiny --rounds 1 --tokens 4 --threads 1"


@pytest.fixture(scope="module")
def stepped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("step")
    step.main(
        [*TINY_STEP.split(), "--json", str(folder / "s.json"), "--chart", str(folder / "s.png")]
    )
    return folder


def test_step_measures_every_configuration(stepped: Path) -> None:
    suite = read(stepped / "s.json", "step")["suites"]["builtin:tiny_arithmetic"]
    assert suite["num_rows"] == [4]
    assert 0 < suite["num_packed_tokens"][0] <= suite["num_tokens"][0]
    assert [list(found) for found in suite["rounds"]] == [list(NAMES)]
    for found in suite["summary"]["configurations"].values():
        for name, values in found.items():
            if name.endswith("_bytes"):
                assert values > 0
            elif isinstance(values, dict):
                assert_spread(values)
        assert {f"{phase}_seconds" for phase in PHASES} < found.keys()
        assert {"over_limit", "samples_per_second", "tokens_per_second"} < found.keys()
    compared = suite["summary"]["comparisons"].values()
    assert [tuple(found) for found in compared] == list(PEERS.values())


def test_step_draws_a_chart(stepped: Path) -> None:
    assert (stepped / "s.png").read_bytes().startswith(b"\x89PNG")


def test_the_floor_has_no_optimizer_state_and_smt_has_the_least(stepped: Path) -> None:
    suite = read(stepped / "s.json", "step")["suites"]["builtin:tiny_arithmetic"]
    state = {name: found["of_it_optimizer_state"] for name, found in suite["memory"].items()}
    assert state["floor packed"] == 0
    assert 0 < state["smt packed"] < state["lora packed"] < state["dora packed"]
    assert state["dora packed"] < state["full packed"]


def test_linear_measures_every_layer(tmp_path: Path) -> None:
    linear.main([*TINY_LINEAR.split(), "--json", str(tmp_path / "linear.json")])
    found = read(tmp_path / "linear.json", "linear")["shapes"]["tiny"]
    layers = found["summary"]
    assert {"frozen linear", "trainable linear", "LoRA", "LoRA, dropout 0.05", "DoRA"} < set(layers)
    assert sum(name.startswith("SMT") for name in layers) >= 4
    for one in layers.values():
        assert_spread(one["seconds"])
        assert_spread(one["over_frozen"])


def test_evaluation_gives_the_same_answers_as_row_by_row(tmp_path: Path) -> None:
    arguments = ["--rounds", "1", "--rows", "3", "--threads", "1"]
    evaluation.main([*arguments, "--json", str(tmp_path / "evaluation.json")])
    cases = read(tmp_path / "evaluation.json", "evaluation")["cases"]
    assert list(cases) == list(evaluation.GOALS)
    for case in cases.values():
        assert case["num_rows"] == 3
        assert case["same_outputs"] == 1
        assert_spread(case["times_as_fast"])


@pytest.mark.slow
def test_planning_checks_every_point_of_a_grid(tmp_path: Path) -> None:
    arguments = ["--rounds", "1", "--threads", "1", "--rows", "400", "--points", "1", "3"]
    planning.main([*arguments, "--json", str(tmp_path / "planning.json")])
    summary = read(tmp_path / "planning.json", "planning")["summary"]
    assert [case["num_points"]["median"] for case in summary.values()] == [1, 3]
    assert summary["1"]["over_first"]["median"] == 1
    for case in summary.values():
        assert_spread(case["seconds"])
