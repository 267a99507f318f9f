"""Folders as others write them: which files are read, in which order, and what is named as passed over."""

import bz2
import gzip
import json
import shutil

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from mcd.data.prepare.corpus import Records, documents, files_of, source_sha256
from mcd.data.recipe import Recipe
from mcd.errors import DataError

TEXTS = [f"text {i} of the union" for i in range(12)]


def texts_of(folder, split="train"):
    return [text for (text,) in Records(Recipe(str(folder), split=split))]


def passed(folder, split="train"):
    return {name for names in files_of(Recipe(str(folder), split=split)).passed.values() for name in names}


def jsonl(path, texts):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))


def parquet(path, texts):
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.table({"text": texts}), path)


@pytest.fixture
def quiet(monkeypatch):
    """No bars of `datasets`, and no caches outside of the folder."""
    datasets.disable_progress_bars()
    datasets.enable_caching()


def test_a_saved_data_set_that_was_mapped_filtered_and_shuffled(tmp_path, quiet):
    folder = tmp_path / "saved"
    datasets.Dataset.from_dict({"text": TEXTS}).save_to_disk(str(folder), num_shards=3)
    fingerprint = source_sha256(Recipe(str(folder)))
    loaded = datasets.load_from_disk(str(folder))
    loaded.map(lambda row: {"n": len(row["text"])})
    loaded.filter(lambda row: row["text"].startswith("text 1")).shuffle(seed=0)
    caches = {path.name for path in folder.glob("cache-*.arrow")}
    assert len(caches) >= 3
    assert texts_of(folder) == TEXTS and list(documents(str(folder))) == TEXTS
    assert passed(folder) == caches
    assert source_sha256(Recipe(str(folder))) == fingerprint
    loaded.filter(lambda row: row["text"].startswith("text 1")).save_to_disk(str(tmp_path / "filtered"))
    assert texts_of(tmp_path / "filtered") == [text for text in TEXTS if text.startswith("text 1")]


def test_the_order_is_that_of_state_json(tmp_path, quiet):
    folder = tmp_path / "saved"
    datasets.Dataset.from_dict({"text": TEXTS}).save_to_disk(str(folder), num_shards=3)
    state = json.loads((folder / "state.json").read_text())
    state["_data_files"].reverse()
    (folder / "state.json").write_text(json.dumps(state))
    assert texts_of(folder) == TEXTS[8:] + TEXTS[4:8] + TEXTS[:4]
    jsonl(folder / "more.jsonl", ["another"])
    (folder / state["_data_files"].pop()["filename"]).rename(folder / "data-old.arrow")
    (folder / "state.json").write_text(json.dumps(state))
    assert texts_of(folder) == TEXTS[8:] + TEXTS[4:8] and passed(folder) == {"more.jsonl", "data-old.arrow"}
    (folder / state["_data_files"][0]["filename"]).unlink()
    with pytest.raises(DataError, match=r"state\.json names data-00002-of-00003\.arrow, which is not there"):
        texts_of(folder)


def test_indices_apart_are_refused(tmp_path, quiet):
    datasets.Dataset.from_dict({"text": TEXTS}).save_to_disk(str(tmp_path))
    state = json.loads((tmp_path / "state.json").read_text())
    (tmp_path / "state.json").write_text(json.dumps(state | {"_indices_files": [{"filename": "indices.arrow"}]}))
    with pytest.raises(DataError, match=r"flatten_indices\(\)\.save_to_disk"):
        texts_of(tmp_path)


def test_splits_of_a_dataset_dict_are_not_mixed(tmp_path, quiet):
    parts = {"train": TEXTS[:6], "test": TEXTS[6:9], "train_sft": TEXTS[9:]}
    datasets.DatasetDict(
        {name: datasets.Dataset.from_dict({"text": part}) for name, part in parts.items()}
    ).save_to_disk(str(tmp_path / "all"))
    (tmp_path / "all" / "notes.txt").write_text("no text of it")
    for split, part in parts.items():
        assert texts_of(tmp_path / "all", split) == part
        layout = files_of(Recipe(str(tmp_path / "all"), split=split))
        others = {f"{name}/data-00000-of-00001.arrow" for name in parts if name != split}
        assert layout.split == split and passed(tmp_path / "all", split) == {*others, "notes.txt"}
    assert source_sha256(Recipe(str(tmp_path / "all"), split="test")) != source_sha256(Recipe(str(tmp_path / "all")))
    with pytest.raises(DataError, match="holds the splits test, train, train_sft and no valid; name one with --split"):
        texts_of(tmp_path / "all", "valid")


