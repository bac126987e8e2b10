"""Whatever a user gets wrong is one line that says what, and exit code 2, before Ray starts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from smt_ray import cli
from smt_ray.artifacts.runs import RunFolder
from smt_ray.artifacts.stages import Stage
from smt_ray.artifacts.storage import Storage
from smt_ray.config.load import load_config
from smt_ray.errors import UserError
from smt_ray.orchestration.plan import RunPlan, make_plan

ROW = {"instruction": "Add 1 and 2.", "input": "", "output": "It is 3.", "answer": "3"}
Refused = Callable[..., str]


@pytest.fixture(autouse=True)
def offline_and_without_ray(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def start(*_: Any, **__: Any) -> None:
        raise AssertionError("Ray was started before the error was found")

    monkeypatch.setattr("ray.init", start)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Runs a command that must be refused; gives its error line without ``error: ``."""

    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["smt-ray", *arguments])
        with pytest.raises(SystemExit) as end:
            cli.main()
        captured = capsys.readouterr()
        assert end.value.code == 2
        assert "Traceback" not in captured.err + captured.out
        last = captured.err.rstrip("\n").split("\n")[-1]
        assert captured.err.count("error: ") == 1
        assert last.startswith("error: ")
        return last.removeprefix("error: ")

    return run


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "kept"))


@pytest.fixture
def rows(tmp_path: Path) -> Callable[[Any], str]:
    """Writes a file of training rows."""

    def write(content: Any) -> str:
        path = tmp_path / "rows.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return str(path)

    return write


def assert_names(line: str, *parts: str) -> None:
    for part in parts:
        assert part in line, f"{part!r} is not in: {line}"


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        (["trainig.max_steps=3"], ["trainig: unknown key", "did you mean training?"]),
        (["training.max_step=3"], ["training.max_step: unknown key", "did you mean max_steps?"]),
        (["seed='3'"], ["seed: ", "valid integer", "got '3'", "Fix: Order of rows"]),
        (["data.prompt=dirty"], ["data.prompt: ", "'clean' or 'legacy'", "got 'dirty'"]),
        (["selection.budget=0"], ["selection.budget: ", "greater than 0", "got 0"]),
        (["selection.budget=1.5"], ["selection.budget: ", "less than or equal to 1", "got 1.5"]),
        (["warmup.num_shards=21"], ["warmup: num_shards must be at most num_steps (20); got 21"]),
        (["selection.target_modules=[o_proj]"], ["selection.target_modules", "['o_proj']"]),
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
            ["lora.target_modules: must name linears", "embed_tokens is a Embedding"],
        ),
        (["method=lora", "lora.budget=1e-9"], ["lora.budget: must come to rank 1 to", "got 1e-09"]),
        (
            ["method=lora", "--until", "selection"],
            ["--until: method lora has no selection: must be one of training, evaluation; got"],
        ),
        (["method=full", "--until", "warmup"], ["--until: method full has no warmup"]),
        (
            ["selection.score=random", "--until", "warmup"],
            ["--until: selection.score random has no warmup: must be one of selection, training"],
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
def test_a_bad_config_is_refused(refused: Refused, overrides: list[str], parts: list[str]) -> None:
    assert_names(refused("run", *overrides), *parts)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("- a list", ["must hold a mapping", "got 'list'"]),
        ("model: {builtin: tiny", ["must be valid YAML"]),
        ("seed: 1\nseed: 2", ["must be valid YAML", "seed stands there twice"]),
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
        ("{}", ["must hold a list of rows", "got 'dict'"]),
        ("[]", ["holds no rows", "check data.train"]),
        ([ROW, {**ROW, "output": 3}], ["row 1, field 'output'", "must be a string", "got 3"]),
        ([ROW, {"instruction": "a"}], ["row 1, field 'output'", "is missing"]),
    ],
)
def test_bad_training_rows_are_refused(
    refused: Refused, rows: Callable[[Any], str], content: Any, parts: list[str]
) -> None:
    path = rows(content)
    assert_names(refused("run", f"data.train=[{path}]"), path, *parts)


def test_training_rows_that_are_not_there_are_refused(refused: Refused, tmp_path: Path) -> None:
    line = refused("run", "data.train=[a.json]", f"data.dir={tmp_path}")
    assert_names(line, f"{tmp_path}/a.json: must be a readable JSON", "No such file", "data.dir")


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


# --- runs and stages that are there ---


@pytest.fixture
def plan(storage: Storage) -> RunPlan:
    return make_plan(load_config(None, [f"storage={storage.root}", "name=mine"]))


