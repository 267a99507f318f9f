"""Progress: lines where there is no terminal, and one bar over the parts of some work."""

import re

import pytest

import mcd.progress
from mcd.progress import progress_bar, whole_progress


@pytest.fixture
def clock(monkeypatch):
    """The time in seconds, which tests set; a line is printed for every update."""
    now = [0.0]
    monkeypatch.setattr(mcd.progress.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(mcd.progress, "INTERVAL_S", 0.0)
    return now


def test_the_time_left_follows_from_what_was_done_since_the_start(clock, capsys):
    with progress_bar("work") as update:
        update(0.2, "resumed")
        clock[0] = 30.0
        update(0.6)
        update(1.0)
        update(1.0)
    assert [line.rstrip() for line in capsys.readouterr().err.splitlines()] == [
        "work:  20%  resumed",
        "work:  60%, 0:30 left",
        "work: 100%, 0:00 left",
    ]


def test_the_bars_of_parts_move_the_bar_of_the_whole_by_their_cost(clock, capsys):
    with whole_progress("all", 8.0) as whole:
        with whole.part(2.0), progress_bar("first") as update:
            update(0.5, "half")
        clock[0] = 10.0
        with whole.part(6.0) as update:
            update(1 / 3, "of its own")
            with progress_bar("inner") as inner:
                inner(0.5)
    shown = [line.rstrip() for line in capsys.readouterr().err.splitlines()]
    assert [line[:9] for line in shown] == [
        "all:  12%",
        "all:  25%",
        "all:  50%",
        "all:  62%",
        "all: 100%",
    ]
    assert "first half" in shown[0] and "of its own" in shown[2] and "inner" in shown[3]
    assert ", 0:13 left" in shown[2]  # 3/8 of the whole took 10 s, and 4/8 are left
    with progress_bar("after") as update:
        update(0.5)
    assert "after:  50%" in capsys.readouterr().err


def test_work_of_no_cost_is_done(clock, capsys):
    with whole_progress("all", 0.0) as whole, whole.part(0.0), progress_bar("nothing") as update:
        update(0.5)
    assert "all: 100%" in capsys.readouterr().err


def test_a_part_that_fails_is_not_counted(clock, capsys):
    with whole_progress("all", 2.0) as whole:
        with pytest.raises(KeyError), whole.part(1.0):
            raise KeyError
        with whole.part(1.0) as update:
            update(1.0)
    assert "100%" not in capsys.readouterr().err


def test_what_is_printed_under_a_bar_stays_on_stdout(monkeypatch, capsys):
    """`mcd sample demo > texts` on a terminal: the bar is there, and the texts are in the file."""
    monkeypatch.setenv("FORCE_COLOR", "1")  # stderr is a terminal for rich; stdout is none
    with progress_bar("work") as update:
        update(0.5)
        print("a text")
    shown = capsys.readouterr()
    assert shown.out == "a text\n"
    assert "work" in shown.err and "a text" not in shown.err


def test_a_text_above_a_bar_keeps_its_lines(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    text = "of the people " * 10
    with progress_bar("work") as update:
        print(text)
        update(0.5, "a note that is too long for a line of this terminal")
    shown = capsys.readouterr().err
    assert text in shown
    bars = [re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", line) for line in re.split(r"[\r\n]+", shown) if "work" in line]
    assert bars and all(len(line) <= 40 for line in bars)
