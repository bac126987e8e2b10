"""The training and validation rows of a config, read once for all runs that share them."""

from __future__ import annotations

from dataclasses import dataclass

from cachetools import LRUCache, cached

from smt_ray.config.model_and_data import ROW_KEYS, DataConfig
from smt_ray.data.rows import Row
from smt_ray.data.sources import digest_rows, read_training_rows, source_version, split_rows


@dataclass(frozen=True)
class Split:
    """The rows to learn from and the rows that are held out.

    Attributes:
        training: The rows to learn from.
        validation: The held-out rows.
        training_digest: The fingerprint of the training rows.
        validation_digest: The fingerprint of the held-out rows.
    """

    training: list[Row]
    validation: list[Row]
    training_digest: str
    validation_digest: str


def _key(data: DataConfig, seed: int) -> tuple[object, ...]:
    versions = tuple(source_version(source, data.dir) for source in data.train)
    return data.model_dump_json(include=set(ROW_KEYS)), seed, versions


@cached(LRUCache(maxsize=8), key=_key)
def read_split(data: DataConfig, seed: int) -> Split:
    """Reads, draws and fingerprints the rows of a data section.

    A process does this once for the runs that share the rows, until a file changes.

    Args:
        data: The ``data`` section of a config.
        seed: The seed of the draw.

    Raises:
        UserError: A source cannot be read, or no row is left to train on.
    """
    training, validation = split_rows(
        read_training_rows(data.train, data.dir),
        max_rows=data.max_rows,
        validation_rows=data.validation_rows,
        seed=seed,
    )
    return Split(training, validation, digest_rows(training), digest_rows(validation))
