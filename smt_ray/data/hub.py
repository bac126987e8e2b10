"""Rows from the Hugging Face hub: datasets with LLM-Adapters' fields, and published tasks."""

from __future__ import annotations

from typing import Any

from smt_ray.config.model_and_data import HubSource
from smt_ray.data.hub_tasks import HUB_TASKS, Fields, RowMaker
from smt_ray.data.rows import Row, parse_rows
from smt_ray.errors import UserError

_FIXES = {
    "data.train": "name files of LLM-Adapters, or {hub: owner/name} for a dataset with its fields",
    "data.dir": "set data.dir to a clone of LLM-Adapters",
}


def read_hub_source(source: HubSource) -> list[Row]:
    """The training rows of a dataset that has LLM-Adapters' fields.

    Raises:
        UserError: The dataset cannot be loaded, is empty, or holds a bad row.
    """
    name = source.hub
    try:
        records = _load(name, source.config, source.split, source.revision)
    except Exception as error:
        raise _not_loaded("data.train", name, error) from error
    return parse_rows(records, f"hub:{name}")


def read_hub_task(name: str, *, training: bool) -> list[Row]:
    """The rows of a published task, from its original dataset.

    Args:
        name: The name of the task.
        training: Whether the training rows are read; otherwise the test rows.

    Raises:
        UserError: There is no such dataset, it cannot be loaded, or its records do not have the
            form that :mod:`smt_ray.data.hub_tasks` expects.
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
    rows: list[Row] = []
    for config, split in task.train if training else task.test:
        try:
            records = _load(task.dataset, config, split, task.revision)
        except Exception as error:
            raise _not_loaded(field, task.dataset, error, fix) from error
        source = f"hub:{task.dataset}, {config or 'default'}/{split}"
        rows += parse_rows(_fields(records, make, source, fix), source)
    return rows


def _load(name: str, config: str | None, split: str, revision: str | None) -> list[Any]:
    import datasets

    return list(datasets.load_dataset(name, config, split=split, revision=revision))


def _not_loaded(field: str, name: str, error: Exception, fix: str = "") -> UserError:
    """The error for a dataset; the library has many errors, all about what the user asked for."""
    reason = str(error).strip().split("\n")[0]
    return UserError(field, f"the hub dataset cannot be loaded ({reason})", got=name, fix=fix)


def _fields(records: list[Any], make: RowMaker, source: str, fix: str) -> list[Fields]:
    found = []
    for index, record in enumerate(records):
        try:
            found.append(make(record))
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise UserError(
                f"{source}, row {index}",
                f"must have the form that this dataset had ({type(error).__name__}: {error})",
                got=sorted(record),
                fix=fix,
            ) from error
    return found
