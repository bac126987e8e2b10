"""Text of others does not control the terminal or a spreadsheet."""

from __future__ import annotations

import csv
import io

import pytest

from smt_ray.reporting.text.commands import chat
from smt_ray.reporting.text.console import show
from smt_ray.reporting.text.progress import say
from smt_ray.reporting.text.tables import Cells, write_csv
from smt_ray.reporting.text.visible import visible

ATTACK = "\x1b]0;title\x07\x1b[2J\x9b31m\u202eback\r\x7f\ud800"
SHOWN = r"\x1b]0;title\x07\x1b[2J\x9b31m\u202eback\r\x7f\ud800"


def test_control_characters_are_shown() -> None:
    assert visible(ATTACK) == SHOWN
    assert visible("plain\ttext\nof 2 lines, äöü 文字 🙂") == "plain\ttext\nof 2 lines, äöü 文字 🙂"


def test_no_way_of_printing_obeys_them(capsys: pytest.CaptureFixture[str]) -> None:
    say(ATTACK)
    chat.print_answers(ATTACK, [("tuned", ATTACK, "")])
    show(lambda console: console.print(ATTACK, markup=False))
    found = capsys.readouterr()
    for text in (found.err, found.out):
        assert SHOWN.replace(r"\ud800", "") in text.replace("\n", "").replace(r"\ud800", "")
        assert not set(text) & set("\x1b\x07\x9b\u202e\x7f")


@pytest.mark.parametrize(
    ("cell", "written"),
    [
        ("=1+1", "'=1+1"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("+cmd|' /C calc'!A0", "'+cmd|' /C calc'!A0"),
        ("-x", "'-x"),
        ("\t=1", "'\t=1"),
        ("-1.5", "-1.5"),
        ("+74.6", "+74.6"),
        ("-1e-3", "-1e-3"),
        ("a=b", "a=b"),
    ],
)
def test_a_spreadsheet_computes_no_cell(cell: str, written: str) -> None:
    text = write_csv(Cells(("name", cell), ((cell, "1"),), 1))
    assert list(csv.reader(io.StringIO(text))) == [["name", written], [written, "1"]]
