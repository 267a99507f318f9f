"""Datasets of the hub, with folders of files standing in for it: what is asked for, and going on midway."""

import json
import sys

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from mcd.data.manifest import read_manifest
from mcd.data.prepare import hub, pipeline, records
from mcd.data.prepare.corpus import Records, documents
from mcd.data.prepare.hub import HubRecords
from mcd.data.prepare.pipeline import prepare
from mcd.data.recipe import Recipe
from mcd.errors import DataError, HubError

ROWS = 60


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """A hub with one dataset, three parquet files; collects what it is asked for."""
    folder = tmp_path / "remote"
    folder.mkdir()
    for part in range(3):
        texts = [f"the people of part {part}, text {i}, of the union" for i in range(ROWS // 3)]
        table = pyarrow.table({"text": texts, "id": list(range(ROWS // 3))})
        pyarrow.parquet.write_table(table, folder / f"train-{part}.parquet", row_group_size=7)
    real, calls = datasets.load_dataset, []

    def load_dataset(name, subset=None, **options):
        calls.append((name, subset, options["split"], options["revision"]))
        if name != "owner/name":
            raise FileNotFoundError(name)
        files = sorted(map(str, folder.glob("*.parquet")))
        return real("parquet", data_files={"train": files}, split=options["split"], streaming=options["streaming"])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(pipeline, "commit_of", lambda name, revision: f"commit of {revision or 'main'}")
    monkeypatch.setattr(records, "UNIT_BYTES", 300)
    return calls


def test_subset_split_and_revision_are_asked_for(asked):
    records = Records(Recipe("owner/name", prompt_field="id", answer_field="text", subset="small", revision="v2"))
    rows = list(records)
    assert asked == [("owner/name", "small", "train", "v2")]
    assert len(rows) == ROWS and rows[25] == (5, "the people of part 1, text 5, of the union")
    assert [text for _, text in rows] == list(documents("owner/name"))


def test_going_on_behind_any_row(asked):
    records = HubRecords(Recipe("owner/name"), None)
    seen = [(values, json.loads(json.dumps(records.position()))) for values in records]
    texts = [values for values, _ in seen]
    for count in (1, 6, 7, 20, 21, 59, 60):
        rest = HubRecords(Recipe("owner/name"), seen[count - 1][1])
        assert list(rest) == texts[count:] and rest.count == ROWS


@pytest.fixture
def recipe(tiny_data):
    return Recipe("owner/name", tokenizer=str(tiny_data), length=8, valid_last=10, revision="v2")


@pytest.mark.heavy
def test_a_hub_that_stops_midway_costs_nothing_but_the_time(asked, recipe, tmp_path, monkeypatch):
    prepare(recipe, tmp_path / "whole", 100)
    iterate = datasets.IterableDataset.__iter__

    def stops(self):
        for i, row in enumerate(iterate(self)):
            if i == 33:
                raise ConnectionError("the line is dead")
            yield row

    with monkeypatch.context() as patch:
        patch.setattr(datasets.IterableDataset, "__iter__", stops)
        with pytest.raises(HubError, match=r"after 33 rows .*ConnectionError.*run the same command again"):
            prepare(recipe, tmp_path / "out", 100, record_s=0.0)
    read = []
    yielded = HubRecords.__iter__
    monkeypatch.setattr(HubRecords, "__iter__", lambda self: (read.append(row) or row for row in yielded(self)))
    prepare(recipe, tmp_path / "out", 100)
    assert 0 < len(read) < ROWS - 20  # the first file was not read again
    contents = [{path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("whole", "out")]
    assert contents[0] == contents[1]


def test_the_commit_is_recorded_and_read(asked, recipe, tmp_path):
    prepare(recipe, tmp_path / "out")
    manifest = read_manifest(tmp_path / "out")
    assert manifest["source_commit"] == "commit of v2" and manifest["recipe"]["revision"] == "v2"
    assert {revision for _, _, _, revision in asked} == {"commit of v2"}
    assert prepare(recipe, tmp_path / "out") == manifest


def test_wrong_names_and_fields(asked, monkeypatch):
    with pytest.raises(DataError, match=r"neither a file here nor bundled .*FileNotFoundError"):
        list(documents("owner/other"))
    with pytest.raises(DataError, match=r"no 'body'; they have text, id"):
        list(documents("owner/name", "body"))
    with pytest.raises(DataError, match=r"owner/name, row 1: field 'id' holds no string"):
        list(documents("owner/name", "id"))
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"pip install 'mcd-lm\[hub\]'"):
        list(documents("owner/name"))


def raising(*args, **options):
    raise ConnectionError


def test_the_commit_of_a_hub_that_cannot_be_asked_is_unknown(monkeypatch):
    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", raising)
    assert hub.commit_of("owner/name", None) is None
