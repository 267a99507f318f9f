"""`mcd frontier`: ways of drawing as curves, guidance among them, and how many cells a dry run says there are."""

import json

import pytest

from mcd.checkpoints.folder import save_pretrained
from mcd.cli.main import main
from mcd.data.languages.known import LANGUAGES
from mcd.data.tokenizer import word_tokenizer


@pytest.fixture
def here(tiny_denoiser, tmp_path, monkeypatch):
    """Where models of `hmm` of each kind lie, of noise: masked, locked, uniform."""
    monkeypatch.chdir(tmp_path)
    for process in ("masked", "locked", "uniform"):
        save_pretrained(tiny_denoiser(V=32, process=process), tmp_path / process)
        word_tokenizer(LANGUAGES["hmm"]().symbols).save(str(tmp_path / process / "tokenizer.json"))
        (tmp_path / process / "run.json").write_text(json.dumps({"config": {"data": "hmm"}}))
    return tmp_path


def counted(words, capsys):
    """The cells of a dry run."""
    capsys.readouterr()
    assert main(f"frontier {words} --out out --dry-run".split()) == 0
    return json.loads(capsys.readouterr().out)["cells"]


@pytest.mark.heavy
def test_guidance_adds_curves_of_masked_models_and_older_cells_keep_their_names(here, capsys):
    plain = "masked locked uniform --steps 2 --num 16 --temperatures 0.7 1.0 --jobs 1"
    assert main(f"frontier {plain} --out out".split()) == 0
    before = {path.name for path in (here / "out" / "cells").iterdir()}
    cells = counted(f"{plain} --guidance 0 0.5", capsys)
    assert main(f"frontier {plain} --guidance 0 0.5 --out out".split()) == 0
    result = json.loads((here / "out" / "frontier.json").read_text())
    assert len(result["rows"]) == cells == 10
    assert len({path.name for path in (here / "out" / "cells").iterdir()} - before) == 2 * 4  # of guided cells alone
    guided = [row for row in result["rows"] if "guidance" in row]
    assert sorted(row["model"] for row in guided) == ["locked"] * 2 + ["masked"] * 2
    assert all(row["guidance"] == row["protocol"]["guidance"] == 0.5 for row in guided)
    assert all("guidance" not in row["protocol"] for row in result["rows"] if row not in guided)
    assert {(row["model"], row["teacher"]) for row in result["matched"]} == {
        (model, "masked guidance 0.0")
        for model in ("masked guidance 0.5", "locked guidance 0.0", "locked guidance 0.5", "uniform")
    }


def test_a_dry_run_counts_the_curves_that_each_model_has(here, capsys):
    few = "--steps 2 4 --temperatures 0.8 1"
    for words, curves in (
        ("masked uniform --top-p 1 0.9", 4),
        ("masked uniform --guidance 0 0.5 1", 4),
        ("masked locked uniform --sampler ancestral remdm", 4),
        ("masked locked uniform --sampler ancestral remdm --guidance 0 0.5 --top-p 1 0.9", 14),
        ("masked --guidance 0 0.5", 2),
        ("masked uniform --guidance 0.5", 2),
        ("uniform exact:hmm --guidance 0 0.5", 3),
        ("masked runs/not-made-yet --guidance 0 0.5", 4),
    ):
        assert counted(f"{words} {few}", capsys) == 4 * curves, words


@pytest.mark.heavy
def test_guidance_that_no_model_takes_is_refused(here, capsys):
    assert counted("uniform --top-p 1 0.9 --guidance 0", capsys) == 30
    for words, said in (
        ("uniform --guidance 0 0.5", "--guidance: does nothing here, since no MODEL is masked; leave it out"),
        ("uniform --top-p 1 0.9 --guidance 0.5", "--guidance: does nothing here, since no MODEL is masked"),
        ("masked uniform --guidance -1", "--guidance -1.0: must be in [0, 100], each"),
        ("masked uniform --guidance 0 0", "--guidance: names 0.0 twice"),
        ("masked --guidance 0.5", "MODEL: one model has no other"),
        ("locked uniform --sampler remdm", "--sampler: does nothing here, since no MODEL is masked"),
    ):
        for more in ("", "--dry-run"):
            assert main(f"frontier {words} --out out {more}".split()) == 2
            assert said in " ".join(capsys.readouterr().err.split()), words
