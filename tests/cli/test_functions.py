"""`mcd.train` and `mcd.distill`: keyword arguments as the words of the commands."""

from pathlib import Path

import pytest

import mcd
from mcd.cli.functions import words_of
from mcd.errors import UsageError


def test_arguments_become_options():
    options = {"steps_per_round": 3, "betas": (0.9, 0.98), "compile": True, "train_time": False, "lr": None}
    options |= {"data": Path("a b"), "threshold": -0.5}
    words = "--steps-per-round 3 --betas 0.9 0.98 --compile --no-train-time --data".split()
    assert words_of(options) == [*words, "a b", "--threshold=-0.5"]
    with pytest.raises(UsageError, match="--dry-run: is for the command line"):
        words_of({"dry_run": True})


def test_what_the_commands_refuse_is_raised_and_nothing_is_written(tmp_path):
    for words, call in (
        ("--stepz: unknown option; did you mean --steps", lambda: mcd.train(out=tmp_path / "a", stepz=3)),
        ("--lr 0.0: must be positive", lambda: mcd.distill("mcd", out=tmp_path / "a", lr=0)),
        ("METHOD mdc: is not known", lambda: mcd.distill("mdc", out=tmp_path / "a")),
        ("--hidden: does nothing here", lambda: mcd.train(out=tmp_path / "a", init="demo", hidden=8)),
    ):
        with pytest.raises(UsageError, match=words):
            call()
    assert not list(tmp_path.iterdir())


def test_a_model_stands_for_its_folder(tmp_path):
    demo = mcd.load("demo", device="cpu")
    assert words_of({"teacher": demo}) == ["--teacher", str(demo.denoiser.folder)]
