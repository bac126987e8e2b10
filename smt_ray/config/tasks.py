"""The section of a test task of the user's own."""

from __future__ import annotations

import re
import unicodedata
from typing import Literal

from pydantic import field_validator, model_validator

from smt_ray.config.data import PromptForm, Source
from smt_ray.config.fields import Section, check_file_name, semantic


class OwnTask(Section):
    """A test task with rows of one's own."""

    name: str = semantic()
    """The name in tables, which no published task has."""
    rows: str | Source = semantic()
    """The source of the test rows, in any form that training rows may have. Conversations are asked
    all turns but the last."""
    answer: Literal["labels", "number", "exact", "contains", "regex"] = semantic()
    """How an answer is read from a generated text, and when it is right. labels: the first of the
    labels that it names, whole words in any case. number: its last number, to 0.001. exact: the
    whole text, without spaces around it. contains: whether it contains the expected answer, in any
    case. regex: the last match of the pattern."""
    labels: list[str] = semantic([])
    """The possible answers, with answer: labels."""
    pattern: str | None = semantic(None)
    """The regular expression, with answer: regex; its first group is the answer, or the whole
    match. It is applied to the expected answer, too, if it matches it."""
    prompt: PromptForm | None = semantic(None)
    """The form of the prompt; null for the form that training uses."""
    max_new_tokens: int | None = semantic(None, ge=1)
    """The largest number of tokens to generate; null for 32 with labels, and else 256."""

    @field_validator("name")
    @classmethod
    def _a_file_name(cls, value: str) -> str:
        return check_file_name(value, "files")

    @field_validator("pattern")
    @classmethod
    def _a_pattern(cls, value: str | None) -> str | None:
        try:
            pattern = re.compile(value or "")
        except (re.error, OverflowError, RecursionError) as error:
            raise ValueError(f"must be a regular expression ({error})") from None
        if value and pattern.fullmatch(""):
            raise ValueError("must not match an empty text, which is no answer")
        return value

    @field_validator("labels")
    @classmethod
    def _normal_labels(cls, value: list[str]) -> list[str]:
        """The labels without spaces around them, in Unicode's composed form."""
        return [unicodedata.normalize("NFC", label).strip() for label in value]

    @model_validator(mode="after")
    def _what_the_answer_needs(self) -> OwnTask:
        if (self.answer == "labels") != bool(self.labels):
            raise ValueError("labels are needed with answer: labels, and have no effect otherwise")
        if (self.answer == "regex") != bool(self.pattern):
            raise ValueError("pattern is needed with answer: regex, and has no effect otherwise")
        if len({label.casefold() for label in self.labels}) < len(self.labels):
            raise ValueError("labels must differ in more than case")
        if not all(self.labels):
            raise ValueError("labels must not be empty")
        return self
