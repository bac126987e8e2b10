"""Claims about the plan command: its answer and its errors."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from smt_ray import cli
from tests.cli.refusals import Refused, assert_names


def test_a_plan_that_does_not_fit_is_printed_and_ends_with_0(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    small = "model={architecture: {model_type: llama, hidden_size: 32, intermediate_size: 64,"
    small += " num_hidden_layers: 1, num_attention_heads: 4, vocab_size: 100}}"
    command = ["smt-ray", "plan", small, "data.max_length=20", "--gpus", "3", "--gpu-memory", "1"]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert not end.value.code
    text = capsys.readouterr().out
    assert "on 3 GPUs" in text
    assert "does not fit 1.0 GiB" in text
    assert "none fits" in text
    assert not list(tmp_path.iterdir())  # nothing is written


@pytest.mark.parametrize(
    ("value", "part"),
    [
        ("hidden_size: abc", "expected int"),
        ("hidden_size: -4", "not a multiple"),
        ("hidden_size: 0", "cannot be"),
        ("hidden_size: 10000000000000", "overflow"),
        ("num_attention_heads: 0", "by zero"),
        ("vocab_size: null", "expected int"),
        ("hidden_act: nonsense", "nonsense"),
        ("rope_scaling: 3", "rope_parameters"),
        ("num_hidden_layers: 1000000000", "num_hidden_layers: must be at most 10,000"),
    ],
)
def test_nonsense_in_an_architecture_is_one_line(
    refused: Refused, tmp_path: Path, value: str, part: str
) -> None:
    config = tmp_path / "a.yaml"
    config.write_text(
        f"name: a\nmodel: {{architecture: {{model_type: llama, {value}}}}}\n"
        "data: {train: [builtin:tiny_arithmetic]}\n"
    )
    assert_names(refused("plan", str(config)), "model.architecture", part)


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--gpu-memory", "big"], ["--gpu-memory: must be a size", "got 'big'", "24GiB"]),
        (["selection.budget=0.9"], ["selection.budget: must come to 1 to"]),
        (["method=lora", "lora.target_modules=[query]"], ["lora.target_modules: must each match"]),
        (["model.pth=x"], ["model.pth: unknown key"]),
        (["model={path: /not/there}"], ["model.path: must be a folder"]),
        (["there.yaml"], ["CONFIG: must be a readable YAML file"]),
        (["resources.num_workers=1000000"], ["resources.num_workers: ", "100000"]),
        (["deepspeed.extra={fp16: {enabled: true}}"], ["must not hold fp16", "model.dtype"]),
        (["deepspeed.extra={zero_optimization: {stage: 3}}"], ["deepspeed.zero_stage"]),
        (["deepspeed.extra={zero_optimization: 3}"], ["zero_optimization must be a mapping"]),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else None,
)
def test_a_bad_plan_is_refused(refused: Refused, arguments: list[str], parts: list[str]) -> None:
    assert_names(refused("plan", *arguments), *parts)