def finish(stage: Stage, file: str, summary: dict[str, Any]) -> str:
    """Makes a stage look finished; gives the URI of its one artifact."""
    stage.storage.write_bytes(stage.path(file), b"what was computed")
    stage.publish([file], summary, 1.0)
    return stage.storage.uri(stage.path(file))


@pytest.fixture
def finished(plan: RunPlan) -> dict[str, str]:
    """All stages look finished: stage -> its artifact."""
    summary = {"tasks": {}, "training": {"num_rows": 9}}
    stages = {
        "tokens": (plan.tokens, "tokens.safetensors"),
        "warmup": (plan.warmup, "score_table.safetensors"),
        "selection": (plan.selection, "selection.safetensors"),
        "training": (plan.trained, "adapter/adapter_model.safetensors"),
        **{name: (stage, "boolq.jsonl") for name, stage in plan.evaluations.items()},
    }
    return {name: finish(stage, file, summary) for name, (stage, file) in stages.items()}


@pytest.mark.parametrize("harm", [b"what was", b"WHAT was computed", None])
@pytest.mark.parametrize("stage", ["tokens", "selection", "training", "base", "tuned"])
def test_a_truncated_edited_or_missing_artifact_is_refused(
    refused: Refused, plan: RunPlan, finished: dict[str, str], stage: str, harm: bytes | None
) -> None:
    artifact = Path(finished[stage])
    artifact.write_bytes(harm) if harm is not None else artifact.unlink()
    line = refused("run", f"storage={plan.storage.root}", "name=mine")
    assert_names(line, f"{artifact}: was truncated or edited", "delete", "to make it again")
    others = [Path(path) for name, path in finished.items() if name != stage]
    assert all(path.read_bytes() == b"what was computed" for path in others)


def test_a_truncated_score_table_is_refused_where_it_is_needed(
    refused: Refused, plan: RunPlan
) -> None:
    artifact = finish(plan.warmup, "score_table.safetensors", {})
    Path(artifact).write_bytes(b"what")
    line = refused("run", f"storage={plan.storage.root}")
    assert_names(line, f"{artifact}: was truncated or edited")


def test_a_truncated_manifest_is_refused(
    refused: Refused, plan: RunPlan, finished: dict[str, str]
) -> None:
    manifest = Path(plan.trained.uri) / "manifest.json"
    manifest.write_bytes(manifest.read_bytes()[:50])
    assert_names(refused("run", f"storage={plan.storage.root}"), f"{manifest}: cannot be read")


@pytest.fixture
def trained(plan: RunPlan, finished: dict[str, str]) -> RunFolder:
    """A run that looks trained."""
    run = RunFolder(plan.storage, "mine")
    run.update(config=plan.config.model_dump(mode="json"), semantic=plan.config.semantic_tree())
    run.add_stage("training", plan.trained.name, seconds=1.0, reused=False)
    return run


ON_RUNS = {
    "merge": ["merge", "--out", "new", "--run"],
    "log": ["log"],
    "evaluate": ["evaluate", "--task", "tiny_arithmetic", "--run"],
}


@pytest.mark.parametrize("command", ON_RUNS)
def test_an_unknown_run_is_refused(refused: Refused, trained: RunFolder, command: str) -> None:
    root = trained.storage.root
    line = refused(*ON_RUNS[command], "yours", "--storage", root)
    assert_names(line, f"no such run in {root}", "got 'yours'", "runs there: mine", "--storage")


@pytest.mark.parametrize("command", ON_RUNS)
def test_a_storage_that_is_not_there_has_no_runs(refused: Refused, command: str) -> None:
    line = refused(*ON_RUNS[command], "yours", "--storage", "nowhere")
    assert_names(line, "no such run in", "runs there: none")


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


@pytest.mark.parametrize("command", ON_RUNS)
def test_a_truncated_run_manifest_is_refused(
    refused: Refused, trained: RunFolder, command: str
) -> None:
    manifest = Path(trained.uri) / "run.json"
    manifest.write_text(manifest.read_text()[:40])
    line = refused(*ON_RUNS[command], "mine", "--storage", trained.storage.root)
    assert_names(line, f"{manifest}: cannot be read")


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
    config = trained.manifest()["config"]
    config["tracking"]["enabled"] = False
    trained.update(config=config)
    line = refused("log", "mine", "--storage", trained.storage.root)
    assert_names(line, "tracking.enabled: must be true", "got False")


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--task", "boolqq", "--run", "mine"], ["evaluation.tasks", "boolq", "got 'boolqq'"]),
        (["--task", "boolq", "--run", "mine"], ["data.dir: must be set"]),
        (["--task", "boolq", "--run", "mine", "--data", "d"], ["d/dataset/boolq/test.json"]),
        (["--task", "boolq"], ["evaluate: needs exactly one of --run and --model"]),
        (["--task", "boolq", "--run", "mine", "--model", "m"], ["exactly one of"]),
        (["--task", "boolq", "--run", "mine", "--adapter", "a"], ["--adapter: goes with --model"]),
        (["--task", "tiny_arithmetic", "--model", "./m"], ["model.path: must be a folder"]),
        (
            ["--task", "tiny_arithmetic", "--model", "m", "--adapter", "a"],
            ["--adapter: must be an adapter's folder; got 'a'"],
        ),
        (
            ["--task", "tiny_arithmetic", "--run", "mine", "--set", "evaluation.beams=4"],
            ["evaluation.beams: unknown key", "num_beams"],
        ),
    ],
)
def test_a_bad_evaluation_is_refused(
    refused: Refused, trained: RunFolder, arguments: list[str], parts: list[str]
) -> None:
    assert_names(refused("evaluate", *arguments, "--storage", trained.storage.root), *parts)


