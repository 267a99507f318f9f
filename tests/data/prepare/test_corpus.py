"""Readers of documents, and what they say of input that is no text."""

import gzip
import json
import lzma

import pyarrow
import pyarrow.parquet
import pytest

from mcd.data.languages.known import LANGUAGES
from mcd.data.prepare.corpus import BUNDLED, documents, source_sha256
from mcd.data.recipe import Recipe
from mcd.errors import DataError

DOCS = ["First line\nsecond line", "  indented é 汉字", "last one"]


def write_txt(path, opener=open):
    with opener(path, "wt", encoding="utf-8") as file:
        file.write("\n\n" + DOCS[0] + "\n\n\n \t\n" + DOCS[1] + "\n\n" + DOCS[2])


def write_jsonl(path, opener=open, field="text"):
    with opener(path, "wt", encoding="utf-8") as file:
        file.write("".join(json.dumps({"id": i, field: text}) + "\n\n" for i, text in enumerate([*DOCS, " \n "])))


def write_parquet(path, field="text"):
    table = pyarrow.table({"id": [0, 1, 2, 3, 4], field: [*DOCS, None, ""]})
    pyarrow.parquet.write_table(table, path)


@pytest.mark.parametrize("suffix, opener", [("", open), (".gz", gzip.open), (".xz", lzma.open)])
@pytest.mark.parametrize("kind, write", [(".txt", write_txt), (".jsonl", write_jsonl)])
def test_text_and_jsonl_also_compressed(tmp_path, suffix, opener, kind, write):
    path = tmp_path / f"corpus{kind}{suffix}"
    write(path, opener)
    assert list(documents(str(path))) == DOCS


def test_parquet(tmp_path):
    write_parquet(tmp_path / "corpus.parquet")
    assert list(documents(str(tmp_path / "corpus.parquet"))) == DOCS


def test_windows_line_ends_and_another_field(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"one\r\ntwo\r\n\r\nthree\r\n")
    assert list(documents(str(tmp_path / "a.txt"))) == ["one\ntwo", "three"]
    write_jsonl(tmp_path / "b.jsonl", field="body")
    assert list(documents(str(tmp_path / "b.jsonl"), "body")) == DOCS
    write_parquet(tmp_path / "c.parquet", field="body")
    assert list(documents(str(tmp_path / "c.parquet"), "body")) == DOCS


def test_a_folder_is_read_in_name_order_and_other_files_are_left_out(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "b.txt").write_text("bee")
    (tmp_path / "a.jsonl").write_text('{"text": "ay"}')
    (tmp_path / "sub" / "c.txt").write_text("sea")
    (tmp_path / "picture.png").write_bytes(b"\0\1")
    assert list(documents(str(tmp_path))) == ["ay", "bee", "sea"]


def test_the_bundled_corpus_is_the_state_of_the_union():
    texts = list(documents("sotu"))
    assert len(texts) == 233
    assert 10.0e6 < sum(len(text.encode()) for text in texts) < 11.5e6
    assert texts[0].lstrip().startswith("Fellow-Citizens of the Senate and House of Representatives")
    assert not any("\0" in text or "\ufffd" in text for text in texts)
    notice = BUNDLED["sotu"].with_name("sotu.NOTICE").read_text()
    assert "Apache" in notice and "stdlib" in notice


def refused(path, *match, text_field="text"):
    with pytest.raises(DataError) as error:
        list(documents(str(path), text_field))
    for part in ("--data", *match):
        assert part in str(error.value)


@pytest.mark.parametrize("content", [b"", b"\n \n\t\n"])
@pytest.mark.parametrize("kind", [".txt", ".jsonl"])
def test_empty(tmp_path, content, kind):
    (tmp_path / f"a{kind}").write_bytes(content)
    refused(tmp_path / f"a{kind}", str(tmp_path), "holds no text")


def test_binary(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"fine\n\xff\xfe\x80")
    refused(tmp_path / "a.txt", "not UTF-8 text", "binary")
    (tmp_path / "b.txt").write_bytes(b"fine\0\n")
    refused(tmp_path / "b.txt", "NUL", "binary")


