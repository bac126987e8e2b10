"""Rows as prompts: the clean Alpaca form, and the published one with its stray spaces.

LLM-Adapters builds its prompts in an indented triple-quoted string, so that its models were trained
and evaluated on text with 16 spaces before most lines, and not quite the same text in both.
``legacy`` reproduces that to the byte, for comparison with published numbers; ``clean`` is what was
meant.
"""

from __future__ import annotations

from typing import Literal

from smt_ray.data.rows import Row

PromptForm = Literal["clean", "legacy"]
Purpose = Literal["training", "evaluation"]

_TASK = "Below is an instruction that describes a task"
_PAIRED = ", paired with an input that provides further context"
_REQUEST = "Write a response that appropriately completes the request."
_INDENT = " " * 16


def build_prompt(row: Row, form: PromptForm = "clean", purpose: Purpose = "training") -> str:
    """The text that the row's output completes.

    Args:
        row: The example; a non-empty ``input`` gets a section of its own.
        form: ``clean`` or ``legacy`` (the published text, to the byte).
        purpose: The legacy form differs between training and evaluation; the clean form does not.
    """
    if form == "clean":
        return _clean(row)
    return _legacy(row, purpose)


def _clean(row: Row) -> str:
    head = f"{_TASK}{_PAIRED if row.input else ''}. {_REQUEST}"
    sections = [head, f"### Instruction:\n{row.instruction}"]
    if row.input:
        sections.append(f"### Input:\n{row.input}")
    return "\n\n".join(sections) + "\n\n### Response:\n"


def _legacy(row: Row, purpose: Purpose) -> str:
    training = purpose == "training"
    # One stray space more in training, and one less where the row has an input.
    strays = " " * (1 + training - bool(row.input))
    head = f"{_TASK}{_PAIRED if row.input else ''}. {_REQUEST}{strays}"
    # The empty lines between the sections are indented in training and empty in evaluation.
    between = _INDENT if training else ""
    lines = [head, "", f"{_INDENT}### Instruction:", f"{_INDENT}{row.instruction}"]
    if row.input:
        lines += [between, f"{_INDENT}### Input:", f"{_INDENT}{row.input}"]
    lines += [between, f"{_INDENT}### Response:"]
    # Both forms end with a new line and the indentation of the line that the output stands on.
    return "\n".join(lines) + "\n" + _INDENT
