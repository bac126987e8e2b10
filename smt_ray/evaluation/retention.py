"""The rows of ``evaluation.retention``: texts that are not trained on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from smt_ray.config.data import place_of
from smt_ray.config.run import RunConfig
from smt_ray.data.rows import Row
from smt_ray.data.sources import AnySource, Reading, read_sources


def read_retention(config: RunConfig) -> dict[str, list[Row]]:
    """The rows of each source, by a short name of the source.

    Raises:
        UserError: A source cannot be read, or holds a bad row.
    """
    reading = Reading.of(config.data, config.seed, "test")
    return {
        name: read_sources([source], reading, "evaluation.retention").rows
        for name, source in _named(config.evaluation.retention).items()
    }


def _named(sources: Sequence[AnySource]) -> dict[str, AnySource]:
    """The sources by the names of their files or datasets; equal names get numbers."""
    named: dict[str, AnySource] = {}
    for source in sources:
        place = place_of(source).rpartition(":")[2]
        name = base = Path(place).name.partition(".")[0] or "text"
        number = 1
        while name in named:
            number += 1
            name = f"{base}_{number}"
        named[name] = source
    return named
