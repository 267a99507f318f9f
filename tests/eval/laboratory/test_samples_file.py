"""`mcd eval FILE`: samples of ours and texts of others, where their documents end, and what is told beside numbers."""

import json
import math
import shutil
from types import SimpleNamespace

import pytest
import torch

from mcd.checkpoints.folder import save_pretrained
from mcd.cli.main import main
from mcd.cli.metrics_table import notes
from mcd.data.text import writer_of
from mcd.data.tokenizer import load_tokenizer
from mcd.errors import UsageError
from mcd.eval import scorer
from mcd.eval.diversity import sample_entropy
from mcd.eval.laboratory.samples_file import read_samples
from mcd.eval.scorer import Scorer

THEIRS = ["the people of the union", "the union and the states and the people"]


class Tokens:
    """The tokens of `tiny_data`, read as a scorer's: text is letters alone, and the end of text is put in by the
    scorer."""

    def __init__(self, backend):
        self.backend = backend
        self.bos_token_id = self.pad_token_id = None
        self.eos_token_id = backend.token_to_id("<|endoftext|>")

    def get_vocab(self):
        return self.backend.get_vocab()

    def __call__(self, texts, split_special_tokens, max_length=None, **_):
        assert split_special_tokens
        return {"input_ids": [self.backend.encode(text, add_special_tokens=False).ids[:max_length] for text in texts]}


class AfterEnd(torch.nn.Module):
    """Certain, to 1 / (1 + 299 e^-9), that "t" follows the end of text; knows nothing else."""

    def __init__(self, end, first):
        super().__init__()
        self.end, self.first = end, first

    def forward(self, input_ids, **_):
        logits = torch.zeros(*input_ids.shape, 300)
        logits[..., self.first] = 9.0 * (input_ids == self.end)
        return SimpleNamespace(logits=logits)


@pytest.fixture
def backend(tiny_data):
    return load_tokenizer(tiny_data)


@pytest.fixture
def judge(backend, monkeypatch):
    """What `load_scorer` gives: a scorer of context 12; the names it was asked for are kept."""
    asked = []
    first = backend.encode("the", add_special_tokens=False).ids[0]
    model = AfterEnd(backend.token_to_id("<|endoftext|>"), first)

    def load(name, precision):
        asked.append(name)
        return Scorer(name, model, Tokens(backend), precision, 12)

    monkeypatch.setattr(scorer, "load_scorer", load)
    return asked


def evaluated(tmp_path, *argv):
    out = tmp_path / "m.json"
    assert main(["eval", *map(str, argv), "--threads", "1", "--out", str(out)]) == 0
    return json.loads(out.read_text())["rows"][0]


FILES = {
    "lines.jsonl": "".join(json.dumps({"text": text, "steps": "many"}) + "\n" for text in THEIRS),
    "strings.jsonl": "".join(json.dumps(text) + "\n" for text in THEIRS),
    "list.json": json.dumps(THEIRS),
    "objects.json": json.dumps([{"text": text, "model": {"a": 1}} for text in THEIRS]),
    "duo.json": json.dumps({"text": THEIRS, "generative_ppl": 41.2}),
    "plain.txt": "\n\n".join(THEIRS) + "\n",
}


@pytest.mark.parametrize("name", FILES)
def test_texts_of_others_are_read_and_counted_in_the_scorers_tokens(name, backend, judge, tmp_path, capsys):
    path = tmp_path / name
    path.write_text(FILES[name])
    row = evaluated(tmp_path, path)
    ids = [backend.encode(text, add_special_tokens=False).ids for text in THEIRS]
    assert row["model"] == path.stem and row["samples"] == 2 and row["tokens"] == sum(map(len, ids))
    assert row["entropy"] == pytest.approx(sample_entropy(ids))
    assert row["gen_ppl"] == pytest.approx(300.0, rel=1e-6) and row["nfe"] is None
    stamp = row["protocol"]
    assert (stamp["borders"], stamp["counted"], stamp["sampler"], stamp["temperature"]) == (None, "scorer", None, None)
    assert "entropy, rep-4 and distinct-2 are over the scorer's tokens" in capsys.readouterr().out
    assert main(["eval", str(path), "--scorer", "none", "--out", str(tmp_path / "n.json")]) == 2
    assert "holds texts without token ids" in capsys.readouterr().err


