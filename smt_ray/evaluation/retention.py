"""The rows of ``evaluation.retention``: texts that are not trained on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cachetools import LRUCache, cached

from smt_ray.config.data import place_of
from smt_ray.config.run import RunConfig
from smt_ray.data.rows import Row
from smt_ray.data.sources import AnySource, Reading, read_sources, source_version
from smt_ray.reporting.text.progress import say


def _key(config: RunConfig) -> tuple[object, ...]:
    sources = config.evaluation.retention
    versions = tuple(source_version(source, config.data.dir) for source in sources)
    return str(sources), Reading.of(config.data, config.seed, "test"), versions


@cached(LRUCache(maxsize=8), key=_key)
def read_retention(config: RunConfig) -> dict[str, list[Row]]:
    """The rows of each source, by a short name of the source; read once for equal configs.

    Raises:
        UserError: A source cannot be read, or holds a bad row.
    """
    reading = Reading.of(config.data, config.seed, "test")
    rows = {}
    for name, source in _named(config.evaluation.retention).items():
        found = read_sources([source], reading, "evaluation.retention")
        if found.num_bad:
            number = found.num_bad
            say(f"warning: {number:,} rows of {name} cannot be read, such as {found.first_bad}")
        rows[name] = list(found.rows)
    return rows


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
