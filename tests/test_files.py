"""JSON of others is read strictly; what is written is there whole, or what was there before is."""

import errno
import json
import math
import os
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcd import files
from mcd.files import JSONError, json_lines, parse_json, read_json, write_durably

leaves = st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False)
leaves |= st.text(st.characters(exclude_categories=["Cs"]))
values = st.recursive(leaves, lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=3), inner), max_leaves=9)


@given(values)
def test_what_python_writes_is_read_back(value):
    text = json.dumps(value)
    if "\\ud" in text:
        text = json.dumps(value, ensure_ascii=False)
    assert parse_json(text) == parse_json(text.encode()) == value


@pytest.mark.parametrize(
    "text, why",
    [
        ("", "Expecting value"),
        ("{", "Expecting"),
        ("[1] 2", "Extra data"),
        ("[" * 65 + "]" * 65, "deeper than 64"),
        ("[" * 100_000, "deeper than 64"),
        ('{"a": 1, "b": {"c": 1, "c": 1}}', "'c' occurs twice"),
        ("9" * 21, "21 digits"),
        ("-" + "9" * 1_000_000, "1,000,001 digits"),
        ("[NaN]", "NaN"),
        ("-Infinity", "Infinity"),
        ("1e400", "beyond float64"),
        ('"\\ud800"', "UTF-8"),
        (b"\xff", "UTF-8"),
        (b"[" + b" " * (16 << 20) + b"]", "at most 16,777,216"),
    ],
)
def test_what_no_writer_of_ours_makes_is_refused(text, why):
    with pytest.raises(JSONError, match=why):
        parse_json(text)


def test_logs_may_hold_what_json_may_not():
    assert math.isnan(parse_json("NaN", strict=False)) and parse_json("1e400", strict=False) == math.inf
    assert parse_json('"\\ud800"', strict=False) == "\ud800"
    assert parse_json("[" * 64 + "]" * 64) is not None


def test_a_line_too_long_is_cut_and_refused_not_held(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "LARGEST", 100)
    (tmp_path / "a.jsonl").write_text("1\n\n" + "2" * 500 + "\n3\n")
    lines = list(json_lines(tmp_path / "a.jsonl"))
    assert lines[0] == (1, b"1\n") and lines[1][0] == 3 and max(len(line) for _, line in lines) == 101
    with pytest.raises(JSONError, match="101 bytes"):
        parse_json(lines[1][1])


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_refused_write_leaves_what_was_there(tmp_path, monkeypatch, call):
    path = tmp_path / "a.json"
    write_durably(path, "1")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os if call == "fsync" else type(path), call, full)
        with pytest.raises(OSError, match="No space"):
            write_durably(path, "2")
    assert read_json(path) == 1 and [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_the_folder_is_synced_after_the_rename(tmp_path, monkeypatch):
    """In the order that a power cut asks for: the file, its name, the folder."""
    done = []
    sync, replace = os.fsync, type(tmp_path).replace
    kinds = {True: "folder", False: "file"}
    monkeypatch.setattr(os, "fsync", lambda d: done.append(kinds[stat.S_ISDIR(os.fstat(d).st_mode)]) or sync(d))
    monkeypatch.setattr(type(tmp_path), "replace", lambda a, b: done.append("name") or replace(a, b))
    write_durably(tmp_path / "a", "1")
    assert done == ["file", "name", "folder"]
