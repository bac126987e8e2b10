"""YAML texts as plain values, whatever the text is: bounded in size, depth and numbers.

PyYAML alone would read 1e-4 as a string, keep the last value of a repeated key, let a value contain
itself, and end in a RecursionError on deeply nested values.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import yaml

MAX_DEPTH = 50
"""The most levels of mappings and lists in each other."""
_MOST_VALUES = 1_000_000  # with each alias counted as a copy, as it is one after validation
_TOO_DEEP = f"mappings and lists must be nested at most {MAX_DEPTH} deep"


def parse_yaml(text: str) -> Any:
    """The value of a YAML text.

    Raises:
        ValueError: It is not YAML, a mapping has a key twice or a key that is a list or a mapping,
            a value contains itself, a number has too many digits, or there are too many values.
    """
    try:
        value = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from None  # on one line
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    _measure(value, 0, {})
    return value


def _measure(value: Any, depth: int, sizes: dict[int, tuple[int, int]]) -> tuple[int, int]:
    """The number of values in a value and their levels; each list and mapping is visited once.

    Args:
        depth: The number of lists and mappings around it.
        sizes: What is known of each list and mapping, by its id.
    """
    if depth > MAX_DEPTH:  # so it is if a value contains itself
        raise ValueError(_TOO_DEEP)
    if not isinstance(value, dict | list | set | tuple):
        return 1, 0
    if id(value) not in sizes:
        children: Iterable[Any] = value.values() if isinstance(value, dict) else value
        found = [_measure(child, depth + 1, sizes) for child in children]
        size = 1 + sum(size for size, _ in found)
        if size > _MOST_VALUES:
            raise ValueError(f"there must be at most {_MOST_VALUES:,} values")
        sizes[id(value)] = size, 1 + max((levels for _, levels in found), default=0)
    size, levels = sizes[id(value)]
    if depth + levels > MAX_DEPTH:
        raise ValueError(_TOO_DEEP)
    return size, levels


class _Loader(yaml.SafeLoader):
    """Reads YAML 1.2's floats, and refuses keys that are repeated or are no plain values."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Reads a mapping, whose keys must be unique."""
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _error("a key must be a plain value, not a list or a mapping", key)
            if key.value in seen:
                raise _error(f"the key {key.value} is repeated", key)
            seen.add(key.value)
        return super().construct_mapping(node, deep)

    def construct_number(self, node: yaml.ScalarNode) -> Any:
        """Reads an integer; Python converts at most 4,300 digits."""
        try:
            return self.construct_yaml_int(node)
        except ValueError as error:
            raise _error(str(error).partition(";")[0], node) from None


def _error(problem: str, node: yaml.Node) -> yaml.YAMLError:
    return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_number)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+0123456789."),
)
