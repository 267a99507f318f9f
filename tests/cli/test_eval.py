"""`mcd eval` beyond samples: likelihood of given text, real text to compare with, controls, conventions of scoring."""

import json
import math
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mcd.checkpoints.folder import from_pretrained, save_pretrained
from mcd.cli.eval_options import LikelihoodOptions
from mcd.cli.likelihood import text_rows
from mcd.cli.main import main
from mcd.data.languages.known import LANGUAGES
from mcd.data.loader import open_loader
from mcd.data.prepare.pipeline import prepare
from mcd.data.recipe import Recipe
from mcd.data.special_tokens import end_of_text
from mcd.data.tokenizer import load_tokenizer, word_tokenizer
from mcd.eval import mauve as clouds
from mcd.eval import scorer
from mcd.eval.features import MiniLM
from mcd.eval.laboratory.held_out import HeldOut, training_parts
from mcd.eval.laboratory.metrics_file import read_metrics
from mcd.eval.likelihood import nelbo_rows
from mcd.eval.scorer import Scorer
from mcd.report.runs import read_runs
from mcd.sampler.causal import Causal

SHORT = ["--num", "6", "--threads", "1"]


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch, tmp_path):
    """What is prepared for a refused --out falls below the test's own folder."""
    monkeypatch.chdir(tmp_path)


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
        rows = ["".join(text) for text in texts]
        return np.array([[row.count(letter) for letter in "etaoi"] for row in rows], dtype=np.float64)


@pytest.fixture
def letters(monkeypatch, tiny_data):
    """`load_scorer` gives it."""
    backend = load_tokenizer(tiny_data)

    class Tokens:
        bos_token_id = pad_token_id = None
        eos_token_id = end_of_text(backend).id

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


def refused(capsys, argv, *words, short=SHORT):
    assert main(["eval", *map(str, argv), "--out", "never.json", *short]) == 2
    error = " ".join(capsys.readouterr().err.split())
    for word in words:
        assert word in error, error


def test_likelihood_of_a_file_is_the_mean_over_all_its_rows(models, text_file, tiny_data, tmp_path, capsys):
    (row,) = rows_of([models["autoregressive"], "--likelihood", text_file, "--num", "100000"], tmp_path / "m.json")
    tokenizer = load_tokenizer(tiny_data)
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
    bytes = sum(len(tokenizer.decode(one).encode()) for one in x0.tolist())  # the text is ASCII
    assert row["valid_bpb"] == pytest.approx(exact.sum().item() * 16 / bytes / math.log(2), rel=1e-5)
    assert row["valid_bpb_lo"] < row["valid_bpb"] < row["valid_bpb_hi"]
    assert (row["tokens"], row["bytes"], row["bytes_of"]) == (96, bytes, None)
    shown = capsys.readouterr().out
    assert "nats/token" in shown and f"{row['valid_bpb']:.3f}" in shown


def test_a_scorer_that_is_named_measures_the_text_of_the_same_rows(models, text_file, letters, tmp_path, capsys):
    """`letters` is uniform over 300 tokens, in the words of the data: the same text has the same bytes."""
    argv = [models["autoregressive"], "--likelihood", text_file]
    own, causal = rows_of([*argv, "--scorer", "letters"], tmp_path / "m.json")
    assert (own["model"], causal["model"], causal["text"]) == (str(models["autoregressive"]), "letters", own["text"])
    assert causal["valid_nelbo"] == pytest.approx(math.log(300))
    assert (causal["bytes"], causal["rows"], causal["truncated"]) == (own["bytes"], 6, 0)
    assert causal["valid_bpb"] == pytest.approx(causal["tokens"] * math.log2(300) / causal["bytes"])
    stamp = causal["protocol"]
    assert (stamp["scorer"], stamp["scorer_precision"], stamp["borders"]) == ("letters", "fp32", "kept")
    assert (
        stamp["weights"] is None and own["protocol"]["scorer"] is None and own.keys() == causal.keys() - {"truncated"}
    )
    assert "letters: a causal model, exact" in capsys.readouterr().out
    assert len(rows_of(argv, tmp_path / "m.json")) == 1  # the default is not named
    refused(capsys, [*argv, "--scorer-precision", "bf16"], "--scorer-precision: does nothing", "one that is named")
    refused(capsys, [*argv, "--scorer", "none"], "--scorer: does nothing")
    refused(capsys, [*argv, "--scorer", "letters", "--averaging", "per-sample"], "--averaging: does nothing")


