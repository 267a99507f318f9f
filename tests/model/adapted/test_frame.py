"""[CLS] and [SEP] around a row, as a network was trained: visible in every call, and in no text and no figure."""

import json
import random

import pytest
import torch

from mcd.checkpoints.folder import from_pretrained
from mcd.cli.main import main
from mcd.data.loader import open_loader, spread_rows
from mcd.data.manifest import read_manifest
from mcd.data.tokens import read_tokens
from mcd.eval.likelihood import nelbo_means
from mcd.model.denoiser import Denoiser

pytest.importorskip("lightning_fabric")

CLS, SEP, MASK = 2, 3, 4


@pytest.fixture
def bert(copied):
    """A BERT whose files name what it puts around a row."""
    folder = copied("bert")
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"cls_token": "[CLS]"}))
    return folder


@pytest.fixture
def text(tmp_path):
    rng = random.Random(0)
    path = tmp_path / "text.txt"
    path.write_text("\n\n".join(" ".join(f"w{rng.randrange(20)}" for _ in range(30)) for _ in range(40)))
    return path


@pytest.fixture
def data(bert, text, tmp_path):
    out = tmp_path / "data"
    options = ["--tokenizer", str(bert), "--length", "10", "--valid-every", "4", "--frame", "--out", str(out)]
    assert main(["prepare", "--data", str(text), *options]) == 0
    return out


@pytest.fixture
def seen(monkeypatch):
    """What the network is shown: every z of every call."""
    rows = []
    hidden = Denoiser.hidden

    def watched(self, z_t, *args, **kwargs):
        rows.append(z_t.clone())
        return hidden(self, z_t, *args, **kwargs)

    monkeypatch.setattr(Denoiser, "hidden", watched)
    return rows


def framed(seen):
    """Were all rows that the network saw framed, and something masked between?"""
    rows = [row for z in seen for row in z]
    return len(rows) > 0 and all(row[0] == CLS and row[-1] == SEP for row in rows) and any(MASK in row for row in rows)


def test_rows_are_cut_for_the_frame_and_it_is_not_learnt(data):
    assert (
        read_manifest(data)["frame"] == [CLS, SEP]
        and json.loads((data / "tokenizer_config.json").read_text()).items()
        >= {"cls_token": "[CLS]", "sep_token": "[SEP]", "eos_token": "[SEP]"}.items()
    )
    valid = open_loader(data, "valid", 3)
    tokens = torch.from_numpy(read_tokens(data, "valid")[: 3 * 8].astype("int64")).view(3, 8)
    x0, diffused, _ = valid.batch(0)
    assert torch.equal(x0[:, 1:-1], tokens) and (x0[:, 0] == CLS).all() and (x0[:, -1] == SEP).all()
    assert diffused.tolist() == [[False, *[True] * 8, False]] * 3
    assert torch.equal(spread_rows(valid, valid.rows)[:3], tokens)  # text, for whoever reads or measures it
    train = open_loader(data, "train", 2, length=6)
    assert (train.batch(5).x0[:, [0, -1]] == torch.tensor([CLS, SEP])).all()


def test_training_shows_the_frame_and_does_not_count_it(data, bert, tmp_path, seen):
    out = tmp_path / "run"
    few = ["--steps", "2", "--batch-size", "4", "--optimizer", "adamw", "--threads", "1"]
    assert main(["train", "--init", str(bert), "--data", str(data), "--out", str(out), *few]) == 0
    assert framed(seen)  # in training, in the held-out bound, and in the rows that are drawn on the way
    drawn = next((out / "samples").glob("*.txt")).read_text()
    assert "[CLS]" not in drawn


def test_the_bound_is_of_what_stands_between(data, bert, monkeypatch):
    """It changes with the text, and is the mean over 8 of the 10 tokens."""
    model = from_pretrained(str(bert))
    batch = open_loader(data, "valid", 4).batch(0)
    bound = nelbo_means(model, [batch], draws=3)
    other = batch.x0.clone()
    other[:, 1:-1] = 30
    assert not torch.allclose(bound, nelbo_means(model, [batch._replace(x0=other)], draws=3))
    monkeypatch.setattr(Denoiser, "hidden", lambda self, z_t, t, rows: torch.zeros(len(rows), 1))
    monkeypatch.setattr(Denoiser, "head_loss", lambda self, hidden, target: (None, (torch.ones(len(hidden)),)))
    assert nelbo_means(model, [batch], draws=600).mean().item() == pytest.approx(1.0, rel=0.03)  # a nat a token


