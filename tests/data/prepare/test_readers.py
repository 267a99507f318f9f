"""Records of every kind of file: where each stands, going on from there, and where damage is."""

import bz2
import gzip
import json
import lzma
import struct

import pyarrow
import pyarrow.parquet
import pytest

from mcd.data.prepare import readers
from mcd.data.prepare.corpus import Records, documents
from mcd.data.prepare.readers import FileRecords
from mcd.data.recipe import Recipe
from mcd.errors import DataError

TEXTS = [f"text {i}\nand more é" for i in range(40)]


def zstd(path, data):
    with pyarrow.CompressedOutputStream(str(path), "zstd") as file:
        file.write(data)


PACK = {
    "": lambda path, data: path.write_bytes(data),
    ".gz": lambda path, data: path.write_bytes(gzip.compress(data)),
    ".bz2": lambda path, data: path.write_bytes(bz2.compress(data)),
    ".xz": lambda path, data: path.write_bytes(lzma.compress(data)),
    ".zst": zstd,
}


def table():
    return pyarrow.table({"id": list(range(len(TEXTS))), "text": TEXTS})


def write(path):
    """TEXTS in the form that the name of the file asks for."""
    kind = readers.suffix_of(path)
    if kind == ".parquet":
        pyarrow.parquet.write_table(table(), path, row_group_size=7)
    elif kind == ".arrow":
        opened = pyarrow.ipc.new_file if path.stem == "seekable" else pyarrow.ipc.new_stream
        with pyarrow.OSFile(str(path), "wb") as file, opened(file, table().schema) as writer:
            writer.write_table(table(), max_chunksize=9)
    else:
        lines = [json.dumps({"id": i, "text": text}) + "\n\n" for i, text in enumerate(TEXTS)]
        listed = json.dumps([json.loads(line) for line in lines], indent=1)
        data = {".jsonl": "".join(lines), ".json": listed, ".txt": "\n\n".join(TEXTS)}[kind]
        PACK[path.suffix if path.suffix in PACK else ""](path, data.encode())


NAMES = [f"a{kind}{packed}" for kind in (".txt", ".jsonl", ".json") for packed in PACK]
NAMES += ["a.parquet", "stream.arrow", "seekable.arrow"]


@pytest.mark.parametrize("name", NAMES)
def test_records_and_going_on_behind_each(tmp_path, monkeypatch, name):
    monkeypatch.setattr(readers, "BATCH_ROWS", 4)
    path = tmp_path / name
    write(path)
    assert list(documents(str(path))) == TEXTS
    records = FileRecords(path, ("text",))
    fractions = [records.fraction for _ in records]
    assert fractions == sorted(fractions) and fractions[0] >= 0 and fractions[-1] <= 1
    for skip in (1, 6, 7, 8, 39, 40):
        rest = FileRecords(path, ("text",), skip)
        assert [values for (values,) in rest] == TEXTS[skip:] and rest.count == 40


def test_a_position_is_where_a_folder_is_gone_on_with(tmp_path):
    for name in NAMES:
        (tmp_path / name.replace(".", "-", 1)).mkdir()
        write(tmp_path / name.replace(".", "-", 1) / name)
    source = Recipe(str(tmp_path))
    whole = list(Records(source))
    assert len(whole) == 40 * len(NAMES)
    reader = Records(source)
    seen = [(reader.position(), reader.fraction) for _ in reader]
    assert [fraction for _, fraction in seen] == sorted(fraction for _, fraction in seen)
    for count in (1, 39, 40, 41, 200, len(whole)):
        position = json.loads(json.dumps(seen[count - 1][0]))
        assert list(Records(source, position)) == whole[count:]


def refused(path, match, fields=("text",)):
    with pytest.raises(DataError, match=match) as error:
        list(FileRecords(path, fields))
    assert str(path) in str(error.value)


@pytest.mark.parametrize("packed", PACK)
def test_faults_name_the_line(tmp_path, packed):
    good = b'{"text": "fine"}\r\n\n' * 2
    for line, match in (
        (b'{"text": "\xff"}', "not UTF-8"),
        (b'{"text": "fi', r"no JSON object \(.*column 13\)"),
        (b'[{"text": "fine"}]', "a JSON list is read from a file named .json"),
        (b'{"body": ""}', "'text'"),
        (b'{"text": "\0"}', "NUL"),
    ):
        PACK[packed](tmp_path / f"a.jsonl{packed}", good + line + b"\n" + good)
        refused(tmp_path / f"a.jsonl{packed}", f"line 5: .*{match}")
    PACK[packed](tmp_path / f"b.txt{packed}", b"one\rtwo\r\rthree\nfo\xffur\n")
    refused(tmp_path / f"b.txt{packed}", "line 5: not UTF-8")


@pytest.mark.parametrize(
    "content, match",
    [
        (b'{"text": \xff}', "record 1: not UTF-8"),
        (b'[{"text": "\0"}]', "record 1: .*NUL"),
        (b'[{"text": "fine"},\n {"text": fine}]', r"record 2: no JSON object \(Expecting value, line 2\)"),
        (b'[{"text": "fine"},\n [{"text": "fine"}]]', r"record 2: no JSON object, but \[\{"),
        (b'{"text": "fine"}\n{"body": ""}', "record 2: .*no field 'text', but 'body'"),
        (b'{"text": "fine"}\n' + b"[" * 100_000, "record 2: JSON that cannot be read"),
        (b'{"text": "fine", "id": ' + b"9" * 5000 + b"}", "record 1: JSON that cannot be read"),
        (b"[]", "holds no text"),
    ],
    ids=range(8),
)
def test_faults_of_a_json_name_the_record(tmp_path, content, match):
    (tmp_path / "a.json").write_bytes(content)
    refused(tmp_path / "a.json", match)


