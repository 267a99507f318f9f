"""`mcd eval` beyond samples: likelihood of given text, real text to compare with, controls, conventions of scoring."""

import json
import math
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mcd.app.cli import main
from mcd.app.evaluate import read_metrics
from mcd.app.page.gather import gather
from mcd.data.shards import tokenizer_of
from mcd.eval import clouds, scorer
from mcd.eval.likelihood import nelbo_rows
from mcd.eval.scorer import Scorer
from mcd.model.pretrained import from_pretrained, save_pretrained
from mcd.sampler.causal import Causal

SHORT = ["--num", "6", "--threads", "1"]


@pytest.fixture(scope="module")
def models(tiny_denoiser, tiny_data, tmp_path_factory):
    """A folder of each kind of model, of noise, with the vocabulary of `tiny_data`."""
    folders = {}
    for process in ("masked", "autoregressive"):
        folders[process] = tmp_path_factory.mktemp("models") / process
        save_pretrained(tiny_denoiser(V=300, process=process), folders[process])
        shutil.copy(tiny_data / "tokenizer.json", folders[process])
    return folders


class Letters(Scorer):
    """A uniform scorer with the vocabulary of `tiny_data`, whose features of a text are counts of five letters."""

    def features(self, texts):
        return np.array([[text.count(letter) for letter in "etaoi"] for text in texts], dtype=np.float64)


@pytest.fixture
def letters(monkeypatch, tiny_data):
    """`load_scorer` gives it."""
    backend = tokenizer_of(tiny_data)

    class Tokens:
        bos_token_id = eos_token_id = pad_token_id = None

        def get_vocab(self):
            return backend.get_vocab()

        def __call__(self, texts, **_):
            return {"input_ids": [backend.encode(text, add_special_tokens=False).ids for text in texts]}

    def uniform(input_ids, **_):
        return SimpleNamespace(logits=torch.zeros(*input_ids.shape, 300))

    monkeypatch.setattr(scorer, "load_scorer", lambda name, precision: Letters(name, uniform, Tokens(), precision, 64))
    monkeypatch.setattr(clouds, "HAS_MAUVE", False)


def rows_of(argv, out):
    assert main(["eval", *map(str, argv), "--out", str(out), *SHORT]) == 0
    return json.loads(out.read_text())["rows"]


def refused(capsys, argv, *words):
    assert main(["eval", *map(str, argv), "--out", "never.json", *SHORT]) == 2
    error = " ".join(capsys.readouterr().err.split())
    for word in words:
        assert word in error, error