def test_samples_are_drawn_within_the_frame(bert, tmp_path, seen):
    out = tmp_path / "samples.jsonl"
    argv = ["sample", str(bert), "--num", "3", "--steps", "3", "--length", "9", "--threads", "1", "--out", str(out)]
    assert main([*argv, "--frame", "--template", "w1 w2[MASK:3]w4"]) == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert framed(seen)
    for row in rows:
        assert len(row["ids"]) == 7 and row["ids"][:2] == [7, 8] and MASK not in row["ids"]
        assert row["protocol"]["frame"] is True and row["protocol"]["length"] == 9


@pytest.mark.heavy
def test_a_model_of_framed_data_says_so_when_it_is_sampled_without(bert, data, tmp_path, capsys):
    out, few = tmp_path / "run", "--steps 1 --batch-size 2 --length 6 --threads 1".split()
    assert main(["train", "--init", str(bert), "--data", str(data), "--out", str(out), *few]) == 0
    for more, told in (([], True), (["--frame"], False)):
        capsys.readouterr()
        assert main(["sample", str(out), "--steps", "1", "--length", "6", "--threads", "1", *more]) == 0
        assert ("the model was trained on rows in a frame; --frame" in capsys.readouterr().err) == told


def test_figures_are_of_what_stands_between(bert, text, data, tmp_path, seen):
    out, few = tmp_path / "m.json", ["--num", "4", "--threads", "1", "--frame"]
    argv = ["eval", str(bert), "--out", str(out), "--length", "9", *few]
    assert main([*argv, "--steps", "2", "--scorer", "none"]) == 0
    assert framed(seen) and json.loads(out.read_text())["rows"][0]["protocol"]["frame"] is True
    seen.clear()
    assert main([*argv, "--likelihood", str(text)]) == 0
    assert framed(seen) and json.loads(out.read_text())["rows"][0]["protocol"]["frame"] is True
    seen.clear()
    assert main([*argv, "--likelihood", str(data)]) == 0 and framed(seen)


@pytest.mark.heavy
def test_frames_without_tokens_or_room_are_refused(published, bert, text, tmp_path, capsys):
    def refused(*argv):
        assert main(list(map(str, argv))) == 2
        return capsys.readouterr().err

    plain, out = published("bert").folder, tmp_path / "x"  # its files name no [CLS]
    assert "has no tokens that begin and end a row" in refused("sample", plain, "--frame")
    assert "--length 2: must be at least 3 with --frame" in refused("sample", bert, "--frame", "--length", 2)
    prepare = ("prepare", "--data", text, "--out", out, "--frame")
    assert "only a given tokenizer has tokens for it; give --tokenizer" in refused(*prepare)
    assert "not together with --wrap" in refused(*prepare, "--tokenizer", bert, "--wrap")
    assert "not together with --prompt-field" in refused(*prepare, "--tokenizer", bert, "--prompt-field", "q")
    assert "give --tokenizer, or leave it out" in refused("prepare", "--data", "hmm", "--out", out, "--frame")
    measure = ("eval", "--out", tmp_path / "m.json", "--frame")
    assert "--frame: does nothing here" in refused(*measure, "sotu")
    assert "--eos-token: does nothing here" in refused(*measure, bert, "--eos-token", "w1")
    assert "leave out --wrap" in refused(*measure, bert, "--likelihood", text, "--wrap")
    assert main(["prepare", "--data", str(text), "--out", str(out), "--tokenizer", str(bert), "--length", "9"]) == 0
    assert "was prepared without" in refused(*measure, bert, "--likelihood", out)


def test_ids_that_the_model_never_says_are_refused_by_the_bound(bert, text, tmp_path, capsys):
    """A text that spells the mask, read as the mask: the bound would take it for a token to be guessed."""
    text.write_text(text.read_text().replace("w7", "[MASK]"))
    out = tmp_path / "data"
    options = ["--tokenizer", str(bert), "--length", "8", "--special-tokens", "--out", str(out)]
    assert main(["prepare", "--data", str(text), *options]) == 0
    for name in (out, text):  # to this tokenizer of whole words it is a word
        assert (
            main(["eval", str(bert), "--likelihood", str(name), "--length", "8", "--out", str(tmp_path / "m.json")])
            == 2
        )
        said = capsys.readouterr().err
        assert f"--likelihood {name}: holds [MASK], which the model never says" in said and "such tokens" in said
    assert not (tmp_path / "m.json").exists()
