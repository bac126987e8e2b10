"""Claims about bad input to a run: one line names it, and Ray is not started."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cli.refusals import Refused, assert_names

ROW = {"instruction": "Add 1 and 2.", "input": "", "output": "It is 3.", "answer": "3"}


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        (["trainig.max_steps=3"], ["trainig: unknown key", "did you mean training?"]),
        (["training.max_step=3"], ["training.max_step: unknown key", "did you mean max_steps?"]),
        (
            ["seed='3'"],
            ["seed: ", "valid integer", "got '3'", "Fix: The seed of the order of rows"],
        ),
        (
            ["data.prompt=dirty"],
            ["data.prompt: ", "'clean', 'legacy' or 'published'", "got 'dirty'"],
        ),
        (["selection.budget=0"], ["selection.budget: ", "greater than 0", "got 0"]),
        (["selection.budget=1.5"], ["selection.budget: ", "less than or equal to 1", "got 1.5"]),
        (["warmup.num_shards=21"], ["warmup: num_shards must be at most num_steps (20); got 21"]),
        (["selection.target_modules=[o_proj]"], ["selection.target_modules", "o_proj"]),
        (["evaluation.tasks=[boolqq]"], ["evaluation.tasks: ", "one of", "boolq", "got 'boolqq'"]),
        (["evaluation.tasks=[boolq]"], ["data.dir: must be set", "dataset/boolq/test.json"]),
        (
            ["evaluation.tasks=[gsm8k]", "data.dir=there"],
            ["evaluation.base_likelihood: gsm8k has no closed set", "set it to false"],
        ),
        (["data.train=['builtin:huge']"], ["data.train: ", "tiny_arithmetic", "got 'huge'"]),
        (["data.validation_rows=99999"], ["data.validation_rows: must be smaller", "got 99999"]),
        (
            ["data.max_length=2", "data.max_rows=20"],
            ["data.max_length: must leave at least one row", "got 2"],
        ),
        (
            ["warmup.target_modules=[query]"],
            ["warmup.target_modules: must each match at least", "got 'query'", "q_proj"],
        ),
        (
            ["warmup.target_modules=[embed_tokens]"],
            ["warmup.target_modules: must name plain", "embed_tokens is a Embedding", "q_proj"],
        ),
        (
            ["selection.block_size=48"],
            [
                "selection.block_size: must divide both",
                "q_proj is 128 x 128",
                "got 48",
                "use one of",
            ],
        ),
        (
            ["selection.block_size=8"],
            ["selection.block_size: must be a multiple of 16", "got 8", "use one of 16, 32, 64"],
        ),
        (
            ["warmup.table_block_size=48"],
            ["warmup.table_block_size: must divide", "q_proj is 128 x 128", "got 48", "use one of"],
        ),
        (
            ["selection.budget=0.9"],
            ["selection.budget: must come to 1 to", "blocks of 16 x 16", "got 0.9", "change it"],
        ),
        (["selection.budget=1e-9"], ["selection.budget: must come to 1 to", "got 1e-09"]),
        (
            ["selection.budget=null", "selection.num_blocks=99999"],
            ["selection.num_blocks: must come to 1 to", "got 99999"],
        ),
        (
            ["selection.scope=per_module", "selection.budget=null", "selection.num_blocks=3"],
            ["selection.scope: per_module must have at least one block for each of 12", "3 blocks"],
        ),
        (
            ["model.builtin=null", "model.path=./nowhere"],
            ["model.path: must be a folder or a hub name; got './nowhere'"],
        ),
        (
            ["model.builtin=null", "model.path=nobody/nothing"],
            ["model: cannot be loaded", "got 'nobody/nothing'", "offline, use a local folder"],
        ),
        (
            ["model.builtin=null", "model.architecture={model_type: llama}"],
            ["model.architecture: has no weights", "got 'llama'", "set model.path"],
        ),
        (
            ["method=lora", "lora.target_modules=[query]"],
            ["lora.target_modules: must each match at least", "got 'query'", "q_proj"],
        ),
        (
            ["method=dora", "lora.target_modules=[embed_tokens]"],
            ["lora.target_modules: must name plain", "embed_tokens is a Embedding"],
        ),
        (["method=lora", "lora.budget=1e-9"], ["lora.budget: must come to rank 1 to", "got 1e-09"]),
        (
            ["method=lora", "--until", "selection"],
            ["--until: must be one of training, evaluation, because method lora has no selection"],
        ),
        (
            ["method=full", "--until", "warmup"],
            ["--until: must be one of", "because method full has no warmup"],
        ),
        (
            ["selection.score=random", "--until", "warmup"],
            ["--until: must be one of selection, training", "because selection.score random has"],
        ),
        (
            ["selection.budget=null", "selection.groups={mlp: 0.01}"],
            ["selection.groups: must each have at least one module", "got 'mlp'"],
        ),
        (
            ["selection.budget=null", "selection.groups={v_proj: 0.01, k_proj: 0.9}"],
            ["selection.groups.k_proj: must come to 1 to", "got 0.9"],
        ),
        (["storage=gopher://hole"], ["storage: no file system serves", "got 'gopher://hole'"]),
        (["nonsense", "more"], ["CONFIG: must be a readable YAML file", "got 'nonsense'"]),
        (["seed=1", "nonsense"], ["override: must be key=value; got 'nonsense'"]),
        (["seed=1", "--until", "lunch"], ["--until: must be one of warmup, ", "got 'lunch'"]),
    ],
    ids=lambda value: " ".join(value) if "=" in value[0] or len(value) < 3 else "",
)
@pytest.mark.parametrize("options", [[], ["--dry-run"]], ids=["run", "dry run"])
def test_a_bad_config_is_refused(
    refused: Refused, options: list[str], overrides: list[str], parts: list[str]
) -> None:
    assert_names(refused("run", *options, *overrides), *parts)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("- a list", ["must hold a mapping", "got 'list'"]),
        ("model: {builtin: tiny", ["must be valid YAML"]),
        ("seed: 1\nseed: 2", ["must be valid YAML", "the key seed is repeated"]),
    ],
)
@pytest.mark.parametrize("command", ["run", "config"])
def test_a_bad_config_file_is_refused(
    refused: Refused, tmp_path: Path, command: str, text: str, parts: list[str]
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    assert_names(refused(command, str(path)), str(path), *parts)


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("[{", ["must be valid JSON"]),
        ("{}", ["must hold a list of rows", "got []"]),
        ("[]", ["holds no rows", "check the file"]),
        ([ROW, {**ROW, "output": True}], ["row 1, field 'output'", "must be a string", "got True"]),
        ([ROW, {"instruction": "a"}], ["row 1, field 'output'", "is missing"]),
    ],
)
def test_bad_training_rows_are_refused(
    refused: Refused, rows: Callable[[Any], str], content: Any, parts: list[str]
) -> None:
    path = rows(content)
    assert_names(refused("run", f"data.train=[{path}]"), path, *parts)


def test_missing_training_rows_are_refused(refused: Refused, tmp_path: Path) -> None:
    line = refused("run", "data.train=[a.json]", f"data.dir={tmp_path}")
    assert_names(line, "data.train: must be a file", f"{tmp_path}/a.json", "data.dir")


@pytest.mark.parametrize("command", [["run"], ["evaluate", "--task", "tiny_arithmetic"]])
def test_an_unwritable_storage_is_refused(
    refused: Refused, tmp_path: Path, command: list[str]
) -> None:
    (tmp_path / "file").write_text("in the way")
    root = f"{tmp_path}/file/below"
    is_run = command == ["run"]
    rest = [f"storage={root}"] if is_run else ["--model", "m", "--storage", root]
    if not is_run:
        rest += ["--set", "model.path=null", "--set", "model.builtin=tiny"]
    assert_names(refused(*command, *rest), "storage: must be writable", root, "choose another")
