"""Records of every kind of file: where each stands, going on from there, and where damage is."""

import gzip
import json
import lzma
import struct

import pyarrow
import pyarrow.parquet
import pytest

from mcd.data import readers
from mcd.data.corpus import Records, Source, documents
from mcd.data.readers import DataError, FileRecords

TEXTS = [f"text {i}\nand more é" for i in range(40)]


def zstd(path, data):
    with pyarrow.CompressedOutputStream(str(path), "zstd") as file:
        file.write(data)


PACK = {
    "": lambda path, data: path.write_bytes(data),
    ".gz": lambda path, data: path.write_bytes(gzip.compress(data)),
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
        data = "".join(lines) if kind == ".jsonl" else "\n\n".join(TEXTS)
        PACK[path.suffix if path.suffix in PACK else ""](path, data.encode())


NAMES = [f"a{kind}{packed}" for kind in (".txt", ".jsonl") for packed in PACK]
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
    source = Source(str(tmp_path))
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
        (b'{"text": "fi', "no JSON object"),
        (b'{"body": ""}', "'text'"),
        (b'{"text": "\0"}', "NUL"),
    ):
        PACK[packed](tmp_path / f"a.jsonl{packed}", good + line + b"\n" + good)
        refused(tmp_path / f"a.jsonl{packed}", f"line 5: .*{match}")
    PACK[packed](tmp_path / f"b.txt{packed}", b"one\rtwo\r\rthree\nfo\xffur\n")
    refused(tmp_path / f"b.txt{packed}", "line 5: not UTF-8")


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
