"""`mcd prepare`: what it says, what it refuses, and with which status."""

import json
import random

import numpy as np
import pytest

from mcd.cli.main import main
from mcd.data.manifest import read_manifest
from mcd.data.prepare import workers
from mcd.data.tokenizer import load_tokenizer
from mcd.data.tokens import read_tokens
from mcd.errors import HubError, WorkFailed


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
    (tmp_path / "a.txt").write_text("the people")
    assert main(["prepare", "--preset", "fineweb", "--data", str(tmp_path), "--out", "x", "--dry-run"]) == 0
    recipe = json.loads(capsys.readouterr().out)["recipe"]
    assert (recipe["source"], recipe["subset"], recipe["valid_every"]) == (str(tmp_path), "sample-10BT", 1000)
    refused(capsys, ["--preset", "owt", "--out", "x"], "--preset owt: is not known", "owt-mdlm")


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


TXT, JSONL, TALKS = (["--data", name] for name in ("a.txt", "b.jsonl", "c.jsonl"))
PAIRS = [*JSONL, "--prompt-field", "q"]


@pytest.mark.parametrize(
    "argv, option, reason",
    [
        ([*TXT, "--split", "valid"], "--split", "do not name their splits"),
        (["--data", "sotu", "--split=test"], "--split", "is bundled"),
        (["--data", "folder", "--split", "test"], "--split", "do not name their splits"),
        ([*JSONL, "--subset", "small"], "--subset", "datasets of the hub"),
        ([*JSONL, "--revision", "v2"], "--revision", "datasets of the hub"),
        ([*TXT, "--text-field", "text"], "--text-field", "a .txt has no fields"),
        ([*TXT, "--text_field", "text"], "--text_field", "a .txt has no fields"),
        ([*PAIRS, "--text-field", "a"], "--text-field", "prompts and answers are read"),
        ([*JSONL, "--answer-field", "a"], "--answer-field", "instruction data"),
        (
            [*TALKS, "--messages-field", "m", "--answer-field", "a"],
            "--answer-field",
            "the answers are in --messages-field",
        ),
        ([*JSONL, "--template", "{prompt}"], "--template", "instruction data"),
        ([*JSONL, "--too-long", "drop"], "--too-long", "instruction data"),
        ([*JSONL, "--diffuse-padding"], "--diffuse-padding", "instruction data"),
        ([*JSONL, "--no-diffuse-padding"], "--no-diffuse-padding", "instruction data"),
        ([*TXT, "--tokenizer", "t", "--vocab-size", "2048"], "--vocab-size", "t is given"),
        (["--preset", "owt-mdlm", "--vocab-size", "300"], "--vocab-size", "gpt2 is given"),
        (["--preset", "owt-mdlm", "--valid-every", "9"], "--valid-every", "--valid-last 100000 decides"),
        ([*TXT, "--valid-last", "2", "--valid-every", "16"], "--valid-every", "--valid-last 2 decides"),
        *(
            (["--data", "hmm", *option], next(w for w in reversed(option) if w[:2] == "--"), "--data hmm")
            for option in (
                ["--vocab-size", "2048"],
                ["--text-field", "text"],
                ["--wrap", "--group-documents", "2"],
                ["--valid-every", "16"],
                ["--valid-last", "3"],
                ["--subset", "a"],
                ["--split", "train"],
                ["--revision", "a"],
                ["--answer-field", "a"],
                ["--messages-field", "a"],
                ["--template", "{prompt}"],
                ["--too-long", "drop"],
                ["--diffuse-padding"],
                ["--dedup"],
                ["--workers", "2"],
                ["--wrap"],
                ["--prompt-field", "q"],
            )
        ),
        (["--verify", "--length", "128"], "--length", "--verify"),
    ],
)
def test_options_that_were_typed_and_change_nothing_are_refused(capsys, tmp_path, monkeypatch, argv, option, reason):
    """Also with the value that is the default; the same words without them are taken."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    for name in ("a.txt", "folder/a.txt"):
        (tmp_path / name).write_text("the people\n\nof our union")
    (tmp_path / "b.jsonl").write_text('{"text": "the people", "q": "of", "answer": "our"}\n' * 2)
    (tmp_path / "c.jsonl").write_text(json.dumps({"m": [{"role": "user", "content": "of"}]}) + "\n")
    if option in ("--wrap", "--prompt-field"):
        refused(capsys, [*argv, "--out", "out"], f"{option}: ", reason)
        return
    refused(capsys, [*argv, "--out", "out", *(["--dry-run"] if reason != "--verify" else [])], f"{option}: ", reason)
    flags = ("--diffuse-padding", "--no-diffuse-padding", "--dedup")
    at = next(i for i, word in enumerate(argv) if word.split("=")[0] == option)
    kept = argv[:at] + argv[at + (1 if option in flags or "=" in argv[at] else 2) :]
    if "--verify" not in kept:
        assert main(["prepare", *kept, "--out", "out", "--dry-run"]) == 0


def test_presets_without_typed_options_are_taken_for_local_text(capsys, tmp_path):
    """The subset that fineweb's preset names is of no use for a copy, and nobody typed it."""
    (tmp_path / "a.txt").write_text("the people")
    argv = ["prepare", "--preset", "fineweb", "--data", str(tmp_path), "--out", "x", "--dry-run"]
    assert main(argv) == 0 and main([*argv, "--preset=fineweb", "--length", "9"]) == 0