@pytest.mark.parametrize("kind", [".jsonl", ".json"])
def test_a_file_that_was_cut_off_says_so(tmp_path, kind):
    path = tmp_path / f"a{kind}"
    write(path)
    data = path.read_bytes()
    for size in (len(data) - 9, len(data) // 2, data.rindex(b"text"), data.index(b"\\u00e9") + 3):
        path.write_bytes(data[:size])
        refused(path, r"(line|record) \d+: the file ends in the middle of a JSON object or list; was it cut off\?")
    (tmp_path / "a.txt").write_bytes("one\ncaf\u00e9".encode()[:-1])
    refused(tmp_path / "a.txt", "line 2: the file ends in the middle of a character")
    path.write_bytes('{"text": "caf\u00e9'.encode()[:-1])
    refused(path, "the file ends in the middle of a character")


def test_line_ends_that_were_translated_twice(tmp_path):
    """ "\\r\\n" written in text mode on Windows is one end of line and no blank line behind each."""
    (tmp_path / "a.txt").write_bytes(b"one\r\r\ntwo\r\r\n\r\r\nthree\r\r\n")
    assert list(documents(str(tmp_path / "a.txt"))) == ["one\ntwo", "three"]
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "one"}\r\r\n{"text": "two"}\r\r\n{"body": "three"}\r\r\n')
    refused(tmp_path / "a.jsonl", "line 3: .*'body'")


@pytest.mark.parametrize("kind", [".jsonl", ".json", ".parquet", "stream.arrow", "seekable.arrow"])
def test_two_fields_of_one_name_are_refused_and_null_is_none(tmp_path, kind):
    twice, null = tmp_path / f"twice{kind}", tmp_path / f"null{kind}"
    if kind.startswith(".json"):
        twice.write_text('{"id": 1, "id": 2, "text": "one"}\n{"text": "one", "id": 1, "text": "two"}\n')
        null.write_text('{"text": "one"}\n{"text": null}\n')
        place = f"{'line' if kind == '.jsonl' else 'record'} 2: the field 'text' occurs twice"
    else:
        same = pyarrow.Table.from_arrays([pyarrow.array(["one"]), pyarrow.array(["two"])], names=["text", "text"])
        for path, content in ((twice, same), (null, pyarrow.table({"text": ["one", None]}))):
            if kind == ".parquet":
                pyarrow.parquet.write_table(content, path)
            else:
                opened = pyarrow.ipc.new_file if "seekable" in kind else pyarrow.ipc.new_stream
                with pyarrow.OSFile(str(path), "wb") as file, opened(file, content.schema) as writer:
                    writer.write_table(content)
        place = "2 columns are named 'text'"
    refused(twice, place)
    assert list(FileRecords(null, ("text",))) == [("one",), (None,)]
    assert list(documents(str(null))) == ["one"]


def test_damaged_bz2(tmp_path):
    path = tmp_path / "a.jsonl.bz2"
    write(path)
    data = path.read_bytes()
    for wrong in (data[:-20], b"nonsense" * 9, data[:40] + b"\xff" * 9 + data[49:]):
        path.write_bytes(wrong)
        refused(path, "damaged compressed file")


def test_a_damaged_zst(tmp_path):
    path = tmp_path / "a.jsonl.zst"
    write(path)
    data = bytearray(path.read_bytes())
    for wrong in (data[:60], b"nonsense" * 9, data[:40] + b"\xff" * 9 + data[49:]):
        path.write_bytes(wrong)
        refused(path, "damaged compressed file")


@pytest.mark.parametrize("name", ["stream.arrow", "seekable.arrow", "a.parquet"])
def test_damaged_tables(tmp_path, name):
    path = tmp_path / name
    write(path)
    data = path.read_bytes()
    for wrong in (b"", b"ARROW1\0\0", b"PAR1" * 9, data[: len(data) // 2]):
        path.write_bytes(wrong)
        refused(path, "not an? (arrow|parquet) file|holds no text")


def test_offsets_that_point_out_of_an_arrow_file_are_not_followed(tmp_path):
    path = tmp_path / "a.arrow"
    batch = pyarrow.record_batch({"text": ["abc", "def"]})
    with pyarrow.OSFile(str(path), "wb") as file, pyarrow.ipc.new_stream(file, batch.schema) as writer:
        writer.write_batch(batch)
    assert list(documents(str(path))) == ["abc", "def"]
    data, offsets = path.read_bytes(), struct.pack("<3i", 0, 3, 6)
    assert data.count(offsets) == 1
    path.write_bytes(data.replace(offsets, struct.pack("<3i", 0, 3, 1 << 30)))
    refused(path, "not an arrow file")


def test_fields(tmp_path):
    write(tmp_path / "a.parquet")
    write(tmp_path / "a.arrow")
    write(tmp_path / "a.txt")
    for name in ("a.parquet", "a.arrow"):
        assert next(iter(FileRecords(tmp_path / name, ("text", "id")))) == (TEXTS[0], 0)
        refused(tmp_path / name, "no column 'body'; it has id, text", ("text", "body"))
    refused(tmp_path / "a.txt", "has no fields", ("prompt", "answer"))


def test_zst_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    write(tmp_path / "a.txt.zst")
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    refused(tmp_path / "a.txt.zst", r"pip install 'mcd-lm\[hub\]'")


@pytest.mark.parametrize("name, content", [("a.json", '["one", "two"]'), ("a.jsonl", '"one"\n"two"\n')])
def test_strings_in_json_are_documents(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    assert list(documents(str(tmp_path / name))) == ["one", "two"]
    refused(tmp_path / name, "no JSON object, but", ("prompt", "answer"))
