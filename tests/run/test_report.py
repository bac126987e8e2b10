"""Claims about a run's page and the artifacts that it is made from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from smt_ray.artifacts import stages
from smt_ray.artifacts.layout import SELECTION
from smt_ray.artifacts.runs import RunFolder
from smt_ray.artifacts.stages import Stage
from smt_ray.artifacts.storage import Storage
from smt_ray.cli.reports import write_report_of
from smt_ray.documents.stages import SelectionSummary
from smt_ray.errors import UserError
from smt_ray.run.report import (
    read_contents,
    try_to_write_report,
    write_report,
)
from smt_ray.run.snapshot import read_snapshot
from smt_ray.smt.selection import ModuleSelection, Selection
from smt_ray.tracking.records import encode_record, make_record
from tests.selections import choose_columns

PREDICTION = {
    "index": 0, "prompt": "1 + 1?", "output": "it is 3", "extracted": "3", "expected": "2",
    "correct": False,
}  # fmt: skip
STAGES = ("selection", "training", "evaluation_base", "evaluation_tuned")
MODULE = "model.layers.0.self_attn.q_proj"


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A run whose stages are finished, made by hand."""
    run = RunFolder(Storage(str(tmp_path / "storage")), "mine")
    for place, kind in enumerate(STAGES):
        run.add_stage(kind, f"{kind.partition('_')[0]}-{place}", seconds=1.0, reused=False)
    storage = run.storage
    selection = Selection(
        block_size=4,
        modules={
            MODULE: ModuleSelection(
                (8, 12), torch.tensor([[0, 1], [1, 2]], dtype=torch.int32), torch.tensor([2.0, 1.0])
            )
        },
        num_base_parameters=960, num_requested=2, score="l2", scope="global", margin=0.1,
    )  # fmt: skip
    selection.save(Path(storage.uri("stages/selection-0/selection.safetensors")))
    records = [make_record(step, {"train/loss": 1 / step}) for step in (1, 2)]
    lines = "".join(encode_record(record) + "\n" for record in records)
    storage.write_bytes("stages/training-1/metrics.jsonl", lines.encode())
    for stage, output in (("evaluation-2", "before"), ("evaluation-3", "after\u2028too")):
        line = json.dumps({**PREDICTION, "output": output}, ensure_ascii=False) + "\n"
        storage.write_bytes(f"stages/{stage}/generate/sums.jsonl", line.encode())
    run.update(
        status="FINISHED", started_ms=0, ended_ms=1, config={"method": "smt"},
        tags={"method": "smt", "model": "some/model"}, datasets=[],
    )  # fmt: skip
    storage.write_json(run.path("metrics.json"), {"name": "mine"})
    storage.write_bytes(run.path("config.yaml"), b"name: mine\n")
    return run


def test_the_contents_come_from_the_artifacts(run: RunFolder) -> None:
    contents = read_contents(run)
    (weight,) = contents.weights
    assert (weight.name, weight.shape, weight.block_size) == (MODULE, (8, 12), 4)
    assert dict(zip(weight.blocks, weight.scores, strict=True)) == {(0, 1): 2.0, (1, 2): 1.0}
    assert [record["metrics"]["train/loss"] for record in contents.records] == [1.0, 0.5]
    outputs = {who: found["sums"][0].output for who, found in contents.predictions.items()}
    assert outputs == {"base": "before", "tuned": "after\u2028too"}
    assert contents.config_text == "name: mine\n"
    assert contents.status == "FINISHED"
    assert not contents.missing


def test_columns_are_counted_by_weight(run: RunFolder) -> None:
    linears = nn.ModuleDict({name: nn.Linear(12, 8) for name in ("q_proj", "v_proj")})
    selection = choose_columns(linears, num_parameters=40)
    stage = Stage(run.storage, stages.SELECTION, {})
    run.add_stage("selection", stage.name, seconds=1.0, reused=False)
    selection.save(Path(run.storage.uri(stage.path(SELECTION))))
    summary = SelectionSummary(
        num_blocks=5, block_size=1, block_shape="column", num_trainable=40, num_base=208,
        budget=40 / 208, margin=None, score="random", scope="global", counts=selection.counts(),
        text="5 columns",
    )  # fmt: skip
    stage.publish([SELECTION], summary, 1.0)
    found = {weight.name: weight for weight in read_contents(run).weights}
    assert {name: weight.num_chosen for name, weight in found.items()} == selection.counts()
    assert sum(weight.num_chosen for weight in found.values()) == 5
    assert {weight.num_blocks for weight in found.values()} == {12}
    assert {weight.shape for weight in found.values()} == {(8, 12)}


def test_the_page_is_written_into_the_runs_folder_and_sent_to_the_tracker(run: RunFolder) -> None:
    place = write_report_of(run.storage.root, "mine")
    assert place == run.storage.uri("runs/mine/report.html")
    page = Path(place).read_text(encoding="utf-8")
    assert "2 of 6 blocks" in page
    assert "1 of the tuned model's 1 answers are wrong" in page
    with read_snapshot(run) as snapshot:
        assert (place, None) in snapshot.artifacts


def test_a_missing_artifact_is_named_and_the_rest_is_shown(run: RunFolder) -> None:
    gone = Path(run.storage.uri("stages/training-1/metrics.jsonl"))
    gone.unlink()
    contents = read_contents(run)
    assert contents.missing == [str(gone)]
    assert contents.weights
    assert str(gone) in Path(write_report(run)).read_text()


def test_a_run_that_has_not_ended_has_a_page_of_its_finished_stages(run: RunFolder) -> None:
    Path(run.storage.uri(run.path("metrics.json"))).unlink()
    run.update(status="KILLED")
    page = Path(write_report(run)).read_text()
    assert "This run is not finished: killed" in page
    assert "some/model" in page
    for stage in ("selection", "training", "evaluation of base", "evaluation of tuned"):
        assert f">{stage}<" in page


def test_an_unreadable_artifact_is_an_error_but_fails_no_run(
    run: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    place = Path(run.storage.uri("stages/selection-0/selection.safetensors"))
    place.write_bytes(place.read_bytes()[:20])
    with pytest.raises(UserError, match="whole and unedited block selection"):
        write_report(run)
    try_to_write_report(run)
    said = capsys.readouterr().err
    assert "WARNING report: could not be written" in said
    assert f"smt-ray report mine --storage {run.storage.root}" in said


@pytest.mark.parametrize("method", ["lora", "dora", "full"])
def test_methods_without_a_selection_have_a_page_without_a_map(run: RunFolder, method: str) -> None:
    stages = dict(run.manifest().stages)
    del stages["selection"]
    run.update(stages=stages, tags={"method": method, "model": "some/model"})
    page = Path(write_report(run)).read_text()
    assert 'id="selection"' not in page
    assert 'id="loss"' in page