def test_a_field_and_the_end_of_text_of_others_are_named(judge, tmp_path, capsys):
    path = tmp_path / "theirs.json"
    path.write_text(json.dumps({"generated_seqs": ["<|endoftext|>the union<|endoftext|>the people", "the states"]}))
    argv = ["eval", str(path), "--out", str(tmp_path / "m.json")]
    assert main(argv) == 2
    assert "'text'; its lists are generated_seqs (--text-field)" in capsys.readouterr().err
    spelled = evaluated(tmp_path, path, "--text-field", "generated_seqs")
    assert "1 of 2 texts spell <|endoftext|>, which is scored as letters" in capsys.readouterr().err
    split = evaluated(tmp_path, path, "--text-field", "generated_seqs", "--end-of-text", "<|endoftext|>")
    assert spelled["protocol"]["borders"] is None and split["protocol"]["borders"] == "kept"
    assert split["tokens"] < spelled["tokens"] and split["gen_ppl"] < spelled["gen_ppl"]
    assert main([*argv, "--text-field", "generated_seqs", "--end-of-text", "</s>"]) == 2
    assert "--end-of-text '</s>': occurs in no text" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.json", "{}", "it holds no list"),
        ("a.json", "5", "holds no list of texts"),
        ("a.json", "[5]", "a.json, sample 1: not a sample (neither a JSON object nor a string)"),
        ("a.json", "[", "cannot be read as JSON"),
        ("a.json", "[]", "holds no samples"),
        ("a.jsonl", '{"body": "x"}\n', "a.jsonl, line 1: not a sample (text must be a string; --text-field body?)"),
        ("a.jsonl", '{"text": "x"}\n{"text": "y", "ids": [1]}\n', "line 2: not a sample like"),
        ("a.jsonl", '{"text": "x", "ids": [1], "documents": "x"}\n', "documents must be a list of strings"),
        ("a.txt", "\n\n", "a.txt"),
    ],
)
def test_what_is_no_sample_is_named(name, content, words, tmp_path):
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(UsageError) as caught:
        read_samples(path)
    assert words in str(caught.value) and "--data" not in str(caught.value)


@pytest.fixture
def model(tiny_denoiser, tiny_data, tmp_path):
    """A folder of a model that says the end of text more often than not."""
    folder = tmp_path / "model"
    denoiser = tiny_denoiser(V=300)
    end = load_tokenizer(tiny_data).token_to_id("<|endoftext|>")
    with torch.no_grad():
        dict(denoiser.named_parameters())["backbone.head.linear.bias"][end] += 5.0
    save_pretrained(denoiser, folder)
    shutil.copy(tiny_data / "tokenizer.json", folder)
    return folder


def sampled(tmp_path, model, *argv):
    out = tmp_path / f"s{len(argv)}.jsonl"
    assert main(["sample", str(model), "--num", "4", "--steps", "4", "--threads", "1", "--out", str(out), *argv]) == 0
    return out, [json.loads(line) for line in out.read_text().splitlines()]


@pytest.mark.heavy
def test_documents_do_not_run_together_and_the_stamp_says_so(model, backend, judge, tmp_path):
    writer = writer_of(backend)
    path, rows = sampled(tmp_path, model)
    documents = [writer.documents(row["ids"]) for row in rows]
    assert [tuple(row.get("documents", [row["text"]])) for row in rows] == documents
    assert all(row["text"] == "<|endoftext|>".join(parts) for row, parts in zip(rows, documents, strict=True))
    assert max(map(len, documents)) > 2 and all(row["protocol"]["borders"] == "kept" for row in rows)
    by_model = evaluated(tmp_path, model, "--num", "4", "--steps", "4")
    by_file = evaluated(tmp_path, path)
    assert by_file["protocol"] == by_model["protocol"] and by_file["gen_ppl"] == by_model["gen_ppl"]
    assert by_model["protocol"]["borders"] == "kept"
    # every token but the first of a row and the ends of text is scored, up to one beyond the context
    read = [writer.ids(parts)[1:13] for parts in documents]
    assert by_model["scored_tokens"] == sum(token != writer.end_id for row in read for token in row)

    run, told = sampled(tmp_path, model, "--borders", "dropped")
    assert [row["text"] for row in told] == [backend.decode(row["ids"]) for row in rows]
    assert all("documents" not in row and row["protocol"]["borders"] == "dropped" for row in told)
    dropped = evaluated(tmp_path, model, "--num", "4", "--steps", "4", "--borders", "dropped")
    assert evaluated(tmp_path, run)["protocol"] == dropped["protocol"] and dropped["protocol"]["borders"] == "dropped"
    assert dropped["entropy"] == by_model["entropy"]  # of the ids, which are the same
    assert dropped["protocol"]["digest"] != by_model["protocol"]["digest"]


