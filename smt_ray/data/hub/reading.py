"""Records from the Hugging Face hub: those of any dataset, and the rows of published tasks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from smt_ray.config.data import Source
from smt_ray.data.arrow import without_nulls
from smt_ray.data.hub.tasks import HUB_TASKS, Fields, RowMaker
from smt_ray.errors import UserError

_FIXES = {
    "data.train": "name files of LLM-Adapters, or {hub: owner/name} for a dataset of rows",
    "data.dir": "set data.dir to a clone of LLM-Adapters",
}


def read_hub_records(source: Source, split: str, field: str) -> Iterator[Any]:
    """The records of a dataset, which is mapped into memory.

    Args:
        source: The source, with the name of the dataset.
        split: The split.
        field: The config key that holds the source.

    Raises:
        UserError: The dataset cannot be loaded.
    """
    name = str(source.hub)
    try:
        records = _load(name, source.config, split, source.revision)
    except Exception as error:
        raise _not_loaded(field, name, error) from error
    return map(without_nulls, records)


def read_hub_task(name: str, *, training: bool) -> list[tuple[str, Iterator[Fields]]]:
    """The rows of a published task, from its original dataset.

    Args:
        name: The name of the task.
        training: Whether the training rows are read; otherwise the test rows.

    Returns:
        The name and the records of each split that the task consists of.

    Raises:
        UserError: There is no such dataset, it cannot be loaded, or its records do not have the
            form that :mod:`smt_ray.data.hub.tasks` expects.
    """
    field = "data.train" if training else "data.dir"
    fix = _FIXES[field]
    known = [key for key, task in HUB_TASKS.items() if task.train or not training]
    if name not in known:
        kind = "training" if training else "test"
        rule = f"{kind} rows from the hub are those of {', '.join(known)}"
        raise UserError(field, rule, got=name, fix=fix)
    task = HUB_TASKS[name]
    make = task.row if training else task.test_row
    found = []
    for config, split in task.train if training else task.test:
        try:
            records = _load(task.dataset, config, split, task.revision)
        except Exception as error:
            raise _not_loaded(field, task.dataset, error, fix) from error
        label = f"hub:{task.dataset}, {config or 'default'}/{split}"
        found.append((label, _fields(records, make, label, fix)))
    return found


def _load(name: str, config: str | None, split: str, revision: str | None) -> Iterable[Any]:
    import datasets

    found: Iterable[Any] = datasets.load_dataset(name, config, split=split, revision=revision)
    return found


def _not_loaded(field: str, name: str, error: Exception, fix: str = "") -> UserError:
    """The error for a dataset; the library has many errors, all about what the user asked for."""
    reason = str(error).strip().split("\n")[0]
    fix = fix or "check its name, config, split and revision, and the connection"
    return UserError(field, f"the hub dataset cannot be loaded ({reason})", got=name, fix=fix)


def _fields(records: Iterable[Any], make: RowMaker, source: str, fix: str) -> Iterator[Fields]:
    for index, record in enumerate(records):
        try:
            yield make(record)
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise UserError(
                f"{source}, row {index}",
                f"must have the form that this dataset had ({type(error).__name__}: {error})",
                got=sorted(record),
                fix=fix,
            ) from error
