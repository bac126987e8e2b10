"""Claims about merge, log, report and evaluate on missing, untrained or damaged runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from smt_ray.artifacts.runs import RunFolder
from smt_ray.config.load import apply_overrides
from tests.cli.refusals import Refused, assert_names

ON_RUNS = {
    "merge": ["merge", "--out", "new", "--run"],
    "log": ["log"],
    "report": ["report"],
    "evaluate": ["evaluate", "--task", "tiny_arithmetic", "--run"],
}


@pytest.mark.parametrize("command", ON_RUNS)
def test_an_unknown_run_is_refused(refused: Refused, trained: RunFolder, command: str) -> None:
    root = trained.storage.root
    line = refused(*ON_RUNS[command], "yours", "--storage", root)
    assert_names(line, f"no such run in {root}", "got 'yours'", "runs there: mine", "--storage")


@pytest.mark.parametrize("command", ON_RUNS)
def test_a_missing_storage_has_no_runs(refused: Refused, command: str) -> None:
    line = refused(*ON_RUNS[command], "yours", "--storage", "nowhere")
    assert_names(line, "no such run in", "runs there: none")


@pytest.mark.parametrize("command", ON_RUNS)
@pytest.mark.parametrize("name", ["../../other/runs/mine", "..", "/tmp", "a/b", "", "a" * 121])
def test_a_name_leads_nowhere_else(
    refused: Refused, trained: RunFolder, command: str, name: str
) -> None:
    line = refused(*ON_RUNS[command], name, "--storage", trained.storage.root)
    assert_names(line, "name: must be at most 120 letters, digits", "got")


@pytest.mark.parametrize("command", ["merge", "evaluate"])
def test_a_run_without_training_is_refused(
    refused: Refused, trained: RunFolder, command: str
) -> None:
    trained.update(stages={})
    line = refused(*ON_RUNS[command], "mine", "--storage", trained.storage.root)
    assert_names(line, "--run: was not trained yet", "got 'mine'", "run it to the end")


@pytest.mark.parametrize("command", ["merge", "evaluate"])
def test_a_truncated_adapter_is_refused(
    refused: Refused, trained: RunFolder, finished: dict[str, str], command: str
) -> None:
    Path(finished["training"]).write_bytes(b"what")
    line = refused(*ON_RUNS[command], "mine", "--storage", trained.storage.root)
    assert_names(line, f"{finished['training']}: was truncated or edited")


DAMAGES: dict[str, bytes | None] = {
    "cut off": None,
    "empty": b"",
    "an object": b"{}",
    "a list": b"[]",
    "binary": b"\xff\xfe\x00",
    "nested": b"[" * 100_000,
    "later": b'{"from_a_later_version": 1}',
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("command", ON_RUNS)
def test_a_damaged_run_manifest_is_refused(
    refused: Refused, trained: RunFolder, command: str, damage: str
) -> None:
    manifest = Path(trained.uri) / "run.json"
    content = DAMAGES[damage]
    manifest.write_bytes(manifest.read_bytes()[:40] if content is None else content)
    line = refused(*ON_RUNS[command], "mine", "--storage", trained.storage.root)
    assert_names(line, f"{manifest}: cannot be read", "Fix: ")


@pytest.mark.parametrize("command", ON_RUNS)
def test_a_folder_in_place_of_a_document_is_refused(
    refused: Refused, trained: RunFolder, command: str
) -> None:
    manifest = Path(trained.uri) / "run.json"
    manifest.unlink()
    manifest.mkdir()
    line = refused(*ON_RUNS[command], "mine", "--storage", trained.storage.root)
    assert_names(line, f"{manifest}: cannot be read", "Is a directory")


@pytest.mark.parametrize("command", ON_RUNS)
@pytest.mark.parametrize("kind", ["loop", "long"])
def test_a_storage_that_no_file_system_has_is_refused(
    refused: Refused, tmp_path: Path, command: str, kind: str
) -> None:
    place = tmp_path / ("loop" if kind == "loop" else "a" * 300)
    if kind == "loop":
        place.symlink_to(place)
    line = refused(*ON_RUNS[command], "mine", "--storage", str(place))
    assert_names(line, {"loop": "Too many levels", "long": "File name too long"}[kind], "Fix: ")


@pytest.mark.parametrize("there", ["full", "file"])
def test_merge_overwrites_nothing(
    refused: Refused, trained: RunFolder, tmp_path: Path, there: str
) -> None:
    out = tmp_path / "out"
    if there == "full":
        out.mkdir()
    (out / "model.safetensors" if there == "full" else out).write_text("mine")
    root = trained.storage.root
    line = refused("merge", "--run", "mine", "--out", str(out), "--storage", root)
    assert_names(line, "--out: must be a new or empty folder", str(out))


def test_log_of_a_run_without_tracking_is_refused(refused: Refused, trained: RunFolder) -> None:
    config = apply_overrides(dict(trained.manifest().config), ["tracking.enabled=false"])
    trained.update(config=config)
    line = refused("log", "mine", "--storage", trained.storage.root)
    assert_names(line, "tracking.enabled: must be true", "got False")


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--task", "boolqq", "--run", "mine"], ["--task", "boolq", "got 'boolqq'"]),
        (["--task", "boolq", "--run", "mine"], ["--data: must be set"]),
        (["--task", "boolq", "--run", "mine", "--data", "d"], ["d/dataset/boolq/test.json"]),
        (["--task", "boolq"], ["evaluate: needs exactly one of --run and --model"]),
        (["--task", "boolq", "--run", "mine", "--model", "m"], ["exactly one of"]),
        (["--task", "boolq", "--run", "mine", "--adapter", "a"], ["--adapter: needs --model"]),
        (["--task", "tiny_arithmetic", "--model", "./m"], ["--model: must be a folder"]),
        (
            ["--task", "tiny_arithmetic", "--model", "m", "--adapter", "a"],
            ["--adapter: must be an adapter's folder; got 'a'"],
        ),
        (
            ["--task", "tiny_arithmetic", "--run", "mine", "--protocol", "beams"],
            ["--protocol: must be one of generate, likelihood; got 'beams'"],
        ),
        (
            ["--task", "math", "--run", "mine", "--protocol", "likelihood"],
            ["--protocol: MultiArith has no closed set of answers", "got 'likelihood'", "leave it"],
        ),
        (
            ["--task", "tiny_arithmetic", "--run", "mine", "--set", "evaluation.beams=4"],
            ["evaluation.beams: unknown key", "num_beams"],
        ),
        *(
            (
                ["--task", "tiny_arithmetic", "--run", "mine", "--set", override],
                ["--set: must set a key of evaluation, data", f"got '{override}'"],
            )
            for override in ("training.max_steps=3", "model.dtype=bfloat16", "seed=3")
        ),
    ],
)
def test_a_bad_evaluation_is_refused(
    refused: Refused, trained: RunFolder, arguments: list[str], parts: list[str]
) -> None:
    assert_names(refused("evaluate", *arguments, "--storage", trained.storage.root), *parts)
