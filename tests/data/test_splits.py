"""Claims about training and validation rows."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from smt_ray.config.data import DataConfig, Source
from smt_ray.data.rows import Message, Row, digest_rows
from smt_ray.data.splits import hold_out, read_split, weighted
from smt_ray.data.table import Rows
from smt_ray.errors import UserError


def rows(num: int) -> list[Row]:
    return [Row(f"question {i}", f"é {i}") for i in range(num)]


def refused(call: Callable[[], Any]) -> UserError:
    with pytest.raises(UserError) as caught:
        call()
    return caught.value


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, list[Row]], str]:
    def written(name: str, content: list[Row]) -> str:
        path = tmp_path / name
        path.write_text(
            json.dumps([{"instruction": r.instruction, "output": r.output} for r in content])
        )
        return str(path)

    return written


def test_a_digest_depends_on_rows_fields_and_order() -> None:
    one = [Row("a", "b", "c", "d"), Row("e", "f")]
    others = [
        one[::-1],
        one[:1],
        [],
        [Row("a", "b", "d", "c"), one[1]],
        [Row("ab", "", "c", "d"), one[1]],
        [Row("a", "b", "c", "d "), one[1]],
        [Row("a", "b", "c", "d", system="x"), one[1]],
        [Row("a", "b", "c", "d", tools=({"name": "f"},)), one[1]],
        [Row("a", "b", "c", "d", is_verbatim=True), one[1]],
    ]
    assert digest_rows(one) == digest_rows(iter(list(one)))
    assert len({digest_rows(each) for each in [one, *others]}) == 1 + len(others)


@pytest.mark.parametrize("max_rows", [None, 40])
@pytest.mark.parametrize(("wanted", "number"), [(7, 7), (0.1, None)])
def test_validation_rows_are_not_training_rows(
    max_rows: int | None, wanted: float, number: int | None
) -> None:
    everything = rows(100)
    training, validation, num_moved = hold_out(
        Rows.of(everything), max_rows=max_rows, validation_rows=wanted, seed=3
    )
    number = number or (max_rows or 100) // 10
    assert len(validation) == number
    assert len(training) == (max_rows or 100) - number
    assert not set(training) & set(validation)
    assert set(training) | set(validation) <= set(everything)
    assert num_moved == 0


@pytest.mark.parametrize("copies", [2, 3, 5])
@pytest.mark.parametrize("wanted", [1, 4, 20, 0.3])
def test_identical_rows_are_never_on_both_sides(copies: int, wanted: float) -> None:
    everything = rows(20) * copies
    training, validation, num_moved = hold_out(
        Rows.of(everything), max_rows=None, validation_rows=wanted, seed=0
    )
    assert not set(training) & set(validation)
    assert Counter([*training, *validation]) == Counter(everything)
    number = wanted if wanted >= 1 else wanted * len(everything)
    assert number <= len(validation) < number + copies
    assert 0 < num_moved <= len(validation)


def test_a_split_is_a_function_of_the_seed() -> None:
    def split(seed: int) -> Any:
        return hold_out(Rows.of(rows(50)), max_rows=None, validation_rows=5, seed=seed)

    one, again, other = (list(map(list, split(seed)[:2])) for seed in (1, 1, 2))
    assert one == again
    assert one[1] != other[1]


def test_fewer_rows_have_the_same_validation_rows() -> None:
    """So a run on fewer rows can be compared with a run on all rows."""
    whole = hold_out(Rows.of(rows(50)), max_rows=None, validation_rows=5, seed=1)
    part = hold_out(Rows.of(rows(50)), max_rows=20, validation_rows=5, seed=1)
    assert list(part[1]) == list(whole[1])
    assert set(part[0]) < set(whole[0])


def test_training_and_validation_rows_keep_the_order_of_the_source() -> None:
    everything = rows(50)
    for side in hold_out(Rows.of(everything), max_rows=30, validation_rows=10, seed=1)[:2]:
        assert list(side) == [row for row in everything if row in side]


def test_validation_must_leave_rows_to_train_on(write: Any) -> None:
    error = refused(lambda: hold_out(Rows.of(rows(5)), max_rows=None, validation_rows=5, seed=0))
    assert (error.field, error.got) == ("data.validation_rows", 5)
    path = write("a.json", rows(5))
    given = DataConfig(train=[path], validation=[path])
    assert refused(lambda: read_split(given, 0)).field == "data.train"


def test_a_file_that_is_listed_twice_leaks_nothing(write: Any) -> None:
    path = write("a.json", rows(30))
    split = read_split(DataConfig(train=[path, path], validation_rows=20), 0)
    assert not set(split.training) & set(split.validation)
    assert len(split.validation) == 20
    assert split.num_moved > 0


def test_training_rows_that_are_validation_rows_are_left_out(write: Any) -> None:
    train, held = write("a.json", rows(10)), write("b.json", rows(13)[8:])
    split = read_split(DataConfig(train=[train], validation=[held]), 0)
    assert list(split.training) == rows(8)
    assert list(split.validation) == rows(13)[8:]
    assert split.num_moved == 2


@pytest.mark.parametrize(("weight", "number"), [(3.0, 30), (0.5, 5), (1.5, 15), (1.0, 10)])
def test_a_weight_is_the_number_of_uses_in_an_epoch(weight: float, number: int) -> None:
    given = rows(10)
    other = Row("other", "row")
    everything = Rows.joined([Rows.of(given, weight), Rows.of([other])])
    found = list(weighted(everything, seed=0))
    assert found.count(other) == 1
    assert len(found) == number + 1
    counts = {found.count(row) for row in given}
    assert counts <= {int(weight), int(weight) + 1}
    assert found == list(weighted(everything, seed=0))


def test_weights_never_repeat_validation_rows(write: Any) -> None:
    source = Source(path=write("a.json", rows(10)), weight=2)
    split = read_split(DataConfig(train=[source], validation_rows=4), 0)
    assert (len(split.training), len(split.validation)) == (12, 4)
    assert not set(split.training) & set(split.validation)


def test_bad_rows_of_all_sources_are_counted(write: Any) -> None:
    train = write("a.json", [*rows(4), Row("x", " ")])
    held = write("b.json", [Row("y", ""), *rows(9)[7:]])
    split = read_split(DataConfig(train=[train], validation=[held], bad_rows="skip"), 0)
    assert split.bad.number == 2
    assert "a.json, row 4, field 'output'" in str(split.bad.first)


def test_rows_that_say_the_same_in_other_forms_are_identical() -> None:
    said = (Message("user", "Hi"), Message("assistant", "Yo", is_learned=True))
    extras = [{"tool_calls": [{"id": i, "function": {"name": "f"}}]} for i in ("1", "2")]
    calls = [(said[0], Message("assistant", "", is_learned=True, extra=e)) for e in extras]
    same = [
        [Row("Hi", "Yo"), Row("Hi", "Yo", answer="Yo"), Row("Hi", "Yo", messages=said)],
        [Row("Hi", "", messages=turns) for turns in calls],
    ]
    for rows in same:
        assert len({row.meaning() for row in rows}) == 1
    others = [Row("Hi", "Yo", is_verbatim=True), Row("Hi", "Yo!"), *same[0], *same[1]]
    assert len({row.meaning() for row in others}) == 4


def test_rows_that_are_all_identical_cannot_be_split() -> None:
    error = refused(
        lambda: hold_out(Rows.of(rows(1) * 9), max_rows=None, validation_rows=2, seed=0)
    )
    assert "not identical" in error.rule


def test_a_small_weight_uses_one_row_at_least() -> None:
    assert len(weighted(Rows.of(rows(2), 0.01), seed=0)) == 1