@pytest.mark.parametrize(
    "train, other, split",
    [
        ("data/train-00000-of-00002.parquet", "data/test-00000-of-00001.parquet", "test"),
        ("train/a.parquet", "dev/a.parquet", "validation"),
        ("ptb.train.parquet", "ptb.valid.parquet", "valid"),
        ("train-00000-of-00001.parquet", "unsupervised-00000-of-00001.parquet", "unsupervised"),
        ("train_1.parquet", "test_1.parquet", "test"),
    ],
)
def test_files_that_name_their_split_are_not_mixed(tmp_path, train, other, split):
    parquet(tmp_path / train, TEXTS[:6])
    assert texts_of(tmp_path) == TEXTS[:6] and files_of(Recipe(str(tmp_path))).split == "train"
    parquet(tmp_path / other, TEXTS[6:])
    assert texts_of(tmp_path) == TEXTS[:6] and passed(tmp_path) == {other}
    assert texts_of(tmp_path, split) == TEXTS[6:] and passed(tmp_path, split) == {train}


def test_files_of_which_some_name_no_split_are_read_together_and_that_is_told(tmp_path):
    for name, text in (("train.txt", "a"), ("test.txt", "b"), ("z.txt", "c"), ("data-00000-of-00001.txt", "d")):
        (tmp_path / name).write_text(text)
    assert texts_of(tmp_path) == ["d", "b", "a", "c"]
    (note,) = files_of(Recipe(str(tmp_path))).notes()
    assert "splits test and train are read as one text" in note
    for name in ("part-00000-of-00002.txt", "books-00000-of-00001.txt"):
        (tmp_path / "shards").mkdir(exist_ok=True)
        (tmp_path / "shards" / name).write_text(name)
    layout = files_of(Recipe(str(tmp_path / "shards")))
    assert len(layout.files) == 2 and layout.notes() == [] and layout.split is None


def test_one_split_alone_is_read_as_the_default(tmp_path):
    jsonl(tmp_path / "test.jsonl", TEXTS)
    assert texts_of(tmp_path) == texts_of(tmp_path, "test") == TEXTS
    with pytest.raises(DataError, match="holds the splits test and no validation; name one"):
        texts_of(tmp_path, "validation")


def test_every_kind_of_json_is_read_and_the_rest_is_named(tmp_path):
    lines = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS[3:6])
    jsonl(tmp_path / "a.jsonl", TEXTS[:3])
    (tmp_path / "b.json.gz").write_bytes(gzip.compress(lines.encode()))
    (tmp_path / "c.JSONL.BZ2").write_bytes(bz2.compress(lines.replace("text ", "third ").encode()))
    (tmp_path / "d.json").write_text(json.dumps([{"text": text} for text in TEXTS[6:]], indent=1))
    (tmp_path / "e.json").write_text(json.dumps({"text": "one\nobject"}, indent=1))
    (tmp_path / "config.json").write_text(json.dumps({"model": "no text"}))
    (tmp_path / "dataset_info.json").write_text("{}")
    (tmp_path / "table.csv").write_text("text\nno\n")
    jsonl(tmp_path / ".ipynb_checkpoints" / "a.jsonl", ["again"])
    (tmp_path / "linked").symlink_to(tmp_path / ".ipynb_checkpoints")
    (tmp_path / "cache-12.arrow").write_bytes(b"of datasets")
    third = [text.replace("text ", "third ") for text in TEXTS[3:6]]
    assert texts_of(tmp_path) == [*TEXTS[:6], *third, *TEXTS[6:], "one\nobject"]
    layout = files_of(Recipe(str(tmp_path)))
    assert passed(tmp_path) == {"config.json", "table.csv", ".ipynb_checkpoints/a.jsonl", "cache-12.arrow", "linked"}
    assert sum(entry["count"] for entry in layout.record()) == 5 and len(layout.notes()) == 5
    assert any("1 file is passed over" in note and note.endswith(": table.csv") for note in layout.notes())


def test_a_folder_without_text_names_what_it_has(tmp_path):
    for i in range(7):
        (tmp_path / f"{i}.csv").write_text("a,b")
    (tmp_path / "a.json").write_text('{"body": "text"}')
    with pytest.raises(
        DataError, match=r"holds no \.txt.*7 files are passed over .*0\.csv.*and 2 more.*'text'.*a\.json"
    ):
        texts_of(tmp_path)
    assert list(documents(str(tmp_path), "body")) == ["text"]


def test_a_cache_of_the_hub(tmp_path):
    cache = tmp_path / "datasets--owner--name"
    (cache / "refs").mkdir(parents=True)
    parquet(cache / "snapshots" / "one" / "train.parquet", TEXTS)
    (cache / "blobs").mkdir()
    (cache / "blobs" / "abc").write_bytes(b"the same")
    assert texts_of(cache) == TEXTS and passed(cache) == set()
    shutil.copytree(cache / "snapshots" / "one", cache / "snapshots" / "two")
    with pytest.raises(DataError, match="give one of the folders in its snapshots/: one, two"):
        texts_of(cache)
