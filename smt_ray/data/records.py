"""Records as rows: the form of a record is recognised by its fields, or named by columns.

A record has the first form in :data:`FORMS` whose required fields it has. Fields that are null
count as missing, because tables have every column in every row.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from smt_ray.config.data import FIELDS
from smt_ray.data.fields import UnknownKeysError, bad_row
from smt_ray.data.formats import FORMS, Fields, Form, Instruction, in_field
from smt_ray.data.rows import Row
from smt_ray.errors import UserError

_MEDIA = ("images", "image", "videos", "video", "audios", "audio")
_NO_MEDIA = "cannot be used, because only texts are trained on"
_NO_PREFERENCES = "cannot be used, because preferences are for methods such as DPO"
_CHOSEN = (
    "to learn the chosen answers, set columns of the source to {prompt: prompt, completion:"
    " chosen}, and data.ignore_columns to [rejected]"
)
_REFUSED = {
    **dict.fromkeys(("chosen", "rejected"), (_NO_PREFERENCES, _CHOSEN)),
    **{key: (_NO_MEDIA, f"to train without, set data.ignore_columns to [{key}]") for key in _MEDIA},
}
"""Key -> why it is refused, and the fix."""

_LIKE = {
    "messages": ("dialog", "dialogue", "chat", "turns"),
    "instruction": ("query", "prompt", "question", "problem"),
    "output": ("response", "target", "completion", "solution", "answer", "label"),
    "input": ("context",),
    "text": ("content", "document", "body"),
}


@dataclass
class BadRecords:
    """The records that cannot be used, so far.

    Attributes:
        number: Their number.
        first: The error of the first one.
    """

    number: int = 0
    first: UserError | None = None

    def add(self, error: UserError) -> None:
        """Counts a record."""
        self.number += 1
        self.first = self.first or error


def parse_rows(
    records: Iterable[Any],
    label: str,
    *,
    columns: Mapping[str, str],
    ignored: Collection[str] = (),
    is_test: bool = False,
    bad: BadRecords | None = None,
) -> Iterator[Row]:
    """Reads the records of one file or dataset, one after the other.

    Args:
        records: The records.
        label: The name of the file or dataset, for errors.
        columns: Field -> its name in the records.
        ignored: The keys that are left out.
        is_test: Whether they are test rows, whose output may be empty.
        bad: What counts the records that cannot be used; by default, their error is raised.

    Raises:
        UserError: There are no records, no record has a column, or a record is bad; with ``bad``,
            all are bad.
    """
    keys, bad_here = _Keys(columns), BadRecords()
    noted, index, num_rows = keys.noted(records), -1, 0
    for index, record in enumerate(noted):
        try:
            row = parse_row(
                record, f"{label}, row {index}", columns=columns, ignored=ignored,
                is_test=is_test, on_bad=None if bad is None else bad_here.add,
            )  # fmt: skip
        except UserError:
            for _ in noted:  # an error of the file or of its columns comes first
                pass
            keys.check(label)
            raise
        if row is not None:
            num_rows += 1
            yield row
    if index < 0:
        raise UserError(label, "holds no rows", got=0, fix="check the file or dataset")
    keys.check(label)
    if bad is not None and bad_here.first is not None:
        if not num_rows:
            raise bad_here.first
        bad.number, bad.first = bad.number + bad_here.number, bad.first or bad_here.first


class _Keys:
    """The keys of records, if columns are named."""

    def __init__(self, columns: Mapping[str, str]) -> None:
        self._wanted, self._known = set(columns.values()), set[str]()

    def noted(self, records: Iterable[Any]) -> Iterator[Any]:
        for record in records:
            if self._wanted and isinstance(record, Mapping):
                self._known.update(record)
            yield record

    def check(self, label: str) -> None:
        """Refuses columns that no record has; records may lack optional ones."""
        if missing := sorted(self._wanted - self._known):
            raise UserError(
                f"{label}, columns", f"names what no row has: {', '.join(missing)}",
                got=sorted(self._known), fix="correct columns of the source",
            )  # fmt: skip


def parse_row(
    record: Any,
    place: str,
    *,
    columns: Mapping[str, str] | None = None,
    ignored: Collection[str] = (),
    is_test: bool = False,
    on_bad: Callable[[UserError], None] | None = None,
) -> Row | None:
    """Reads one record.

    Args:
        record: A mapping, in any of :data:`FORMS`.
        place: The source and the position, for errors.
        columns: Field -> its name in the record.
        ignored: The keys that are left out.
        is_test: Whether it is a test row, whose output may be empty.
        on_bad: A function that takes the error of a row that cannot be used; by default the error
            is raised.

    Returns:
        The row; None if ``on_bad`` took its error.

    Raises:
        UserError: The record has keys that its form does not know.
    """
    fields: Fields = {}
    form: type[Form] | None = None
    if isinstance(record, Mapping):
        fields = _renamed(record, place, columns or {}, ignored)
        form = _form_of(fields, place, is_test)
    try:
        if form is None:
            raise _no_form(place, fields, record)
        return _read(form(ignored, is_test=is_test), fields, place)
    except UnknownKeysError as error:
        raise error.for_user() from None
    except UserError as error:
        if is_test:  # no test row is left out
            fix = error.fix.removesuffix(", or set data.bad_rows to skip")
            raise UserError(error.field, error.rule, got=error.got, fix=fix) from None
        if on_bad is None:
            raise
        on_bad(error)
        return None


def _read(form: Form, fields: Fields, place: str) -> Row:
    try:
        return replace(form.row(fields, place), place=place)
    except RecursionError:
        rule = "must not hold lists or mappings that are nested that deeply"
        raise bad_row(place, rule, list(fields)) from None


def _form_of(fields: Fields, place: str, is_test: bool) -> type[Form] | None:
    """The form of a record, which must know all of its keys; None if it has no form."""
    for key, (rule, fix) in _REFUSED.items():
        if key in fields:
            raise UserError(in_field(place, key), rule, got=fields[key], fix=fix)
    found = next((form for form in FORMS if set(_needed(form, is_test)) <= set(fields)), None)
    if found and (unknown := sorted(set(fields) - {*found.required, *found.optional})):
        raise UnknownKeysError(place, unknown).for_user()
    return found


def _needed(form: type[Form], is_test: bool) -> tuple[str, ...]:
    # A test row needs no output, but an answer, which is checked when it is asked.
    return ("instruction",) if is_test and form is Instruction else form.required


def _renamed(
    record: Mapping[str, Any], place: str, columns: Mapping[str, str], ignored: Collection[str]
) -> Fields:
    names = {theirs: ours for ours, theirs in columns.items()}
    fields: dict[str, Any] = {}
    for key, value in record.items():
        if value is None or (key in ignored and key not in names):
            continue
        if (name := names.get(key, key)) in fields:
            raise UserError(
                f"{place}, columns", f"gives {name} twice", got=sorted(record),
                fix=f"leave the other one out with data.ignore_columns: [{name}]",
            )  # fmt: skip
        fields[name] = value
    return fields


def _no_form(place: str, fields: Fields, record: Any) -> UserError:
    """The error for a record of no form, with the columns that seem to be meant."""
    if not isinstance(record, Mapping):
        rule = "a row must be an object with fields such as messages"
        return bad_row(place, rule, record, "write each row as a JSON object")
    nulls = [key for key in record if key in FIELDS and record[key] is None]
    if nulls:
        return bad_row(in_field(place, nulls[0]), "must not be null", None, "give it a text")
    fix = _columns_that_fit(fields)
    begun = next((form for form in FORMS if set(form.required) & set(fields)), None)
    if begun is None:
        return UserError(place, "has no known form of a row", got=sorted(fields), fix=fix)
    missing = next(name for name in begun.required if name not in fields)
    return UserError(in_field(place, missing), "is missing", got=sorted(fields), fix=fix)


def _columns_that_fit(fields: Fields) -> str:
    """The advice for names that are not ours."""
    for form in FORMS:
        like = {name: _like(name, fields) for name in form.required}
        if all(like.values()) and len(set(like.values())) == len(like):
            taken = set(like.values())
            others = {name: _like(name, fields) for name in form.optional}
            like |= {name: theirs for name, theirs in others.items() if theirs not in taken}
            pairs = ", ".join(f"{ours}: {theirs}" for ours, theirs in like.items() if theirs)
            return f"name the columns of the source: {{path: ..., columns: {{{pairs}}}}}"
    known = "; ".join(" and ".join(form.required) for form in FORMS)
    return f"give rows one of these forms: {known}; or name the columns of the source"


def _like(name: str, fields: Fields) -> str | None:
    return name if name in fields else next((k for k in _LIKE.get(name, ()) if k in fields), None)
