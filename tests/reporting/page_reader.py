"""Reads a page as a browser does, and makes predictions for it."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any

from smt_ray.documents.prediction import Prediction

NASTY = "</pre><script>alert(1)</script><img src=https://evil.test/x onerror=alert(1)>&amp;\"'"
"""Text that would run a script if a page did not escape it."""

VOID = {"meta", "link", "br", "hr", "img", "input"}


@dataclass
class Page:
    """The contents of a page.

    Attributes:
        tags: Tag -> the number of its elements.
        attributes: (tag, name, value) of all attributes.
        text: The whole text, in one line.
        sections: Anchor of a section -> its text.
    """

    tags: Counter[str] = field(default_factory=Counter)
    attributes: list[tuple[str, str, str]] = field(default_factory=list)
    text: str = ""
    sections: dict[str, str] = field(default_factory=dict)

    def values(self, name: str) -> list[str]:
        """All values of an attribute."""
        return [value for _, own, value in self.attributes if own == name]


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.page, self.open = Page(), []
        self.section = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.page.tags[tag] += 1
        self.page.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag == "section":
            self.section = dict(attrs)["id"] or ""
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes something else"
        if tag == "section":
            self.section = ""

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            words = re.sub(r"\s+", " ", data)
            self.page.text += words
            if self.section:
                self.page.sections[self.section] = self.page.sections.get(self.section, "") + words


def read_page(html: str) -> Page:
    """Reads a page, whose elements must be closed in the right order."""
    reader = _Reader()
    reader.feed(html)
    reader.close()
    assert not reader.open, f"never closed: {reader.open}"
    return reader.page


def leaks(html: str) -> list[str]:
    """Everything that a browser would fetch or run; links do not count."""
    page = read_page(html)
    fetched = [
        value
        for tag, name, value in page.attributes
        if name in ("src", "srcset", "data", "poster", "action", "href", "xlink:href")
        and tag != "a"
        and not value.startswith("#")
    ]
    return fetched + re.findall(r"@import[^;]+|url\((?!#)[^)]*\)|javascript:", html)


def prediction(index: int, correct: bool, **changes: Any) -> Prediction:
    """The prediction for one test row."""
    values = {
        "index": index,
        "prompt": f"Below is an instruction.\n\nHow much is {index} + 1?\n\n### Response:\n",
        "output": f"the correct answer is {index + 1 if correct else 'blue'}",
        "extracted": str(index + 1) if correct else "blue",
        "expected": str(index + 1),
        "correct": correct,
    }
    return Prediction.model_validate({**values, **changes})
