"""``smt-ray init``: a commented configuration for a model and rows, to begin with."""

from __future__ import annotations

import json
import math
import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from smt_ray.builtin import BUILTIN
from smt_ray.errors import UserError

if TYPE_CHECKING:
    from smt_ray.config.run import RunConfig

_HUB_DATASET = re.compile(r"\w[\w.-]*/[\w-]+")  # a dot would begin the ending of a file
_BATCH_SIZE, _NUM_EPOCHS, _EVERY, _MOST_HELD_OUT = 16, 3, 100, 100
_HEAD = """\
# smt-ray run {file}
# Keys that are marked with (!) decide what a run learns: look at these first. Every other key has a
# default: `smt-ray config {file}` prints all of them, `smt-ray config --schema` explains each.
# `smt-ray preview {file}` shows the rows as the model sees them, and
# `smt-ray run {file} --dry-run` checks everything and plans the memory.
"""
_SECTIONS = {
    "model": """\
model:
{model}
  dtype: {dtype} # bfloat16 for GPUs, float32 for CPUs; it changes results
  # quantization: nf4 # keeps the frozen base model in 4 bits
""",
    "data": """\
data:
  train: {train} # (!) files, folders, patterns or {{hub: owner/name}}
  validation_rows: {validation_rows} # (!) rows, or a share below 1, that are held out for the loss
  max_length: 1024 # (!) tokens; longer rows are truncated, and their number is reported
  # ignore_columns: [id] # keys of rows to leave out; any other unknown key is an error
  # prompt: auto # the chat template of the tokenizer, or Alpaca's form if it has none
""",
    "method": """\
method: {method} # smt, lora, dora, sift or full
""",
    "warmup": """\
warmup:
  num_steps: 100 # batches whose gradients choose what is trained; the paper's number
""",
    "selection": """\
selection:
  budget: 0.0084 # (!) trained parameters over the base model's; the paper's number
""",
    "sift": """\
sift:
  budget: 0.0084 # (!) trained elements over the base model's parameters
""",
    "lora": """\
lora:
  rank: 32 # (!) or budget: trained parameters over the base model's
""",
    "training": """\
training:
  num_epochs: {num_epochs} # (!) passes over the rows; or max_steps
  batch_size: {batch_size} # rows of a step, over all GPUs
  learning_rate: 1e-4 # (!) the best one depends on model and method: smt-ray tune searches it
  lr_warmup_steps: {lr_warmup_steps}
  validate_every_steps: {validate_every_steps}
  checkpoint_every_steps: {checkpoint_every_steps} # an interrupted run resumes from the latest one
""",
    "resources": """\
resources:
  num_workers: 1 # GPUs; it changes no result
""",
    "evaluation": """\
evaluation:
  tasks: [] # (!) published tasks, or test questions of your own: {{name, rows, answer}}
""",
}


@dataclass(frozen=True)
class Starter:
    """A configuration to begin with.

    Attributes:
        text: The YAML file.
        found: What was found about the model and the rows, in words.
        problem: Why the rows cannot be used as they are; "" if they can.
    """

    text: str
    found: str
    problem: str = ""


def init(
    model: Annotated[
        str, typer.Option(help="A model's folder, a GGUF file, a hub name, or builtin:tiny.")
    ],
    data: Annotated[
        list[str],
        typer.Option(help="A file or folder of rows, or owner/name on the hub; may be repeated."),
    ],
    config: Annotated[Path, typer.Argument(metavar="[CONFIG]", help="The new YAML file.")] = Path(
        "run.yaml"
    ),
    method: Annotated[str, typer.Option(help="smt, lora, dora, sift or full.")] = "smt",
) -> None:
    """Write a commented configuration for a model and rows of your own."""
    if config.exists():
        raise _exists(config)
    starter = make_starter(str(config), model, data, method)
    try:
        with config.open("x", encoding="utf-8") as file:
            file.write(starter.text)
    except FileExistsError:
        raise _exists(config) from None
    except OSError as error:
        raise UserError("CONFIG", f"must be writable ({error.strerror})", got=str(config)) from None
    if starter.problem:
        print(f"warning: the rows cannot be used as they are: {starter.problem}", file=sys.stderr)
    print(f"wrote {config} for {starter.found}; next:")
    quoted = shlex.quote(str(config))
    print(f"  smt-ray preview {quoted}")
    print(f"  smt-ray run {quoted} --dry-run")


def _exists(config: Path) -> UserError:
    return UserError(
        "CONFIG", "must not exist yet", got=str(config), fix="choose another name, or delete it"
    )


def make_starter(file: str, model: str, data: Sequence[str], method: str) -> Starter:
    """Makes the configuration, and checks that it loads.

    Raises:
        UserError: The model or the rows do not exist, or there is no such method.
    """
    from smt_ray.config.load import parse_values, validate_config
    from smt_ray.models.named import model_keys

    where, sources = model_keys(model), [_source(place) for place in data]
    config = validate_config(
        {"name": "starter", "method": method, "model": where, "data": {"train": sources}}
    )
    num_rows, problem = _count_rows(config)
    values = {
        "file": shlex.quote(file),
        "model": "\n".join(f"  {key}: {_yaml(value)} # (!)" for key, value in where.items()),
        "dtype": "float32" if "builtin" in where else "bfloat16",
        "train": _yaml(sources),
        "method": method,
        **_lengths(num_rows),
    }
    sections = {k: t for k, t in _SECTIONS.items() if k not in config.idle_sections}
    text = "".join([_HEAD, *sections.values()]).format(**values)
    validate_config({**parse_values(text, file), "name": "starter"})
    rows = "rows that were not read" if num_rows is None else f"{num_rows:,} rows"
    is_here = "builtin" in where or Path(where["path"]).expanduser().is_dir()
    place = "" if is_here else ", which was not looked up"
    return Starter(text, f"model {model}{place}, and {rows}", problem)


def _source(place: str) -> Any:
    """A source of rows as the data section writes it."""
    path = Path(place).expanduser()
    if path.exists() or place.startswith((BUILTIN, "hub:")) or any(m in place for m in "*?["):
        return place
    if _HUB_DATASET.fullmatch(place):
        return {"hub": place}
    raise UserError(
        "--data", "must be a file, a folder or a pattern that exists, or owner/name on the hub",
        got=place, fix="check the path",
    )  # fmt: skip


def _count_rows(config: RunConfig) -> tuple[int | None, str]:
    """The number of rows, and why they cannot be used; rows on the hub are not read."""
    from smt_ray.data.splits import read_split

    if any(not isinstance(s, str) or s.startswith("hub:") for s in config.data.train):
        return None, ""
    try:
        return len(read_split(config.data, config.seed).training), ""
    except UserError as error:
        return None, str(error)


def _lengths(num_rows: int | None) -> dict[str, Any]:
    """The numbers that depend on the number of rows."""
    if num_rows is None:
        held_out: float | int = 0.05
        num_steps = 10 * _EVERY
    else:
        held_out = min(_MOST_HELD_OUT, num_rows // 10)
        num_steps = _NUM_EPOCHS * math.ceil((num_rows - held_out) / _BATCH_SIZE)
    every = max(1, min(_EVERY, num_steps // 5))
    return {
        "validation_rows": held_out,
        "num_epochs": _NUM_EPOCHS,
        "batch_size": _BATCH_SIZE,
        "lr_warmup_steps": min(_EVERY, num_steps // 10),
        "validate_every_steps": every if held_out else "null",
        "checkpoint_every_steps": every,
    }


def _yaml(value: Any) -> str:
    """A value on one line; JSON is YAML."""
    return json.dumps(value, ensure_ascii=False)
