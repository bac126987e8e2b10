"""Claims about docs/peft.md: its code runs as it is written, on the built-in model."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from smt_ray.builtin import MODEL_DIR
from tests.ranks import ROOT, free_port, run_ranks

PAGE = (ROOT / "docs" / "peft.md").read_text(encoding="utf-8")
NAMED = "HuggingFaceTB/SmolLM2-135M-Instruct"
HARNESS = Path(__file__).with_name("accelerate_rank.py")


def code_of(section: str) -> str:
    """The code of a section, for the built-in model and, with TRL's trainers, for the CPU."""
    _, _, text = PAGE.partition(f"\n## {section}\n")
    found = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert found
    assert NAMED in found[1]
    code = found[1].replace(NAMED, str(MODEL_DIR))
    return code.replace('report_to="none"', 'report_to="none", use_cpu=True')


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with rows, pairs and what the first section leaves."""
    folder = tmp_path_factory.mktemp("docs")
    animals = ("the red fox", "a small blue bird", "two green frogs", "one old grey wolf")
    rows = [{"text": f"{animal} sleeps"} for animal in animals * 4]
    pairs = [{"prompt": animal, "chosen": " sleeps", "rejected": " eats"} for animal in animals]
    for name, content in (("rows", rows), ("pairs", pairs)):
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, content)))
    run(folder, "Select blocks, and train them with the Trainer")
    return folder


def run(folder: Path, section: str) -> None:
    """Runs the code of a section in a process of its own, with CPU as the only device."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        exec(compile(code_of(section), section, "exec"), {"__name__": "__main__"})
    finally:
        os.chdir(before)


@pytest.mark.slow
@pytest.mark.parametrize(
    "section",
    [
        "TRL: supervised fine-tuning",
        "TRL: preferences, without a second base model",
        "A quantised base",
        "Load, switch, merge",
    ],
)
def test_a_section_runs_as_it_is_written(folder: Path, section: str) -> None:
    run(folder, section)
    assert (folder / "adapter" / "adapter_model.safetensors").exists()


@pytest.mark.slow
def test_accelerate_runs_on_two_ranks_with_fsdp2(folder: Path) -> None:
    (folder / "accelerate.py").write_text(code_of("accelerate, with FSDP2"))
    for num_ranks in (1, 2):
        port = free_port()
        ranks = [(f"accelerate{num_ranks}", rank, num_ranks, port) for rank in range(num_ranks)]
        run_ranks(HARNESS, folder, ranks)
    one, two = ((folder / f"accelerate{n}.json").read_text() for n in (1, 2))
    assert json.loads(two) == pytest.approx(json.loads(one), rel=1e-4)
