"""``smt-ray chat``: the answers of a base model and of its tuned model, side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from smt_ray.artifacts.runs import RunFolder
from smt_ray.artifacts.storage import Storage, local_copy
from smt_ray.config.load import apply_overrides, validate_config
from smt_ray.config.model import ModelConfig
from smt_ray.config.run import RunConfig
from smt_ray.data.encoding.ids import encode_prompt
from smt_ray.data.prompts import Prompts
from smt_ray.data.rows import Prompt, Row
from smt_ray.errors import UserError
from smt_ray.evaluation.batches import Padding
from smt_ray.evaluation.generate import generate_texts
from smt_ray.methods.adapters import find_method
from smt_ray.models.inspect import token_limits
from smt_ray.models.load import import_transformers, load_model, load_tokenizer
from smt_ray.models.named import model_keys
from smt_ray.models.place import located
from smt_ray.models.quiet import quiet
from smt_ray.run.export.merge import read_prompt, starting_model, trained_adapter

_NO_PADDING = Padding(left=False, inside=False, right=False)  # single prompts need none
_WITH_HISTORY = ("chat", "clean")
"""The prompt forms that have a place for earlier questions and answers."""

Turn = tuple[str, str]
"""A question and its answer."""


@dataclass(frozen=True)
class ChatSettings:
    """How questions are asked and answered.

    Attributes:
        max_new_tokens: The largest number of tokens of an answer.
        temperature: See :func:`smt_ray.evaluation.generate.generate_texts`; 0 is greedy.
        repetition_penalty: See there; the run's own is used.
        system: A text for the system, or "".
        keeps_history: Whether earlier turns are asked along, if the prompt form has a place.
        is_verbatim: Whether the question is the very prompt, without any prompt form.
    """

    max_new_tokens: int = 256
    temperature: float = 0.0
    repetition_penalty: float = 1.0
    system: str = ""
    keeps_history: bool = True
    is_verbatim: bool = False


@dataclass(frozen=True)
class Answer:
    """The answer of one model.

    Attributes:
        model: The name of the model: base, tuned or model.
        cut_at: The number of tokens at which it was cut; None for an answer that has ended.
        num_forgotten: The number of earlier turns that no longer fit the model's positions.
    """

    model: str
    text: str
    cut_at: int | None = None
    num_forgotten: int = 0


class Speaker:
    """One model with its own conversation."""

    def __init__(self, name: str, model: Any, prompts: Prompts, settings: ChatSettings) -> None:
        self.name, self._model, self._prompts = name, model, prompts
        self._settings = settings
        self._positions = token_limits(model)[1]
        self._history: list[Turn] = []

    def answer(self, question: str) -> Answer:
        """Answers a question after the earlier turns.

        Raises:
            UserError: The question alone does not fit the model, or the prompt form has no place
                for it.
        """
        prompt, num_tokens, num_forgotten = self._prompt(question)
        limit = self._settings.max_new_tokens
        if self._positions is not None:
            limit = min(limit, self._positions - num_tokens)
        (found,) = generate_texts(
            self._model,
            self._prompts.tokenizer,
            [prompt],
            max_new_tokens=max(limit, 1),  # a question that is too long is refused there
            repetition_penalty=self._settings.repetition_penalty,
            temperature=self._settings.temperature,
            padding=_NO_PADDING,
            names=["the question"],
        )
        self._history.append((question, found.text))
        cut_at = limit if found.num_new_tokens >= limit else None
        return Answer(self.name, found.text, cut_at, num_forgotten)

    def forget(self) -> None:
        """Begins a new conversation."""
        self._history.clear()

    def _prompt(self, question: str) -> tuple[Prompt, int, int]:
        """The prompt, its tokens, and how many earlier turns were left out to make room."""
        history = self._history if self._settings.keeps_history else []
        most = math.inf if self._positions is None else self._positions
        # Turns are left out for a short answer's room, not for the longest answer's.
        room = min(self._settings.max_new_tokens, most // 4)
        for num_forgotten in range(len(history) + 1):
            prompt = self._ask(question, history[num_forgotten:])
            num_tokens = len(encode_prompt(self._prompts.tokenizer, prompt))
            if num_tokens + room <= most:
                break
        return prompt, num_tokens, num_forgotten

    def _ask(self, question: str, history: Sequence[Turn]) -> Prompt:
        settings = self._settings
        row = Row(
            instruction=question, output="", history=tuple(history), system=settings.system,
            is_verbatim=settings.is_verbatim, place="the question",
        )  # fmt: skip
        return self._prompts.ask(row)


@dataclass(frozen=True)
class Chat:
    """A conversation with one or two models.

    Attributes:
        form: The form of the prompts.
        settings: The settings that are used; they differ from the given ones where the prompt form
            has no place for history, and by the repetition penalty of the run.
    """

    speakers: tuple[Speaker, ...]
    form: str
    settings: ChatSettings

    def ask(self, question: str) -> list[Answer]:
        """The answer of each model; see :meth:`Speaker.answer`."""
        return [speaker.answer(question) for speaker in self.speakers]

    def forget(self) -> None:
        """Begins a new conversation."""
        for speaker in self.speakers:
            speaker.forget()


def chat_with_run(
    storage_root: str, name: str, overrides: Sequence[str], settings: ChatSettings
) -> Chat:
    """A chat with the base and the tuned model of a run. Both are in memory.

    Args:
        overrides: The ``key=value`` items for the run's config.

    Raises:
        UserError: There is no such run, it was not trained, or its adapter is damaged.
    """
    run = RunFolder.open(Storage(storage_root), name)
    adapter = run.storage.uri(trained_adapter(run))
    values = {**run.manifest().config, "storage": storage_root}
    config = validate_config(apply_overrides(values, overrides))
    base = tuned = located(config.model)
    if config.trained_warmup:  # the adapter belongs to the weights that the warm-up kept
        tuned = base.replaced_by(str(starting_model(run).path))
    return _open(config, base, (tuned, adapter), settings)


def chat_with_model(
    model: str, adapter: str | None, overrides: Sequence[str], settings: ChatSettings
) -> Chat:
    """A chat with a model and, if an adapter is given, with the tuned model beside it.

    Args:
        model: See :func:`smt_ray.models.named.model_keys`.
        adapter: The folder of an adapter.
        overrides: The ``key=value`` items for the config, such as ``model.dtype=bfloat16``.

    Raises:
        UserError: The model or the adapter cannot be found, or they do not fit together.
    """
    if adapter is not None and not Path(adapter).is_dir():
        raise UserError("--adapter", "must be an adapter's folder", got=adapter)
    prompt = (adapter and read_prompt(adapter)) or read_prompt(model)
    values: dict[str, Any] = {
        "name": "chat",
        "model": model_keys(model),
        "data": {"train": ["none"], **(prompt.to_json() if prompt else {})},
    }
    config = validate_config(apply_overrides(values, overrides))
    where = located(config.model)
    return _open(config, where, None if adapter is None else (where, adapter), settings)


def _open(
    config: RunConfig,
    base: ModelConfig,
    tuned: tuple[ModelConfig, str] | None,
    settings: ChatSettings,
) -> Chat:
    import_transformers()
    _quieten()
    prompts = Prompts.of(load_tokenizer(base), config.data)
    has_gpu = config.resources.use_gpu is not False and torch.cuda.is_available()
    device = "cuda" if has_gpu else "cpu"
    with quiet():
        models = {"base" if tuned else "model": load_model(base, device)}
        if tuned is not None:
            spec, adapter = tuned
            models["tuned"] = load_model(spec, device)
            with local_copy(adapter) as folder:
                find_method(folder).load(models["tuned"], folder)
    form = "verbatim" if settings.is_verbatim else prompts.form
    keeps = settings.keeps_history and form in _WITH_HISTORY
    penalty = config.evaluation.repetition_penalty
    own = replace(settings, keeps_history=keeps, repetition_penalty=penalty)
    speakers = tuple(Speaker(name, model, prompts, own) for name, model in models.items())
    return Chat(speakers, form, own)


def _quieten() -> None:
    """Keeps warnings of transformers out of the conversation.

    It warns of questions that are longer than the model's positions, which are refused anyway.
    """
    from transformers.utils import logging

    logging.set_verbosity_error()