@pytest.mark.heavy
def test_likelihood_of_several_texts_and_of_a_preset_from_a_copy(models, tiny_data, text_file, tmp_path):
    copy = tmp_path / "ptb.jsonl"
    copy.write_text("".join(json.dumps({"sentence": f"the nation 's year {i} and peace"}) + "\n" for i in range(60)))
    argv = [models["masked"], "--likelihood", tiny_data, text_file, f"ptb={copy}", "--draws", "2", "--wrap"]
    rows = rows_of(argv, tmp_path / "metrics.json")
    assert [row["text"] for row in rows] == [str(tiny_data), str(text_file), f"ptb={copy}"]
    assert [row["wrap"] for row in rows] == [False, True, True]  # a prepared folder keeps its own
    assert all(row["draws"] == 2 and not row["exact"] and math.isfinite(row["valid_nelbo"]) for row in rows)
    assert rows == rows_of(argv, tmp_path / "metrics.json")  # a file of such rows is one of ours, and is written anew
    (run,) = read_runs([tmp_path])
    assert run.measured == []  # no samples
    assert [(one.text, one.bpb.value, one.is_exact) for one in run.likelihoods] == [
        (row["text"].rpartition("/")[2], row["valid_bpb"], False) for row in rows
    ]


@pytest.mark.heavy
def test_words_are_filled_in_at_each_rate(models, text_file, tmp_path, capsys):
    argv = [models["masked"], "--likelihood", text_file, "--infill", "0.2", "1"]
    (row,) = rows_of(argv, tmp_path / "m.json")
    some, all_words = row["infilled"]
    assert (some["rate"], all_words["rate"]) == (0.2, 1.0) and 0 < some["words"] < all_words["words"]
    assert all(
        0 <= one["word_accuracy_lo"] <= one["word_accuracy"] <= one["word_accuracy_hi"] <= 1
        for one in (some, all_words)
    )
    assert "words restored" in capsys.readouterr().out
    refused(
        capsys, [models["autoregressive"], "--likelihood", text_file, "--infill", "0.2"], "--infill", "masked models"
    )
    refused(capsys, [models["masked"], "--infill", "0.2"], "--infill", "an option of --likelihood")


@pytest.mark.heavy
def test_likelihood_that_cannot_be_is_named(models, tiny_data, tmp_path, capsys):
    refused(capsys, [models["masked"], "--likelihood", "nothing.txt"], "--likelihood nothing.txt", "no such file")
    short = tmp_path / "short.txt"
    short.write_text("One.\n")
    refused(capsys, [models["masked"], "--likelihood", short], "--likelihood", "less than a row")
    refused(capsys, [models["masked"], "--likelihood", short, "--draws", "0"], "--draws 0: must be 1 to 1,000")
    other = tmp_path / "other"
    shutil.copytree(tiny_data, other)
    manifest = json.loads((other / "manifest.json").read_text())
    (other / "manifest.json").write_text(json.dumps(manifest | {"tokenizer_sha256": "0"}))
    refused(capsys, [models["masked"], "--likelihood", other], f"--likelihood {other}", "another tokenizer")
    refused(capsys, [models["masked"], "--likelihood"], "--likelihood: names no text")
    refused(capsys, [models["masked"], "--likelihood", "hmm"], "--likelihood hmm", "tokens of its own")
    refused(capsys, [models["masked"], "--likelihood", "hmmm"], "--likelihood hmmm", "did you mean 'hmm'")


