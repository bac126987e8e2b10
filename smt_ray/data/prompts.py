"""Rows as prompts: the clean Alpaca form, and the published form with its extra spaces.

LLM-Adapters writes its prompts in an indented triple-quoted string. So its models were trained and
evaluated on text with 16 spaces before most lines, and the two texts differ slightly. ``legacy``
reproduces that to the byte, for comparison with published numbers. ``clean`` has no extra spaces.
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
    """The text before the output of a row.

    Args:
        row: The row; an ``input`` that is not empty has its own section.
        form: The form: ``clean``, or ``legacy`` for the published text.
        purpose: The purpose, which changes the legacy form only.
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
    # Training has one more extra space, and a row with an input has one less.
    strays = " " * (1 + training - bool(row.input))
    head = f"{_TASK}{_PAIRED if row.input else ''}. {_REQUEST}{strays}"
    # The empty lines between the sections are indented in training and empty in evaluation.
    between = _INDENT if training else ""
    lines = [head, "", f"{_INDENT}### Instruction:", f"{_INDENT}{row.instruction}"]
    if row.input:
        lines += [between, f"{_INDENT}### Input:", f"{_INDENT}{row.input}"]
    lines += [between, f"{_INDENT}### Response:"]
    # Both end with a new line and the indentation of the output.
    return "\n".join(lines) + "\n" + _INDENT