def test_damaged_archives(tmp_path):
    text = b"a word " * 10_000
    for name, packed in (("a.txt.gz", gzip.compress(text)), ("a.txt.xz", lzma.compress(text))):
        (tmp_path / name).write_bytes(packed[: len(packed) // 2])
        refused(tmp_path / name, name, "damaged")
        (tmp_path / name).write_bytes(b"no archive at all")
        refused(tmp_path / name, name, "damaged")
    broken = bytearray(gzip.compress(bytes(range(256)) * 50))
    broken[12:200] = b"\xff" * 188
    (tmp_path / "b.txt.gz").write_bytes(broken)
    refused(tmp_path / "b.txt.gz", "damaged")


def test_wrong_fields(tmp_path):
    write_jsonl(tmp_path / "a.jsonl", field="body")
    refused(tmp_path / "a.jsonl", "line 1", "'text'")
    write_parquet(tmp_path / "a.parquet", field="body")
    refused(tmp_path / "a.parquet", "no column 'text'", "id, body")
    refused(tmp_path / "a.parquet", "row 1: field 'id' holds no string", text_field="id")
    for line in ('{"text": 3}', "[1]", "3", "no json"):
        (tmp_path / "b.jsonl").write_text('{"text": "fine"}\n' + line + "\n")
        refused(tmp_path / "b.jsonl", "line 2")


@pytest.mark.parametrize(
    "line",
    ['{"text": "\\ud800"}', "[" * 100_000, '{"text": ' + "9" * 5000 + "}"],
    ids=["surrogate", "nested", "digits"],
)
def test_json_that_is_no_text_names_file_and_line(tmp_path, line):
    (tmp_path / "a.jsonl").write_text('{"text": "fine \\ud83d\\ude00"}\n' + line + "\n")
    refused(tmp_path / "a.jsonl", "a.jsonl, line 2")


@pytest.mark.parametrize("name, content", [("a.txt", "one"), ("a.jsonl", '{"text": "one"}')])
def test_a_byte_order_mark_is_no_text(tmp_path, name, content):
    (tmp_path / name).write_text(content, encoding="utf-8-sig")
    assert list(documents(str(tmp_path / name))) == ["one"]


def test_the_fingerprint_is_of_names_and_bytes(tmp_path):
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "picture.png").write_bytes(b"\0")
    file, folder = source_sha256(Recipe(str(tmp_path / "a.txt"))), source_sha256(Recipe(str(tmp_path)))
    (tmp_path / "picture.png").write_bytes(b"\1")
    assert (source_sha256(Recipe(str(tmp_path / "a.txt"))), source_sha256(Recipe(str(tmp_path)))) == (file, folder)
    (tmp_path / "a.txt").rename(tmp_path / "b.txt")
    assert source_sha256(Recipe(str(tmp_path))) != folder
    (tmp_path / "b.txt").write_text("two")
    assert source_sha256(Recipe(str(tmp_path / "b.txt"))) != file
    assert source_sha256(Recipe("sotu")) is None and source_sha256(Recipe("owner/name")) is None


def test_an_empty_name_does_not_read_the_current_folder(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("one")
    monkeypatch.chdir(tmp_path)
    refused("", "names nothing")


def test_other_files_and_missing_ones(tmp_path):
    (tmp_path / "a.pdf").write_bytes(b"%PDF")
    refused(tmp_path / "a.pdf", "not one of .txt, .jsonl, .json, .parquet, .arrow")
    (tmp_path / "a.parquet").write_bytes(b"PAR0 not at all")
    refused(tmp_path / "a.parquet", "not a parquet file")
    refused(tmp_path / "nowhere", "no such file")
    refused("nowhere.txt", "no such file")
    refused("nowhere.txt.gz", "no such file")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "the folder holds no")


def test_hub_names_without_the_extra_say_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    refused("sotuu", "neither a file here nor bundled (sotu, markov, hmm, grammar, english)", "mcd-lm[hub]")


@pytest.mark.parametrize("name", LANGUAGES)
def test_a_language_is_no_text_and_is_known_by_its_law(name):
    with pytest.raises(DataError, match=f"--data {name}: .*without documents"):
        next(documents(name))
    assert source_sha256(Recipe(name)) == LANGUAGES[name]().sha256()
