"""Shards as one sequence, and when they are read through."""

import json
import os
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcd.data import tokens
from mcd.data.manifest import MANIFEST, read_manifest
from mcd.data.prepare.pipeline import prepare
from mcd.data.recipe import Recipe
from mcd.data.tokens import STAMP, Tokens, read_tokens
from mcd.errors import DataError
from mcd.files import file_sha256


@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=6),
    cut=st.slices(60),
    index=st.integers(-60, 60),
)
def test_parts_are_one_sequence(sizes, cut, index):
    whole = np.arange(sum(sizes), dtype=np.uint16)
    parts = Tokens(np.split(whole, np.cumsum(sizes)[:-1]))
    assert len(parts) == len(whole) and parts.dtype == whole.dtype
    if cut.step in (None, 1):
        piece = parts[cut]
        assert piece.dtype == whole.dtype and piece.tolist() == whole[cut].tolist()
    else:
        with pytest.raises(IndexError):
            parts[cut]
    if -len(whole) <= index < len(whole):
        assert parts[index] == whole[index]
    else:
        with pytest.raises(IndexError):
            parts[index]
    assert np.array_equal(np.asarray(parts), whole)


def test_a_slice_within_a_part_is_not_copied():
    part = np.arange(10, dtype=np.uint16)
    assert np.shares_memory(Tokens([part, part.copy()])[2:10], part)


@pytest.fixture
def folder(text_file, tiny_data, tmp_path, monkeypatch):
    """Prepared data of several shards, of which those over 900 bytes count as large."""
    monkeypatch.setattr(tokens, "ALWAYS_VERIFIED", 900)
    recipe = Recipe(str(text_file), tokenizer=str(tiny_data), length=16, valid_every=8)
    prepare(recipe, tmp_path / "out", shard_tokens=500)
    return tmp_path / "out"


@pytest.fixture
def read(monkeypatch):
    """Names of the shards that are read through."""
    names, verify = [], tokens._verify
    monkeypatch.setattr(tokens, "_verify", lambda path, *rest: (names.append(path.name), verify(path, *rest))[1])
    return names


def large(folder):
    return sorted(path.name for path in folder.glob("train-*.bin") if path.stat().st_size > 900)


def small(folder):
    return sorted(path.name for path in folder.glob("train-*.bin") if path.stat().st_size <= 900)


def test_large_shards_are_read_through_once(folder, read):
    assert len(large(folder)) > 3 and small(folder)
    read_tokens(folder, "train")
    assert read == small(folder)  # the others were, while they were written
    (folder / STAMP).unlink()
    read_tokens(folder, "train")
    assert sorted(read) == sorted(2 * small(folder) + large(folder))
    read.clear()
    read_tokens(folder, "train")
    assert read == small(folder)
    read_tokens(folder, "train", verify=True)
    assert sorted(read) == sorted(2 * small(folder) + large(folder))
    read.clear()
    read_tokens(folder, "train", verify=False)
    assert read == []


@pytest.mark.parametrize("change", ["bytes", "time", "copy", "stamp", "manifest"])
def test_a_large_shard_that_is_not_as_it_was_is_read_through_again(folder, read, change):
    path = folder / large(folder)[1]
    status = path.stat()
    if change == "bytes":
        data = bytearray(path.read_bytes())
        data[55] ^= 1
        path.write_bytes(data)
    elif change == "time":
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    elif change == "copy":
        path.with_suffix(".copy").write_bytes(path.read_bytes())
        path.with_suffix(".copy").replace(path)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    elif change == "stamp":
        (folder / STAMP).write_text('{"train-00001.bin": 3, "x": [')
    else:
        manifest = read_manifest(folder)
        manifest["splits"]["train"][1]["sha256"] = "0" * 64
        (folder / MANIFEST).write_text(json.dumps(manifest))
    if change in ("bytes", "manifest"):
        with pytest.raises(DataError, match=rf"{path.name}: its checksum differs"):
            read_tokens(folder, "train")
    else:
        read_tokens(folder, "train")
    assert path.name in read


def test_data_that_nobody_may_write_to_is_read(folder, read, monkeypatch):
    (folder / STAMP).unlink()

    def denied(*_):
        raise PermissionError(13, "read-only")

    monkeypatch.setattr(tokens, "write_json", denied)
    assert len(read_tokens(folder, "train")) and len(read_tokens(folder, "train"))
    assert read.count(large(folder)[0]) == 2


@pytest.mark.parametrize(
    "change",
    [
        {"file": "../train-00000.bin"},
        {"file": "/etc/passwd"},
        {"file": "train-00001.bin"},
        {"file": "valid-00000.bin"},
        {"tokens": 0},
        {"tokens": -5},
        {"tokens": True},
        {"tokens": 1e3},
        {"tokens": 10**30},
        {"documents": -1},
        {"sha256": None},
    ],
    ids=str,
)
def test_manifests_that_lie_of_a_shard(folder, change):
    manifest = read_manifest(folder)
    manifest["splits"]["train"][0] |= change
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(DataError, match=r"manifest\.json is damaged"):
        read_tokens(folder, "train")


@pytest.mark.parametrize("count", [1 << 40, (1 << 62) - 1])
def test_a_shard_that_cannot_be_so_long_is_not_opened(folder, count):
    manifest = read_manifest(folder)
    manifest["splits"]["train"][0]["tokens"] = count
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(DataError, match=r"train-00000\.bin: missing or truncated"):
        read_tokens(folder, "train")


@pytest.mark.parametrize(
    "change",
    [
        {"dtype": "<i8"},
        {"dtype": ["<u2"]},
        {"vocab_size": 0},
        {"vocab_size": 1 << 17},
        {"packing": "rows"},
        {"packing": None},
        {"splits": {"train": {}}},
        {"format": 3},
    ],
    ids=str,
)
def test_manifests_that_lie(folder, change):
    (folder / MANIFEST).write_text(json.dumps(read_manifest(folder) | change))
    with pytest.raises(DataError, match=r"manifest\.json is damaged"):
        read_tokens(folder, "train")


@pytest.mark.parametrize("change", [{"length": 0}, {"length": True}, {"valid_every": 0}, {"too_long": 3}], ids=str)
def test_manifests_that_lie_of_their_recipe(folder, change):
    manifest = read_manifest(folder)
    manifest["recipe"] |= change
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(DataError, match=r"manifest\.json is damaged"):
        read_tokens(folder, "train")


def test_data_of_the_first_format_is_read(folder):
    """As versions before packings wrote it."""
    manifest = read_manifest(folder)
    first = ("source", "text_field", "tokenizer", "vocab_size", "length", "wrap", "valid_every")
    old = {key: value for key, value in manifest.items() if key not in ("packing", "preset")}
    old |= {"format": "mcd-data-1", "recipe": {key: manifest["recipe"][key] for key in first}}
    (folder / MANIFEST).write_text(json.dumps(old))
    assert read_manifest(folder)["packing"] == "stream"
    assert len(read_tokens(folder, "train")) == sum(shard["tokens"] for shard in manifest["splits"]["train"])
    recipe = Recipe.from_dict(old["recipe"])
    with pytest.raises(DataError, match=r"earlier version, which read the names of special tokens.*--special-tokens"):
        prepare(recipe, folder, shard_tokens=500)
    made = prepare(replace(recipe, special_tokens=True), folder, shard_tokens=500)  # which is what was done then
    assert made == read_manifest(folder) and made["format"] == "mcd-data-1"


def test_checksums_are_of_the_files(folder):
    for shards in read_manifest(folder)["splits"].values():
        for shard in shards:
            assert shard["sha256"] == file_sha256(folder / shard["file"])
