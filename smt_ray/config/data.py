"""The section of the rows: what they are read from, and how a row becomes tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import field_validator, model_validator

from smt_ray.config.fields import Section, execution, semantic

PromptForm = Literal["auto", "chat", "clean", "legacy", "published"]

FIELDS = (
    "instruction", "input", "output", "answer", "system", "history", "messages", "conversations",
    "tools", "prompt", "completion", "question", "text",
)  # fmt: skip
"""The names of the fields that rows may have."""


class Source(Section):
    """A file, a folder or a dataset of rows, with the settings that it needs."""

    path: str | None = semantic(None)
    """A file, a folder of files, or a pattern such as chats/*.parquet; relative to dir, or else to
    the working directory."""
    hub: str | None = semantic(None)
    """The name of a dataset on the Hugging Face hub, owner/name."""
    config: str | None = semantic(None)
    """The configuration (subset) of a hub dataset."""
    split: str | None = semantic(None)
    """The split of a hub dataset, of a dataset folder, or of a JSON file with one list a split. By
    default, it is train in data.train, validation in data.validation, and else test."""
    revision: str | None = semantic(None)
    """The branch, tag or commit of a hub dataset."""
    columns: dict[str, str] = semantic({})
    """Field -> the name that it has here, such as {instruction: query, output: response}."""
    weight: float = semantic(1.0, gt=0, allow_inf_nan=False)
    """How many times an epoch uses each row: 2 uses each row twice, and 0.5 uses half of the rows,
    drawn by the seed."""
    max_rows: int | None = semantic(None, ge=1)
    """The number of rows of this source to use, drawn by the seed; null for all."""

    @field_validator("columns")
    @classmethod
    def _known_fields(cls, value: dict[str, str]) -> dict[str, str]:
        if unknown := sorted(set(value) - set(FIELDS)):
            raise ValueError(
                f"the keys must be fields of rows ({', '.join(FIELDS)}), not {', '.join(unknown)}"
            )
        names = list(value.values())
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"a name must not stand for two fields, as {', '.join(twice)} does")
        return value

    @model_validator(mode="after")
    def _one_place(self) -> Source:
        if (self.path is None) == (self.hub is None):
            raise ValueError("a source needs exactly one of path and hub")
        if self.path is not None and (self.config or self.revision):
            raise ValueError("config and revision are for hub datasets, not for path")
        return self


def place_of(source: str | Source) -> str:
    """The file, folder, pattern or dataset of a source."""
    return source if isinstance(source, str) else str(source.path or f"hub:{source.hub}")


ROW_KEYS = frozenset(
    {"dir", "train", "validation", "max_rows", "validation_rows", "ignore_columns"}
)
"""The keys of the data section that decide which rows there are, and nothing else."""


class DataConfig(Section):
    """The training and test rows, and how a row becomes tokens."""

    dir: str | None = semantic(None)
    """The folder of the rows, laid out like LLM-Adapters: ft-training_set/*.json and
    dataset/<task>/test.json. With the word hub, test rows come from the original datasets on the
    hub, in the form of LLM-Adapters."""
    train: list[str | Source] = semantic()
    """The sources of training rows. A source is a file (JSON, JSON lines, CSV, parquet or Arrow,
    also compressed), a folder or a pattern such as chats/*.jsonl (relative to dir), builtin:<task>,
    hub:<task> (such as hub:boolq, the original dataset in the form of LLM-Adapters), or a mapping
    with path or hub and settings such as columns."""
    validation: list[str | Source] = semantic([])
    """The sources of the rows for the validation loss, instead of validation_rows. Training rows
    that are identical to one of them are left out of training."""
    max_rows: int | None = semantic(None, ge=1)
    """The number of training rows to use, drawn by the seed; null for all."""
    validation_rows: int | float = semantic(0, ge=0, allow_inf_nan=False)
    """The number of rows that are held out of training for the validation loss, or their share if
    it is below 1. They are drawn by the seed; identical rows stay together."""
    ignore_columns: list[str] = semantic([])
    """The keys of rows and of turns that may be left out. Any other key that no form of rows knows
    is an error."""
    bad_rows: Literal["error", "skip"] = semantic("error")
    """What happens to rows that cannot be used, such as an empty output: an error that names the
    first one, or leaving them out. Their number is reported."""
    prompt: PromptForm = semantic("auto")
    """The form of the prompt, in training and evaluation. chat: the chat template of the tokenizer.
    clean: Alpaca's. legacy: that of LLM-Adapters, with its superfluous spaces. published: that of
    the code of SMT's authors. auto: chat if the tokenizer has a template, and else clean. Messages
    always use the chat template, and prompt with completion is used as it is."""
    chat_template: str | None = semantic(None)
    """A Jinja file, or the name of one of the tokenizer's own templates, to use instead of its chat
    template. The text of a file becomes part of the config."""
    merge_system: bool = semantic(False)
    """Whether a system text is put before the first text of the user, for chat templates that have
    no role of that name."""
    train_on_inputs: bool = semantic(False)
    """Whether prompt tokens are targets of the loss, too."""
    max_length: int = semantic(512, ge=2)
    """The largest number of tokens of a row."""
    overlong: Literal["truncate", "drop"] = semantic("truncate")
    """What happens to longer rows. Their number is reported."""
    num_proc: int | None = execution(None, ge=1)
    """The largest number of processes that tokenise the rows. A process gets at least 16,384 rows,
    so fewer than 32,768 rows are tokenised by the command itself. null: one for each CPU that the
    command may use, and at most 32."""

    @model_validator(mode="after")
    def _some_rows(self) -> DataConfig:
        if not self.train:
            raise ValueError("train must name at least one source")
        if self.validation and self.validation_rows:
            raise ValueError("validation_rows must be 0 if validation names sources")
        if self.max_rows is not None and self.validation_rows >= self.max_rows:
            raise ValueError("validation_rows must be smaller than max_rows")
        return self

    @field_validator("chat_template")
    @classmethod
    def _template_text(cls, value: str | None) -> str | None:
        """The text of a template that is a file, which other machines do not have."""
        if value is None or "{" in value or not (path := Path(value).expanduser()).is_file():
            return value
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"must be a readable Jinja file ({error})") from None

    @field_validator("validation_rows")
    @classmethod
    def _number_or_share(cls, value: float) -> float:
        if value >= 1 and value != int(value):
            raise ValueError("must be a number of rows, or a share below 1")
        return int(value) if value >= 1 or not value else value

    @property
    def has_validation(self) -> bool:
        """Whether rows are held out for the validation loss."""
        return bool(self.validation or self.validation_rows)

    def row_key(self) -> str:
        """What decides which rows there are, as a key for caches."""
        return self.model_dump_json(include={*ROW_KEYS, "bad_rows"})