def test_a_copy_of_a_preset_is_looked_for_before_the_hub(models, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("mcd.data.prepare.corpus.HubRecords", None)
    refused(capsys, [models["masked"], "--likelihood", "ptb=nofile"], "--likelihood ptb=nofile", "nofile: no such file")
    (tmp_path / "ptb.jsonl").write_text('{"body": "x"}\n')
    refused(capsys, [models["masked"], "--likelihood", f"ptb={tmp_path / 'ptb.jsonl'}"], "--likelihood", "'sentence'")


def test_a_reference_adds_what_gen_ppl_cannot_see(models, tiny_data, letters, tmp_path, capsys):
    (row,) = rows_of([models["masked"], "--reference", tiny_data, "--steps", "2"], tmp_path / "m.json")
    assert row["energy_lo"] <= row["energy"] <= row["energy_hi"] and row["energy"] > row["energy_floor"]
    assert row["mauve"] is None and row["gen_ppl"] == pytest.approx(300.0)
    assert (row["protocol"]["reference"], row["protocol"]["reference_samples"]) == (str(tiny_data), 6)
    said = capsys.readouterr()
    assert "real text" in said.out and "mcd-lm[mauve]" in said.err
    text, mixed = rows_of([tiny_data, "--reference", tiny_data], tmp_path / "m.json")
    assert (text["model"], mixed["model"]) == ("text", "shuffled") and text["energy"] < row["energy"]


def test_copies_are_looked_for_in_the_training_text(models, tiny_data, tmp_path, capsys):
    argv = ["--copied-from", tiny_data, "--scorer", "none"]
    (row,) = rows_of([models["masked"], *argv, "--steps", "2"], tmp_path / "m.json")
    assert row["copied_from"] == str(tiny_data) and row["copied_rows_held_out"] == 6
    assert row["copied_8_lo"] <= row["copied_8"] <= row["copied_8_hi"] and row["duplicates"] == 0
    assert "8-grams copied" in capsys.readouterr().out
    text, mixed = rows_of([tiny_data, *argv], tmp_path / "m.json")
    assert text["copied_8_held_out"] == mixed["copied_8_held_out"] == row["copied_8_held_out"]
    loader = open_loader(tiny_data, "train", 1)
    train, row_of_train = loader.stream(), loader.tokens[40:52]
    assert [len(part) for part in training_parts(tiny_data, 5)] == [len(train)]
    held_out = HeldOut(tiny_data, None, 0)
    copied = held_out.training("t", 4).row([held_out.writer.documents(row_of_train.tolist())])
    assert copied["copied_8"] == 1.0 and copied["copied_run_max"] >= 8
    refused(capsys, ["exact:hmm", "--length", "8", "--copied-from", tiny_data], "--copied-from", "trained on no text")
    refused(capsys, [models["masked"], "--likelihood", tiny_data, "--copied-from", tiny_data], "--copied-from")
    refused(capsys, [models["masked"], "--copied-from", "no.txt"], "--copied-from", "no such file")


class Encoder(MiniLM):
    """The sentence encoder's stand-in, which reads six letters."""

    def __init__(self):
        self.context = 6

    def features(self, texts):
        return np.array([["".join(text)[:6].count(letter) for letter in "etaoi"] for text in texts], dtype=np.float64)

    def cut(self, texts):
        return sum(len("".join(text)) > 6 for text in texts)


def test_samples_are_compared_by_an_encoder_of_its_own(models, tiny_data, letters, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("mcd.eval.features.load_minilm", Encoder)
    argv = [models["masked"], "--reference", tiny_data, "--features", "minilm", "--steps", "2"]
    (row,) = rows_of(argv, tmp_path / "m.json")
    assert row["protocol"]["features"] == "minilm" and row["protocol"]["scorer"] == "smollm2"
    assert row["features_truncated"] == row["reference_truncated"] == 6 and row["features_context"] == 6
    shown = " ".join(capsys.readouterr().out.split())
    assert "minilm" in shown and "6 of 6 texts are longer than the context of minilm of 6 tokens" in shown
    assert "6 of 6 texts of the reference are longer than the context of minilm of 6 tokens" in shown
    (by_scorer,) = rows_of([*argv[:3], "--steps", "2"], tmp_path / "s.json")
    assert by_scorer["protocol"]["features"] == "scorer" and by_scorer["energy"] != row["energy"]
    assert by_scorer["protocol"]["digest"] != row["protocol"]["digest"]
    monkeypatch.setattr(scorer, "load_scorer", None)
    for source in (models["masked"], "control"):  # the encoder needs no scorer
        unscored, *_ = rows_of([source, *argv[1:5], "--scorer", "none"], tmp_path / "n.json")
        assert unscored["gen_ppl"] is None and unscored["energy"] is not None
        assert unscored["protocol"]["scorer"] is None and unscored["protocol"]["features"] == "minilm"


def test_controls_have_the_entropy_of_the_text_they_are_made_of(tiny_data, letters, tmp_path):
    (text, _), controls = (
        rows_of([source, "--reference", tiny_data], tmp_path / "m.json") for source in (tiny_data, "control")
    )
    assert [row["model"] for row in controls] == ["control-periodic", "control-topk"]
    for row in controls:
        assert row["entropy_target"] == pytest.approx(text["entropy"]) == pytest.approx(row["entropy"], abs=0.15)
        assert row["control_k"] > 1 and row["energy"] is not None


@pytest.mark.heavy
def test_a_reference_may_be_a_small_file(models, letters, tmp_path):
    """Too small for a vocabulary of its own, and for rows of the usual length."""
    small = tmp_path / "small.txt"
    small.write_text("".join(f"Letter {i}. The committee met and the members agreed on it.\n\n" for i in range(80)))
    (row,) = rows_of([models["masked"], "--reference", small, "--steps", "2"], tmp_path / "m.json")
    assert row["protocol"]["reference_samples"] >= 4 and row["energy"] is not None
    rows = rows_of(["control", "--reference", small, "--length", "8"], tmp_path / "m.json")
    assert [row["protocol"]["length"] for row in rows] == [8, 8] and rows[0]["energy"] is not None


def test_likelihood_of_a_folder_has_rows_of_its_length(models, tiny_data, text_file, tmp_path):
    prepare(Recipe(str(text_file), tokenizer=str(tiny_data), length=8), tmp_path / "short")
    argv = [models["masked"], "--likelihood", tmp_path / "short", tiny_data]
    own, other = rows_of(argv, tmp_path / "m.json")
    assert own["protocol"]["length"] == 8 and other["protocol"]["length"] == 16  # the longest of the model
    (given,) = rows_of([*argv[:3], "--length", "4"], tmp_path / "m.json")
    assert given["protocol"]["length"] == 4


@pytest.mark.heavy
def test_ids_as_they_are_need_the_scorers_vocabulary(models, tiny_data, letters, tmp_path, capsys, monkeypatch):
    argv = [models["masked"], "--steps", "2", "--no-retokenise", "--averaging", "per-sample"]
    (row,) = rows_of(argv, tmp_path / "m.json")
    assert (row["protocol"]["retokenised"], row["protocol"]["averaging"]) == (False, "per-sample")
    assert row["scored_tokens"] == 6 * 15
    samples = tmp_path / "s.jsonl"
    assert main(["sample", str(models["masked"]), "--out", str(samples), "--steps", "2", "--threads", "1"]) == 0
    refused(capsys, [samples, "--no-retokenise"], "--no-retokenise", "does not carry the tokenizer", short=())
    monkeypatch.setattr("mcd.eval.laboratory.measure.same_vocabulary", lambda *_: False)
    refused(capsys, argv, "--no-retokenise", "another vocabulary")


def test_an_autoregressive_model_has_one_row_and_no_steps(models, tmp_path, capsys):
    (row,) = rows_of([models["autoregressive"], "--scorer", "none"], tmp_path / "m.json")
    assert (row["steps"], row["nfe"], row["protocol"]["sampler"]) == (16, 16.0, Causal.name)
    refused(capsys, [models["autoregressive"], "--steps", "2", "4"], "--steps: does nothing", "one step per token")


def test_options_that_make_no_sense_together(models, capsys):
    refused(capsys, ["control"], "control", "--reference")
    refused(capsys, ["control", "--reference", "grammar"], "--reference grammar", "controls are made of text")
    refused(capsys, [models["masked"], "--reference", "sotu", "--scorer", "none"], "--reference", "--scorer none")
    refused(capsys, [models["masked"], "--reference", "no.txt", "--scorer", "none"], "--reference")
    argv = ["control", "--reference", "sotu", "--scorer", "none", "--features", "scorer"]
    refused(capsys, argv, "--features minilm")
    assert main(["eval", str(models["masked"]), "--out", "never.json", "--steps"]) == 2
    said = capsys.readouterr().err
    assert "--steps" in said and "--num" not in said


def test_what_is_refused_needs_no_scorer(models, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(scorer, "load_scorer", None)
    refused(capsys, [models["autoregressive"], "--sampler", "ancestral"], "--sampler ancestral", "autoregressive")
    refused(capsys, [tmp_path / "nosuch.jsonl"], "nosuch.jsonl: no such file")
    refused(capsys, [models["masked"], "--length", "17"], "--length 17")


def test_an_autoregressive_sample_says_the_steps_it_took(models, tmp_path):
    out = tmp_path / "s.jsonl"
    argv = ["sample", str(models["autoregressive"]), "--num", "1", "--threads", "1", "--out", str(out)]
    assert main(argv) == 0
    row = json.loads(out.read_text())
    assert row["steps"] == row["nfe"] == 16


@pytest.mark.parametrize("shown, words", [(False, "nats of the padding behind are in it"), (True, "length given")])
def test_the_likelihood_of_answers_says_what_it_counts(models, tiny_data, tmp_path, capsys, shown, words):
    (tmp_path / "a.jsonl").write_text('{"prompt": "of the", "answer": "people"}\n' * 20)
    recipe = Recipe(str(tmp_path / "a.jsonl"), tokenizer=str(tiny_data), length=16, prompt_field="prompt")
    prepare(replace(recipe, diffuse_padding=not shown), tmp_path / "qa")
    argv = ["eval", str(models["masked"]), "--likelihood", "qa", "--out", "l.json", *SHORT]
    assert main(argv) == 0
    row = json.loads((tmp_path / "l.json").read_text())["rows"][0]
    assert row["bytes"] == row["rows"] * len("people")
    assert row["counted"].startswith("answers with their first end of text") and row["counted"].endswith(words)
    assert f"qa: {row['counted']}" in capsys.readouterr().out
    assert main([*argv, "--scorer", "smollm2"]) == 2
    assert "--scorer smollm2: qa holds answers" in capsys.readouterr().err


@pytest.fixture
def speaker(tiny_denoiser, tmp_path, monkeypatch):
    """A model of `hmm`, of noise."""
    monkeypatch.setattr("mcd.data.prepare.pipeline.LANGUAGE_TOKENS", {"train": 4000, "valid": 2000})
    monkeypatch.setattr(scorer, "load_scorer", None)  # nothing here may ask for one
    folder = tmp_path / "speaker"
    save_pretrained(tiny_denoiser(V=32), folder)
    word_tokenizer(LANGUAGES["hmm"]().symbols).save(str(folder / "tokenizer.json"))
    (folder / "run.json").write_text(json.dumps({"config": {"data": "hmm"}}))
    return folder


@pytest.mark.heavy
def test_likelihood_of_a_language_is_over_fresh_rows_of_it(speaker, text_file, tmp_path, capsys):
    (row,) = rows_of([speaker, "--likelihood", "hmm", "--draws", "3"], tmp_path / "m.json")
    assert (row["text"], row["rows"], row["wrap"]) == ("hmm", 6, False)
    assert row["valid_bpb"] is None and row["bytes"] is None and row["valid_nelbo"] > 0
    refused(capsys, [speaker, "--likelihood", "hmm", "--scorer", "smollm2"], "--scorer smollm2: hmm holds symbols")
    language = LANGUAGES["hmm"]()
    (x0, diffused, _), loader = text_rows(
        "hmm", from_pretrained(str(speaker)), word_tokenizer(language.symbols), 400, LikelihoodOptions()
    )
    nats = -language.log_likelihood(x0).mean().item() / 16
    entropy, _ = language.entropy(16)
    assert x0.shape == (400, 16) and diffused is None and loader is None and nats == pytest.approx(entropy, abs=0.1)
    for text in ("sotu", str(text_file)):
        refused(capsys, [speaker, "--likelihood", text], f"--likelihood {text}", "only the words of hmm")
    refused(capsys, [speaker, "--likelihood", "nothing.txt"], "--likelihood nothing.txt", "no such file")
    refused(capsys, [speaker, "--likelihood", "hmm", "--wrap"], "--wrap")


@pytest.mark.heavy
def test_a_model_of_a_language_is_judged_by_its_truth_alone(speaker, tmp_path, capsys):
    refused(capsys, [speaker, "--reference", "hmm"], "--reference", "measured by its exact likelihood; leave it out")
    refused(capsys, ["hmm", "--reference", "sotu"], "--reference", "measured by its exact likelihood; leave it out")
    refused(capsys, [speaker, "--length", "2"], "--length 2", "trigrams")
    (row,) = rows_of([speaker, "--steps", "2"], tmp_path / "m.json")
    assert row["gen_ppl"] is None and row["nll"] > row["entropy_true"]
    text, mixed = rows_of(["hmm", "--length", "16", "--num", "100"], tmp_path / "hmm.json")
    assert text["gen_ppl"] is None and text["nll"] < mixed["nll"]
    assert text["nll"] == pytest.approx(text["entropy_true"], abs=0.5)
    (speaker / "run.json").unlink()  # then its words tell
    refused(capsys, [speaker], "has the words of markov and hmm, and which it is cannot be told")


@pytest.mark.heavy
def test_data_that_a_model_has_no_words_for_names_the_data(speaker, models, tiny_data, tmp_path, capsys):
    out = ["--out", str(tmp_path / "run"), "--threads", "1"]
    train, distill = ["train", *out, "--steps", "1"], ["distill", "sdtt", *out]
    for argv, words in (
        ([*train, "--init", speaker, "--data", "sotu"], ("--data sotu", "only the words of hmm")),
        ([*distill, "--teacher", speaker, "--data", "sotu"], ("--data sotu", "only the words of hmm")),
        ([*distill, "--teacher", speaker, "--data", tiny_data], ("--data", "only the words of hmm")),
        ([*train, "--init", models["masked"], "--data", "hmm"], ("--data hmm", "tokens of its own")),
        ([*distill, "--teacher", speaker, "--data", "markov"], ("--data markov", "trained on hmm")),
        ([*train, "--init", speaker, "--data", "markov"], ("--data markov", "trained on hmm")),
        ([*train, "--init", models["autoregressive"]], ("is autoregressive", "continue with --method ar")),
        ([*distill, "--teacher", models["autoregressive"]], ("no method distils autoregressive models",)),
        (["distill", "duo-dcd", *out, "--teacher", models["masked"]], ("is masked", "distil it with", "mcd", "sdtt")),
    ):
        assert main(list(map(str, argv))) == 2, argv
        error = " ".join(capsys.readouterr().err.split())
        assert all(word in error for word in words) and "--tokenizer" not in error, error
    assert not (tmp_path / "run").exists()