def test_what_was_passed_over_left_out_and_there_twice_is_told_and_recorded(capsys, tmp_path, tiny_data):
    folder = tmp_path / "data"
    folder.mkdir()
    texts = [f"the people of our union {i % 20}" for i in range(40)]
    (folder / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in [*texts, None, " "]))
    (folder / "b.csv").write_text("a,b")
    argv = ["prepare", "--data", str(folder), "--tokenizer", str(tiny_data), "--length", "8"]
    assert main([*argv, "--out", str(tmp_path / "out")]) == 0
    told = capsys.readouterr().err
    assert "1 file is passed over (not .txt, .jsonl, .json, .parquet, .arrow" in told and ": b.csv" in told
    assert "1 record is left out: a field is null" in told and "1 record is left out: blank" in told
    assert "of 3 held-out documents 3 are also in train" in told and "train holds 17 copies" in told
    manifest = read_manifest(tmp_path / "out")
    assert manifest["passed_over"][0]["files"] == ["b.csv"] and manifest["left_out"] == {"null": 1, "blank": 1}
    assert main([*argv, "--out", str(tmp_path / "out")]) == 0
    assert "of 3 held-out documents 3 are also" in capsys.readouterr().err  # each time
    assert main([*argv, "--dedup", "--out", str(tmp_path / "once")]) == 0
    told = capsys.readouterr().err
    assert "20 records are left out: copies of earlier ones (--dedup)" in told and "also in train" not in told


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
    assert main(["prepare", "--verify", "--out", str(out), "--dry-run"]) == 0
    assert json.loads(capsys.readouterr().out) == {"verify": str(out)}
    data = bytearray((out / "valid-00000.bin").read_bytes())
    data[7] ^= 4
    (out / "valid-00000.bin").write_bytes(data)
    refused(capsys, ["--verify", "--out", str(out)], "valid-00000.bin", "checksum")
    refused(capsys, ["--verify", "--out", str(out / "no")], f"--out {out / 'no'}: no manifest.json")


@pytest.mark.heavy
def test_by_workers_the_same(capsys, tmp_path, tiny_data, monkeypatch):
    """Enough text for processes of their own; nothing is said but what was made."""
    rng = random.Random(0)
    words = "the people of our union and the states in peace".split()
    lines = (json.dumps({"text": " ".join(rng.choices(words, k=600))}) for _ in range(300))
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    monkeypatch.setattr("mcd.data.prepare.records.UNIT_BYTES", 1 << 16)
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


@pytest.mark.heavy
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


def test_a_chat_template_of_a_file(capsys, tmp_path, tiny_data):
    pytest.importorskip("transformers")
    (tmp_path / "a.jsonl").write_text('{"q": "the people", "answer": "our union"}\n' * 4)
    (tmp_path / "mine.jinja").write_text("{% for m in messages %}of {{ m.content }} {% endfor %}")
    argv = ["--data", str(tmp_path / "a.jsonl"), "--tokenizer", str(tiny_data), "--length", "20", "--prompt-field", "q"]
    template, out = str(tmp_path / "mine.jinja"), tmp_path / "out"
    assert main(["prepare", *argv, "--template", template, "--out", str(out)]) == 0
    assert "chat template" not in capsys.readouterr().err
    row = read_tokens(out, "valid")[:][2:]
    assert load_tokenizer(out).decode(row.tolist()) == "of the people of our union "
    for wrong, words in (("not.jinja", "cannot be read"), ("ask", "or be a chat template")):
        assert main(["prepare", *argv, "--template", wrong, "--out", str(tmp_path / "never")]) == 2
        said = capsys.readouterr().err
        assert f"--template {wrong}" in said.replace("'", "") and words in said
    assert not (tmp_path / "never").exists()


@pytest.mark.parametrize("fault", [HubError("the hub stopped"), WorkFailed("a process ended")])
def test_what_can_be_done_later_is_no_fault_of_the_request(capsys, prepare, monkeypatch, fault):
    def stops(*_, **__):
        raise fault

    monkeypatch.setattr("mcd.cli.data_option.prepare", stops)
    refused(capsys, prepare[0], str(fault), status=1)