def test_likelihood_of_a_file_is_the_mean_over_all_its_rows(models, text_file, tiny_data, tmp_path, capsys):
    (row,) = rows_of([models["autoregressive"], "--likelihood", text_file, "--num", "100000"], tmp_path / "m.json")
    tokenizer = tokenizer_of(tiny_data)
    eos = tokenizer.token_to_id("<|endoftext|>")
    ids = [
        token for text in text_file.read_text().strip().split("\n\n") for token in (*tokenizer.encode(text).ids, eos)
    ]
    assert row["rows"] == 6 == len(read_metrics(tmp_path / "m.json")) * 6  # the later --num, of SHORT, counts
    starts = [i * (len(ids) // 16) // 6 * 16 for i in range(6)]
    x0 = torch.tensor([ids[start : start + 16] for start in starts])
    model = from_pretrained(str(models["autoregressive"]))
    exact = nelbo_rows(model, x0, torch.Generator()).double()
    assert row["valid_nelbo"] == pytest.approx(exact.mean().item(), rel=1e-5)
    assert row["valid_nelbo_se"] == pytest.approx(exact.std().item() / math.sqrt(6), rel=1e-4)
    assert row["valid_nelbo_lo"] < row["valid_nelbo"] < row["valid_nelbo_hi"]
    assert row["valid_ppl"] == pytest.approx(math.exp(row["valid_nelbo"]))
    assert row["exact"] and row["draws"] == 1 and row["protocol"]["length"] == 16
    assert "nats a token" in capsys.readouterr().out


def test_likelihood_of_several_texts_and_of_a_preset_from_a_copy(models, tiny_data, text_file, tmp_path):
    copy = tmp_path / "ptb.jsonl"
    copy.write_text("".join(json.dumps({"sentence": f"the nation 's year {i} and peace"}) + "\n" for i in range(60)))
    argv = [models["masked"], "--likelihood", tiny_data, text_file, f"ptb={copy}", "--draws", "2", "--wrap"]
    rows = rows_of(argv, tmp_path / "metrics.json")
    assert [row["text"] for row in rows] == [str(tiny_data), str(text_file), f"ptb={copy}"]
    assert [row["wrap"] for row in rows] == [False, True, True]  # a prepared folder keeps its own
    assert all(row["draws"] == 2 and not row["exact"] and math.isfinite(row["valid_nelbo"]) for row in rows)
    assert rows == rows_of(argv, tmp_path / "metrics.json")  # a file of such rows is one of ours, and is written anew
    (run,) = gather([tmp_path])
    assert run.cells == []  # no samples: nothing for the report's tables


def test_likelihood_that_cannot_be_is_named(models, tiny_data, tmp_path, capsys):
    refused(capsys, [models["masked"], "--likelihood", "nothing.txt"], "--likelihood nothing.txt", "no such file")
    short = tmp_path / "short.txt"
    short.write_text("One.\n")
    refused(capsys, [models["masked"], "--likelihood", short], "--likelihood", "less than a row")
    refused(capsys, [models["masked"], "--likelihood", short, "--draws", "0"], "--draws 0")
    other = tmp_path / "other"
    shutil.copytree(tiny_data, other)
    manifest = json.loads((other / "manifest.json").read_text())
    (other / "manifest.json").write_text(json.dumps(manifest | {"tokenizer_sha256": "0"}))
    refused(capsys, [models["masked"], "--likelihood", other], f"--likelihood {other}", "another tokenizer")


def test_a_reference_adds_what_gen_ppl_cannot_see(models, tiny_data, letters, tmp_path, capsys):
    (row,) = rows_of([models["masked"], "--reference", tiny_data, "--steps", "2"], tmp_path / "m.json")
    assert row["energy_lo"] <= row["energy"] <= row["energy_hi"] and row["energy"] > row["energy_floor"]
    assert row["mauve"] is None and row["gen_ppl"] == pytest.approx(300.0)
    assert (row["protocol"]["reference"], row["protocol"]["reference_samples"]) == (str(tiny_data), 6)
    said = capsys.readouterr()
    assert "real text" in said.out and "mcd-lm[mauve]" in said.err
    text, mixed = rows_of([tiny_data, "--reference", tiny_data], tmp_path / "m.json")
    assert (text["model"], mixed["model"]) == ("text", "shuffled") and text["energy"] < row["energy"]


def test_controls_have_the_entropy_of_the_text_they_are_made_of(tiny_data, letters, tmp_path):
    (text, _), controls = (
        rows_of([source, "--reference", tiny_data], tmp_path / "m.json") for source in (tiny_data, "control")
    )
    assert [row["model"] for row in controls] == ["control-periodic", "control-topk"]
    for row in controls:
        assert row["entropy_target"] == pytest.approx(text["entropy"]) == pytest.approx(row["entropy"], abs=0.15)
        assert row["control_k"] > 1 and row["energy"] is not None


def test_ids_as_they_are_need_the_scorers_vocabulary(models, tiny_data, letters, tmp_path, capsys, monkeypatch):
    argv = [models["masked"], "--steps", "2", "--no-retokenise", "--averaging", "per-sample"]
    (row,) = rows_of(argv, tmp_path / "m.json")
    assert (row["protocol"]["retokenised"], row["protocol"]["averaging"]) == (False, "per-sample")
    assert row["scored_tokens"] == 6 * 15
    samples = tmp_path / "s.jsonl"
    assert main(["sample", str(models["masked"]), "--out", str(samples), "--steps", "2", "--threads", "1"]) == 0
    refused(capsys, [samples, "--no-retokenise"], "--no-retokenise", "does not carry the tokenizer")
    monkeypatch.setattr("mcd.app.measure.same_vocabulary", lambda *_: False)
    refused(capsys, argv, "--no-retokenise", "another vocabulary")


def test_an_autoregressive_model_has_one_row_whatever_the_steps(models, tmp_path):
    (row,) = rows_of([models["autoregressive"], "--scorer", "none", "--steps", "2", "4"], tmp_path / "m.json")
    assert (row["steps"], row["nfe"], row["protocol"]["sampler"]) == (16, 16.0, Causal.name)


def test_options_that_make_no_sense_together(models, capsys):
    refused(capsys, ["control"], "control", "--reference")
    refused(capsys, [models["masked"], "--reference", "sotu", "--scorer", "none"], "--reference", "--scorer none")
    refused(capsys, [models["masked"], "--reference", "no.txt", "--scorer", "none"], "--reference")
