"""`exact:LANGUAGE` where a model is named: as a teacher, as a source of `mcd eval`, and on the frontier."""

import json

import pytest

from mcd.checkpoints.folder import save_pretrained
from mcd.cli.main import main
from mcd.data.languages.known import LANGUAGES
from mcd.data.tokenizer import word_tokenizer

FEW = "--steps-per-round 2 --batch-size 2 --length 16 --threads 1".split()


@pytest.fixture
def start(tiny_denoiser, tmp_path, monkeypatch):
    """A model of `hmm`, of noise."""
    monkeypatch.setattr("mcd.data.prepare.pipeline.LANGUAGE_TOKENS", {"train": 4000, "valid": 1000})
    folder = tmp_path / "start"
    save_pretrained(tiny_denoiser(V=32), folder)
    word_tokenizer(LANGUAGES["hmm"]().symbols).save(str(folder / "tokenizer.json"))
    (folder / "run.json").write_text(json.dumps({"config": {"data": "hmm"}}))
    return folder


def refused(capsys, argv, *words):
    assert main([str(word) for word in argv]) == 2
    error = capsys.readouterr().err
    assert all(word in error for word in words), error


@pytest.mark.heavy
@pytest.mark.parametrize("method", ["mcd", "ltd", "sdtt", "cd4lm", "idlm"])
def test_the_truth_teaches(start, tmp_path, method):
    """Two rounds; the run folder says from what, and its student is a model of the language for every command."""
    out = tmp_path / method
    argv = ["distill", method, "--teacher", "exact:hmm", "--init", str(start), "--out", str(out), "--rounds", "2", *FEW]
    assert main(argv) == 0
    config = json.loads((out / "run.json").read_text())["config"]
    assert (config["teacher"], config["init"], config["data"]) == ("exact:hmm", str(start), "hmm")
    rows = [json.loads(line) for line in (out / "stats.jsonl").read_text().splitlines()]
    assert rows[-1]["step"] == 4 and all(row["distillation"] > 0 for row in rows if "distillation" in row)
    assert main(["sample", str(out), "--num", "2", "--steps", "2", "--out", str(tmp_path / "s.jsonl")]) == 0
    if method == "mcd":
        assert main(argv) == 0  # it is done
        again = ["distill", "sdtt", "--teacher", str(out), "--out", str(tmp_path / "again"), "--rounds", "1", *FEW]
        assert main(again) == 0  # the student's data are known


@pytest.mark.heavy
def test_a_student_learns_the_posterior_itself(start, tmp_path):
    """Without a gap the student of a model has nothing to learn; that of the truth has, and does."""
    out = tmp_path / "out"
    argv = ["distill", "mcd", "--teacher", "exact:hmm", "--init", str(start), "--out", str(out), "--rounds", "1"]
    options = "--delta0 0 --tau0 1 --steps-per-round 30 --batch-size 16 --length 16 --lr 1e-2 --log-every 1".split()
    assert main([*argv, *options, "--threads", "1"]) == 0
    rows = [json.loads(line) for line in (out / "stats.jsonl").read_text().splitlines()]
    loss = [row["distillation"] for row in rows if "distillation" in row]
    assert sum(loss[-5:]) < 0.8 * sum(loss[:5])


@pytest.mark.heavy
def test_the_truth_is_measured(start, tmp_path, capsys):
    """By `mcd eval`, and as the teacher of the frontier; a language that is measured exactly has its floor there."""
    out, few = tmp_path / "m.json", ["--num", "8", "--length", "8"]
    assert main(["eval", "exact:hmm", "--steps", "2", "8", "--order", "low-discrepancy", *few, "--out", str(out)]) == 0
    rows = json.loads(out.read_text())["rows"]
    assert [row["nfe"] for row in rows] == [2.0, 8.0] and all(row["tv_bigram"] < 1 for row in rows)
    argv = ["frontier", "exact:hmm", start, "--steps", "2", "--temperatures", "0.8", "1", *few, "--jobs", "1"]
    assert main([*map(str, argv), "--out", str(tmp_path / "f")]) == 0
    matched = json.loads((tmp_path / "f" / "frontier.json").read_text())["matched"]
    assert {(row["model"], row["teacher"]) for row in matched} == {("start", "exact:hmm")}
    refused(capsys, ["eval", "exact:hmm", "--out", out], "--length", "exact:hmm")
    refused(capsys, ["eval", "exact:hmm", *few, "--weights", "raw", "--out", out], "--weights", "no network")
    refused(capsys, ["eval", "exact:latin", *few, "--out", out], "exact:latin", "no such language", "english")
    refused(capsys, ["frontier", "exact:hmm", start, "--out", tmp_path / "g"], "--length", "exact:hmm")


@pytest.mark.heavy
def test_what_the_truth_cannot_teach_is_refused(start, tiny_denoiser, tmp_path, capsys):
    out = ["--out", tmp_path / "no", *FEW]
    exact = ["--teacher", "exact:hmm"]
    refused(capsys, ["distill", "mcd", *exact, *out], "--init", "mcd train --data hmm")
    refused(capsys, ["distill", "mcd", "--teacher", "exact:latin", "--init", start, *out], "--teacher exact:latin")
    refused(capsys, ["distill", "mcd", "--teacher", start, "--init", start, *out], "--init", "begins as its teacher")
    refused(capsys, ["distill", "mmd", *exact, "--init", start, *out], "--teacher exact:hmm", "hidden states")
    refused(capsys, ["distill", "duo-dcd", *exact, "--init", start, *out], "--teacher exact:hmm", "uniform")
    refused(capsys, ["distill", "mcd", *exact, "--init", start, "--teacher-ema", "0.9", *out], "--teacher-ema")
    refused(capsys, ["distill", "mcd", "--teacher", "exact:markov", "--init", start, *out], "--data", "hmm", "markov")
    other = tmp_path / "other"
    save_pretrained(tiny_denoiser(V=31), other)
    word_tokenizer(LANGUAGES["hmm"]().symbols[:31]).save(str(other / "tokenizer.json"))
    refused(
        capsys, ["distill", "mcd", *exact, "--init", other, "--data", "hmm", *out], "--data hmm", "tokens of its own"
    )