# --- names ---


def test_a_name_of_another_runs_work_is_refused(refused: Refused, trained: RunFolder) -> None:
    root = trained.storage.root
    line = refused("run", f"storage={root}", "name=mine", "training.learning_rate=5e-4")
    assert_names(
        line, "name: the run mine was made with another config", "training.learning_rate", "0.0005"
    )


def test_a_config_that_was_refused_leaves_its_name_free(refused: Refused, storage: Storage) -> None:
    named = ("run", f"storage={storage.root}", "name=mine")
    assert_names(refused(*named, "selection.block_size=48"), "selection.block_size: must divide")
    line = refused(*named, "selection.budget=0.9")
    assert_names(line, "selection.budget: must come to")


# --- the command line itself ---


@pytest.mark.parametrize(
    "arguments",
    [["runn"], ["run", "--untill", "training"], ["merge", "--run", "mine"], ["log"], ["evaluate"]],
    ids=" ".join,
)
def test_a_wrong_command_line_ends_with_2_and_says_how(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["smt-ray", *arguments])
    with pytest.raises(SystemExit) as end:
        cli.main()
    error = capsys.readouterr().err
    assert end.value.code == 2
    assert "Usage:" in error
    assert "Traceback" not in error


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"]], ids=" ".join)
def test_help_ends_with_0(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["smt-ray", *arguments])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert not end.value.code
    assert "Usage: smt-ray" in capsys.readouterr().out


# A process that was started in the background may ignore the signal from its birth on.
STARTED = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from smt_ray.cli import main
main("config")
"""


def open_once_it_is_read(pipe: Path, reader: subprocess.Popen[str]) -> int:
    """Opens a pipe for writing when a process has opened it for reading."""
    while reader.poll() is None:
        with suppress(OSError):  # nobody reads it yet
            return os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
        time.sleep(0.05)
    raise AssertionError(f"the process has ended: {reader.communicate()}")


def test_an_interrupted_command_says_how_to_go_on_and_ends_with_130(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.yaml"
    os.mkfifo(pipe)
    with subprocess.Popen(
        [sys.executable, "-c", STARTED, str(pipe)],
        cwd=Path(__file__).parents[1],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as command:
        writing = open_once_it_is_read(pipe, command)
        command.send_signal(signal.SIGINT)  # it waits for its config
        out, error = command.communicate()
        os.close(writing)
    assert command.returncode == 130
    assert (out, error) == ("", "interrupted: the same command goes on from here\n")


def test_a_defect_of_ours_keeps_its_traceback() -> None:
    def broken() -> None:
        raise KeyError("ours")

    with pytest.raises(KeyError, match="ours"):
        cli.exit_with(broken)


class WrappedError(Exception):
    """As Ray hands on what a task raised: the error itself, or one that has it as its cause."""

    def __init__(self, cause: BaseException | None = None) -> None:
        super().__init__("a task failed\nwith many\nlines")
        self.cause = cause


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_a_users_error_is_found_behind_what_ray_wraps_around_it(
    capsys: pytest.CaptureFixture[str], depth: int
) -> None:
    error: BaseException = UserError("seed", "must be\nsmall", got=9)
    for _ in range(depth):
        error = WrappedError(error)

    def fail() -> None:
        raise error

    with pytest.raises(SystemExit) as end:
        cli.exit_with(fail)
    assert end.value.code == 2
    assert capsys.readouterr().err == "error: seed: must be small; got 9\n"


def test_a_users_error_is_found_behind_a_python_cause(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise RuntimeError("wrapped") from UserError("seed", "must be small")

    with pytest.raises(SystemExit):
        cli.exit_with(fail)
    assert capsys.readouterr().err == "error: seed: must be small\n"