def test_samples_of_before_are_stamped_as_they_were_written(judge, backend, tmp_path):
    end = backend.token_to_id("<|endoftext|>")
    ids = [*backend.encode("the union").ids, end, *backend.encode("the people").ids]
    row = {"row": 0, "ids": ids, "text": backend.decode(ids), "protocol": {"sampler": "ancestral"}}
    (tmp_path / "old.jsonl").write_text(json.dumps(row) + "\n")
    assert evaluated(tmp_path, tmp_path / "old.jsonl")["protocol"]["borders"] == "dropped"


def test_the_end_of_text_is_context_for_what_follows(backend, judge, tmp_path):
    """The scorer expects "the" behind an end of text: run together it is a surprise of log 300 nats."""
    end = backend.token_to_id("<|endoftext|>")
    parts = ["union", "the"]
    ids = [backend.encode(part, add_special_tokens=False).ids for part in parts]
    row = {"row": 0, "ids": [*ids[0], end, *ids[1]], "text": "union<|endoftext|>the", "documents": parts}
    (tmp_path / "s.jsonl").write_text(json.dumps(row | {"protocol": {"borders": "kept"}}) + "\n")
    measured = evaluated(tmp_path, tmp_path / "s.jsonl")
    scored = len(ids[0]) - 1 + len(ids[1])
    expected = (scored - 1) * math.log(300) + math.log(1 + 299 * math.exp(-9))
    assert measured["scored_tokens"] == scored
    assert math.log(measured["gen_ppl"]) == pytest.approx(expected / scored, rel=1e-5)


def test_texts_cut_at_the_context_are_told(judge, tmp_path, capsys):
    (tmp_path / "long.json").write_text(json.dumps([" ".join(["the people"] * 20), "the union"]))
    row = evaluated(tmp_path, tmp_path / "long.json")
    assert row["truncated"] == 1
    told = "long: 1 of 2 texts are longer than the scorer's context of 12 tokens; what is beyond was not scored"
    assert told in capsys.readouterr().out and told in notes(row)


def test_texts_with_nothing_to_score_are_reported(judge, tmp_path, capsys):
    (tmp_path / "some.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in ("", "the union")))
    row = evaluated(tmp_path, tmp_path / "some.jsonl")
    assert (row["samples"], row["unscored"]) == (2, 1)
    assert "some: 1 of 2 texts have no token to score; they count in entropy" in capsys.readouterr().out


@pytest.mark.heavy
def test_only_the_positional_is_the_model(judge, model, tiny_denoiser, tiny_data, tmp_path, capsys):
    """A scorer's folder, or `demo` as text, in front of it or behind."""
    causal = tmp_path / "causal"
    save_pretrained(tiny_denoiser(V=300, process="autoregressive"), causal)
    shutil.copy(tiny_data / "tokenizer.json", causal)
    (tmp_path / "llama").mkdir()
    (tmp_path / "llama" / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "theirs.json").write_text(json.dumps(THEIRS))
    llama = str(tmp_path / "llama")
    for words in (["--scorer", llama, tmp_path / "theirs.json"], [tmp_path / "theirs.json", f"--scorer={llama}"]):
        evaluated(tmp_path, *words)
        assert judge.pop() == llama
    row = evaluated(tmp_path, "--scorer", str(model), "--num", "4", str(causal))
    assert row["protocol"]["sampler"] == "causal" and judge.pop() == str(model)
    for words in (["--template", "demo", str(causal)], [str(causal), "--template", "demo"]):
        assert main(["sample", *words, "--length", "8", "--threads", "1"]) == 0
    assert "demo" in capsys.readouterr().out
