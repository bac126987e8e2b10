"""``smt-ray chat``: questions to a base model and to its tuned model."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated

import typer

from smt_ray.cli.arguments import DEFAULT_STORAGE, StorageOption, announced_imports
from smt_ray.cli.completion import complete_runs
from smt_ray.errors import UserError

if TYPE_CHECKING:
    from smt_ray.run.chat import Answer, Chat

_EXIT, _NEW = "exit", "/new"


RunOption = Annotated[
    str | None,
    typer.Option("--run", help="The run whose models are asked.", autocompletion=complete_runs),
]
ModelOption = Annotated[
    str | None,
    typer.Option(help="A model folder, GGUF file or hub name, instead of a run."),
]
AdapterOption = Annotated[str | None, typer.Option(help="The folder of an adapter for --model.")]
MaxOption = Annotated[int, typer.Option(min=1, help="The largest number of tokens of an answer.")]
TemperatureOption = Annotated[
    float, typer.Option(min=0, help="0 takes the most likely token; above 0, tokens are drawn.")
]
HistoryOption = Annotated[
    bool, typer.Option(help="Whether earlier questions and answers are asked along.")
]
VerbatimOption = Annotated[
    bool, typer.Option("--verbatim", help="Take each question as the very prompt.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print a JSON object for each question.")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A config override.")
]


def chat(
    run: RunOption = None,
    model: ModelOption = None,
    adapter: AdapterOption = None,
    max_new_tokens: MaxOption = 256,
    temperature: TemperatureOption = 0.0,
    system: Annotated[str, typer.Option(help="A text for the system.")] = "",
    history: HistoryOption = True,
    verbatim: VerbatimOption = False,
    json_: JsonOption = False,
    storage: StorageOption = DEFAULT_STORAGE,
    set_: SetOption = None,
) -> None:
    """Talk to a run's base and tuned model side by side, in the form that the run trained on.

    Questions may come from a pipe, one a line. exit ends the chat, and /new begins a new one.
    """
    if (run is None) == (model is None):
        raise UserError("chat", "needs exactly one of --run and --model")
    if run is not None and adapter is not None:
        raise UserError("--adapter", "needs --model; a run has its own adapter", got=adapter)
    if verbatim and system:
        raise UserError("--system", "has no place in a verbatim prompt", got=system)
    with announced_imports(f"chat with {run or model}"):
        from smt_ray.run.chat import ChatSettings, chat_with_model, chat_with_run

    settings = ChatSettings(
        max_new_tokens, temperature, system=system, keeps_history=history, is_verbatim=verbatim
    )
    if run is not None:
        opened = chat_with_run(storage, run, set_ or [], settings)
    else:
        assert model is not None
        opened = chat_with_model(model, adapter, set_ or [], settings)
    _describe(opened)
    _converse(opened, as_json=json_)


def _describe(opened: Chat) -> None:
    settings = opened.settings
    names = " and ".join(speaker.name for speaker in opened.speakers)
    kept = "earlier turns are asked along" if settings.keeps_history else "no history"
    decoding = f"temperature {settings.temperature:g}" if settings.temperature else "greedy"
    if settings.repetition_penalty != 1:
        decoding += f", repetition penalty {settings.repetition_penalty:g}"
    print(
        f"{names}; prompt form {opened.form}, {kept}, {decoding}, at most"
        f" {settings.max_new_tokens} new tokens; {_EXIT} ends, {_NEW} begins anew",
        file=sys.stderr,
    )


def _converse(opened: Chat, *, as_json: bool) -> None:
    from smt_ray.reporting.text.commands.chat import print_answers

    is_typed = sys.stdin.isatty()
    for question in _questions(is_typed):
        if question == _NEW:
            opened.forget()
            continue
        try:
            answers = opened.ask(question)
        except UserError as error:
            if not is_typed:
                raise
            print(f"error: {error}", file=sys.stderr)
            continue
        if as_json:
            texts = {answer.model: answer.text for answer in answers}
            print(json.dumps({"question": question, **texts}), flush=True)
        else:
            print_answers(question, [(a.model, a.text, _note(a)) for a in answers])


def _questions(is_typed: bool) -> Iterator[str]:
    """The lines of the input up to exit; empty ones are left out."""
    if is_typed:
        with suppress(ImportError):  # it lets input() edit lines
            import readline  # noqa: F401
    while True:
        try:
            line = input("> ") if is_typed else next(sys.stdin)
            line.encode()  # in some locales, bytes that are no text become surrogates
        except (EOFError, StopIteration):
            return
        except (UnicodeDecodeError, UnicodeEncodeError) as error:
            raise UserError("the question", f"must be UTF-8 text ({error.reason})") from None
        if line.strip() == _EXIT:
            return
        if line.strip():
            yield line.strip()


def _note(answer: Answer) -> str:
    """What the user must know about an answer."""
    notes = []
    if answer.cut_at is not None:
        notes.append(f"cut at {answer.cut_at} tokens")
    if answer.num_forgotten:
        notes.append(f"without the first of its turns ({answer.num_forgotten}), which did not fit")
    return "; ".join(notes)
