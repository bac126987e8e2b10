"""Rows as text, by one of the prompt forms.

LLM-Adapters writes its prompts in an indented triple-quoted string. So its models were trained and
evaluated on text with 16 spaces before most lines, and the two texts differ slightly. ``legacy``
reproduces that to the byte, and ``published`` the form of the code of SMT's authors, for comparison
with published numbers. ``clean`` is Alpaca's form without extra spaces, and ``chat`` is the chat
template of the tokenizer.
"""

from __future__ import annotations

from typing import Any, Literal

from smt_ray.config.data import DataConfig, PromptForm
from smt_ray.data.chat.template import ChatTemplate
from smt_ray.data.rows import Prompt, Rendered, Row
from smt_ray.errors import UserError

Purpose = Literal["training", "evaluation"]
Form = Literal["chat", "clean", "legacy", "published"]

_TASK = "Below is an instruction that describes a task"
_PAIRED = ", paired with an input that provides further context"
_REQUEST = "Write a response that appropriately completes the request."
_INDENT = " " * 16


class Prompts:
    """How the rows of a run become text, in training and in evaluation.

    Args:
        tokenizer: A transformers tokenizer.
        form: The form of the prompt; see ``data.prompt``.
        chat_template: See :class:`smt_ray.data.chat.template.ChatTemplate`.
        merge_system: See there.

    Attributes:
        form: The form that rows of instruction and output have.
    """

    def __init__(
        self,
        tokenizer: Any,
        form: PromptForm = "auto",
        chat_template: str | None = None,
        *,
        merge_system: bool = False,
    ) -> None:
        self.tokenizer = tokenizer
        self._chat = ChatTemplate(tokenizer, chat_template, merge_system=merge_system)
        preferred: Form = "chat" if self._chat.exists else "clean"
        self.form = preferred if form == "auto" else form

    @classmethod
    def of(cls, tokenizer: Any, data: DataConfig, form: PromptForm | None = None) -> Prompts:
        """The prompts of a config, perhaps in another form, as a task may want."""
        return cls(
            tokenizer, form or data.prompt, data.chat_template, merge_system=data.merge_system
        )

    def render(self, row: Row) -> Rendered:
        """A row as text, with its targets.

        Raises:
            UserError: The form has no place for what the row has.
        """
        if self._is_chat(row):
            return self._chat.render_row(row)
        prompt = self._plain(row, "training")
        text = prompt.text + row.output
        return Rendered(text, ((len(prompt.text), len(text)),), prompt.has_specials)

    def ask(self, row: Row) -> Prompt:
        """The text that asks a row in evaluation, without its output; see :meth:`render`."""
        return self._chat.ask(row) if self._is_chat(row) else self._plain(row, "evaluation")

    def _is_chat(self, row: Row) -> bool:
        return bool(row.messages) or (self.form == "chat" and not row.is_verbatim)

    def _plain(self, row: Row, purpose: Purpose) -> Prompt:
        if not row.is_verbatim:
            return Prompt(build_prompt(row, self.form, purpose))
        bos = self.tokenizer.bos_token
        begins = bool(bos) and (row.instruction or row.output).startswith(bos)
        return Prompt(row.instruction, has_specials=begins)


def build_prompt(row: Row, form: Form = "clean", purpose: Purpose = "training") -> str:
    """The text before the output of a row of instruction and output.

    Args:
        row: The row; an ``input`` that is not empty has its own section.
        form: The form: ``clean``, ``legacy`` or ``published``.
        purpose: The purpose, which changes the published forms only.

    Raises:
        UserError: The form has no place for what the row has.
    """
    if form == "clean":
        return _clean(row)
    _check_published(row, form)
    return _legacy(row, purpose) if form == "legacy" else _published(row, purpose)


def _check_published(row: Row, form: Form) -> None:
    """Refuses what the published prompts have no place for."""
    extra = {"system": row.system, "history": row.history}
    if form == "published":
        extra["input"] = row.input
    if used := [name for name, value in extra.items() if value]:
        raise UserError(
            f"{row.place}, field {used[0]!r}", f"has no place in the prompt form {form}",
            got=extra[used[0]], fix="set data.prompt to clean or chat",
        )  # fmt: skip


def _clean(row: Row) -> str:
    head = f"{_TASK}{_PAIRED if row.input else ''}. {_REQUEST}"
    sections = [row.system or head]
    for instruction, output in row.history:  # earlier outputs are context
        sections += [f"### Instruction:\n{instruction}", f"### Response:\n{output}"]
    sections.append(f"### Instruction:\n{row.instruction}")
    if row.input:
        sections.append(f"### Input:\n{row.input}")
    return "\n\n".join(sections) + "\n\n### Response:\n"


def _published(row: Row, purpose: Purpose) -> str:
    """The form of the DeepSpeed port of SMT's authors, whose tokenizer adds a second BOS."""
    strays = "  " if purpose == "training" else " "
    head = f"<s> {_TASK}. {_REQUEST}{strays}"
    return f"{head}\n\n### Instruction:\n{row.instruction}\n\n### Response:\n"


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
