"""`mcd prepare`: what it says, what it refuses, and with which status."""

import json
import random

import numpy as np
import pytest

from mcd.app.cli import main
from mcd.data import workers
from mcd.data.hub import HubStopped
from mcd.data.shards import read_manifest, read_tokens


def refused(capsys, argv, *words, status=2):
    assert main(["prepare", *argv]) == status
    err = capsys.readouterr().err
    assert err.startswith("mcd: ") and "Traceback" not in err
    for word in words:
        assert word in err


@pytest.fixture
def prepare(text_file, tiny_data, tmp_path):
    """The command for a small text with a tokenizer, and its folder."""
    options = [
        "--data",
        str(text_file),
        "--tokenizer",
        str(tiny_data),
        "--length",
        "16",
        "--out",
        str(tmp_path / "out"),
    ]
    return options, tmp_path / "out"


def test_presets_are_starting_points(capsys, tmp_path):
    assert main(["prepare", "--preset", "owt-mdlm", "--length", "512", "--out", "x", "--dry-run"]) == 0
    recipe = json.loads(capsys.readouterr().out)["recipe"]
    assert recipe["source"] == "Skylion007/openwebtext" and recipe["tokenizer"] == "gpt2"
    assert (recipe["length"], recipe["wrap"], recipe["group_documents"], recipe["valid_last"]) == (
        512,
        True,
        1000,
        100_000,
    )
    assert main(["prepare", "--preset", "fineweb", "--data", str(tmp_path), "--out", "x", "--dry-run"]) == 0
    recipe = json.loads(capsys.readouterr().out)["recipe"]
    assert (recipe["source"], recipe["subset"], recipe["valid_every"]) == (str(tmp_path), "sample-10BT", 1000)
    refused(capsys, ["--preset", "owt", "--out", "x"], "unknown preset 'owt'", "owt-mdlm")


@pytest.mark.parametrize(
    "more, words",
    [
        (["--workers", "0"], ("--workers 0",)),
        (["--length", "0"], ("--length 0",)),
        (["--valid-last", "-1"], ("--valid-last -1",)),
        (["--group-documents", "10"], ("--group-documents 10", "--wrap")),
        (["--prompt-field", "p"], ("a .txt has no fields",)),
    ],
)
def test_what_makes_no_sense(capsys, prepare, more, words):
    refused(capsys, [*prepare[0], *more], *words)
    assert not (prepare[1] / "manifest.json").exists()


def test_no_text(capsys):
    refused(capsys, ["--out", "x"], "--data: name a text")


@pytest.mark.parametrize(
    "vocabulary", [{"<|endoftext|>": 0}, {"<|endoftext|>": 0, "a": 2}, {"<|endoftext|>": 0, "a": 0}]
)
def test_tokenizers_with_wrong_ids(capsys, text_file, tmp_path, vocabulary):
    model = {"type": "WordLevel", "vocab": vocabulary, "unk_token": "a"}
    (tmp_path / "t.json").write_text(json.dumps({"version": "1.0", "model": model}))
    argv = ["--data", str(text_file), "--tokenizer", str(tmp_path / "t.json"), "--out", str(tmp_path / "out")]
    refused(capsys, argv, "--tokenizer", "t.json: ")
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_verify_sees_a_flipped_bit(capsys, prepare):
    argv, out = prepare
    assert main(["prepare", *argv]) == 0
    capsys.readouterr()
    assert main(["prepare", "--verify", "--out", str(out)]) == 0
    count = len(read_tokens(out, "train"))
    assert f"train: {count:,} values as they were written" in capsys.readouterr().out
    data = bytearray((out / "valid-00000.bin").read_bytes())
    data[7] ^= 4
    (out / "valid-00000.bin").write_bytes(data)
    refused(capsys, ["--verify", "--out", str(out)], "valid-00000.bin", "checksum")
    refused(capsys, ["--verify", "--out", str(out / "no")], "no manifest.json")


def test_by_workers_the_same(capsys, tmp_path, tiny_data, monkeypatch):
    """Enough text for processes of their own; nothing is said but what was made."""
    rng = random.Random(0)
    words = "the people of our union and the states in peace".split()
    lines = (json.dumps({"text": " ".join(rng.choices(words, k=600))}) for _ in range(300))
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    monkeypatch.setattr("mcd.data.units.UNIT_BYTES", 1 << 16)
    argv = ["--data", str(tmp_path / "a.jsonl"), "--tokenizer", str(tiny_data)]
    started = []
    begin = workers._Worker.__init__
    monkeypatch.setattr(workers._Worker, "__init__", lambda self, *rest: (started.append(self), begin(self, *rest))[1])
    for count in ("1", "2"):
        assert main(["prepare", *argv, "--workers", count, "--out", str(tmp_path / count)]) == 0
        assert capsys.readouterr().err == ""
    assert len(started) == 2
    for split in ("train", "valid"):
        assert np.array_equal(read_tokens(tmp_path / "1", split), read_tokens(tmp_path / "2", split))


def test_pairs_that_do_not_fit_are_counted(capsys, tmp_path, tiny_data):
    records = [{"q": "the people of " * (i % 5), "answer": "our union"} for i in range(50)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, records)))
    argv = ["--data", str(tmp_path / "a.jsonl"), "--tokenizer", str(tiny_data), "--length", "20", "--prompt-field", "q"]
    assert main(["prepare", *argv, "--out", str(tmp_path / "drop")]) == 0
    counts = read_manifest(tmp_path / "drop")["counts"]
    assert counts["train"]["dropped"] > 0 and counts["train"]["cut"] == 0
    assert f"train: {counts['train']['dropped']} records longer than a row were dropped" in capsys.readouterr().out
    assert main(["prepare", *argv, "--too-long", "cut", "--out", str(tmp_path / "cut")]) == 0
    assert read_manifest(tmp_path / "cut")["counts"]["train"] == {"dropped": 0, "cut": counts["train"]["dropped"]}


@pytest.mark.parametrize("fault", [HubStopped("the hub stopped"), workers.WorkerDied("a process ended")])
def test_what_can_be_done_later_is_no_fault_of_the_request(capsys, prepare, monkeypatch, fault):
    def stops(*_, **__):
        raise fault

    monkeypatch.setattr("mcd.app.data_of.prepare", stops)
    refused(capsys, prepare[0], str(fault), status=1)
