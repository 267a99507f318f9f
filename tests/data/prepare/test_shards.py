"""Packed shards: what goes in comes out, damage is seen, and nothing of somebody else's is touched."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mcd.data.languages.known import LANGUAGES
from mcd.data.loader import open_loader
from mcd.data.manifest import MANIFEST, read_manifest
from mcd.data.prepare.corpus import documents
from mcd.data.prepare.pipeline import prepare
from mcd.data.recipe import Recipe
from mcd.data.tokenizer import load_tokenizer, tokenizer_sha256
from mcd.data.tokens import read_tokens
from mcd.errors import DataError, RequestError


@pytest.fixture
def recipe(text_file):
    return Recipe(data=str(text_file), vocab_size=300, length=16, valid_every=8)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def texts_of(folder, split):
    """Documents of a split, decoded."""
    eos, tokenizer = read_manifest(folder)["eos_id"], load_tokenizer(folder)
    tokens = read_tokens(folder, split)[:]
    ends = np.flatnonzero(tokens == eos)
    assert ends[-1] == len(tokens) - 1  # each document is followed by end-of-text, the last one too
    starts = [0, *(ends[:-1] + 1)]
    return [tokenizer.decode(tokens[a:b].tolist()) for a, b in zip(starts, ends, strict=True)]


def test_every_document_is_in_exactly_one_split(tiny_data, text_file):
    texts = list(documents(str(text_file)))
    assert len(set(texts)) == 64
    assert texts_of(tiny_data, "valid") == texts[::8]
    assert texts_of(tiny_data, "train") == [text for i, text in enumerate(texts) if i % 8]


def test_the_manifest_records_every_choice(tiny_data, recipe):
    manifest = read_manifest(tiny_data)
    assert manifest["recipe"] == recipe.as_dict()
    assert (manifest["vocab_size"], manifest["eos_id"], manifest["dtype"]) == (300, 299, "<u2")
    assert manifest["tokenizer_sha256"] == tokenizer_sha256(load_tokenizer(tiny_data))
    for split, count in (("train", 56), ("valid", 8)):
        shards = manifest["splits"][split]
        assert sum(shard["documents"] for shard in shards) == count
        assert sum(shard["tokens"] for shard in shards) == len(read_tokens(tiny_data, split))


def test_held_out_text_does_not_reach_the_tokenizer(tmp_path):
    odd, plain = "xylophone " * 60, "a plain word or two about the state of things "
    (tmp_path / "a.txt").write_text("\n\n".join([odd] + [plain * 3 + str(i) for i in range(15)] + [odd]))
    prepare(Recipe(str(tmp_path / "a.txt"), vocab_size=265, length=4), tmp_path / "out")
    vocabulary = load_tokenizer(tmp_path / "out").get_vocab()
    assert not any("xy" in token or "ylo" in token or "ph" in token for token in vocabulary)


def test_many_shards_are_one_stream(recipe, tiny_data, tmp_path):
    manifest = prepare(recipe, tmp_path / "many", shard_tokens=500)
    assert len(manifest["splits"]["train"]) > 3
    for split in ("train", "valid"):
        assert np.array_equal(read_tokens(tmp_path / "many", split), read_tokens(tiny_data, split))


@pytest.mark.parametrize("damage", ["flip", "truncate", "lengthen", "remove"])
def test_damage_is_seen(recipe, tmp_path, damage):
    prepare(recipe, tmp_path / "out")
    path = tmp_path / "out" / "train-00000.bin"
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[1234] ^= 1
    path.write_bytes(data[:-2] if damage == "truncate" else data + b"\0\0" if damage == "lengthen" else data)
    if damage == "remove":
        path.unlink()
    with pytest.raises(DataError, match=r"train-00000\.bin.*prepare the data again"):
        read_tokens(tmp_path / "out", "train")
    read_tokens(tmp_path / "out", "valid")


def test_the_same_recipe_leaves_files_alone_and_another_is_refused(recipe, tmp_path):
    out = tmp_path / "out"
    prepare(recipe, out)
    before = contents(out), {path: path.stat().st_mtime_ns for path in out.iterdir()}
    assert prepare(recipe, out) == read_manifest(out)
    with pytest.raises(DataError, match=r"--out .*another recipe"):
        prepare(replace(recipe, length=8), out)
    assert before == (contents(out), {path: path.stat().st_mtime_ns for path in out.iterdir()})


def test_text_that_changed_since_is_refused(recipe, tmp_path):
    text = tmp_path / "a.txt"
    text.write_bytes(Path(recipe.data).read_bytes())
    recipe, out = replace(recipe, data=str(text)), tmp_path / "out"
    prepare(recipe, out)
    before = contents(out)
    text.write_text(text.read_text() + "\n\nOne more.")
    with pytest.raises(DataError, match=r"--out .*changed since; name a new folder"):
        prepare(recipe, out)
    assert contents(out) == before


@pytest.mark.parametrize("tokenizer", [None, "tiny_data"])
def test_one_document_cannot_be_split(tmp_path, tiny_data, tokenizer):
    (tmp_path / "a.txt").write_text("all in one\n" * 500)
    recipe = Recipe(str(tmp_path / "a.txt"), tokenizer=tokenizer and str(tiny_data))
    with pytest.raises(DataError, match=r"one document cannot be split.*blank lines"):
        prepare(recipe, tmp_path / "out")


def test_an_interrupted_run_can_simply_be_run_again(recipe, tiny_data, tmp_path, monkeypatch):
    out = tmp_path / "out"

    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("mcd.data.prepare.pipeline.preset_of", killed)
        with pytest.raises(KeyboardInterrupt):
            prepare(recipe, out, shard_tokens=500)
    assert (out / "train-00003.bin").exists() and not (out / MANIFEST).exists()
    with pytest.raises(DataError, match=r"prepare it first"):
        read_tokens(out, "train")
    prepare(recipe, out)
    assert contents(out).items() >= contents(tiny_data).items()


def test_a_kill_while_the_manifest_is_written_can_be_run_again(recipe, tmp_path):
    out = tmp_path / "out"
    prepare(recipe, out)
    (out / MANIFEST).rename(out / f"{MANIFEST}.partial")
    assert prepare(recipe, out) == read_manifest(out)


def test_a_folder_that_holds_something_else_is_refused_untouched(recipe, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    for out in (tmp_path, tmp_path / "thesis.tex"):
        with pytest.raises(DataError, match=r"--out .*holds something else"):
            prepare(recipe, out)
    assert contents(tmp_path) == {"thesis.tex": b"years of work"}


@pytest.mark.parametrize(
    "change, option",
    [
        ({"valid_every": 1}, "--valid-every"),
        ({"length": 0}, "--length"),
        ({"length": 2, "wrap": True}, "--length"),
        ({"vocab_size": 12}, "--vocab-size"),
        ({"length": 100_000}, "--length"),
        ({"tokenizer": "/nowhere/tokenizer.json"}, "--tokenizer"),
    ],
)
def test_bad_options_are_named(recipe, tmp_path, change, option):
    with pytest.raises(RequestError, match=option):
        prepare(replace(recipe, **change), tmp_path / "out")
    assert not (tmp_path / "out" / MANIFEST).exists()


@pytest.mark.parametrize("text", ["", "[]", '{"format": "mcd-data-9"}', "\xff\xfe"])
def test_damaged_manifests_are_named(tmp_path, text):
    (tmp_path / MANIFEST).write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match=r"manifest\.json is damaged"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"recipe": None},
        {"recipe": {"wrap": None}},
        {"recipe": {"length": "a"}},
        {"recipe": {"colour": "red"}},
        {"splits": None},
        {"splits": {"train": []}},
        {"splits": {"valid": [{"file": "../a.bin"}]}},
        {"dtype": "<f9"},
        {"eos_id": 300},
        {"eos_id": "299"},
        {"vocab_size": "300"},
    ],
    ids=str,
)
def test_manifests_with_a_part_missing_or_foreign_are_damaged(tiny_data, recipe, tmp_path, change):
    manifest = read_manifest(tiny_data)
    for key, value in change.items():
        manifest[key] = manifest[key] | value if isinstance(value, dict) else value
    (tmp_path / MANIFEST).write_text(json.dumps({key: value for key, value in manifest.items() if value is not None}))
    for use in (lambda: read_manifest(tmp_path), lambda: prepare(recipe, tmp_path)):
        with pytest.raises(DataError, match=r"manifest\.json is damaged.*prepare the data again"):
            use()


def test_tokens_beyond_the_vocabulary_are_seen(recipe, tmp_path):
    manifest = prepare(recipe, tmp_path / "out")
    (tmp_path / "out" / MANIFEST).write_text(json.dumps(manifest | {"vocab_size": 200, "eos_id": 199}))
    with pytest.raises(DataError, match=r"train-00000\.bin.*vocab_size.*prepare the data again"):
        read_tokens(tmp_path / "out", "train")


@pytest.mark.heavy
def test_large_vocabularies_take_four_bytes(tmp_path, tiny_data):
    """A tokenizer of 70,000 words: ids beyond 65,535 survive."""
    words = {f"w{i}": i for i in range(70_000)} | {"<|endoftext|>": 70_000}
    added = [{"id": 70_000, "content": "<|endoftext|>", "single_word": False, "lstrip": False, "rstrip": False}]
    added[0] |= {"normalized": False, "special": True}
    tokenizer = {"version": "1.0", "added_tokens": added, "pre_tokenizer": {"type": "Whitespace"}}
    tokenizer["model"] = {"type": "WordLevel", "vocab": words, "unk_token": "w0"}
    (tmp_path / "t.json").write_text(json.dumps(tokenizer))
    ids = [[(7919 * (i + 11 * j) + 65_000) % 70_000 for i in range(10)] for j in range(8)]
    (tmp_path / "a.txt").write_text("\n\n".join(" ".join(f"w{i}" for i in row) for row in ids))
    recipe = Recipe(str(tmp_path / "a.txt"), tokenizer=str(tmp_path / "t.json"), length=4, valid_every=2)
    manifest = prepare(recipe, tmp_path / "out")
    assert manifest["dtype"] == "<u4"
    assert read_tokens(tmp_path / "out", "valid")[:].tolist() == [i for row in ids[::2] for i in [*row, 70_000]]


@pytest.fixture
def short_streams(monkeypatch):
    """Streams of languages that are made at once."""
    monkeypatch.setattr("mcd.data.prepare.pipeline.LANGUAGE_TOKENS", {"train": 20_000, "valid": 20_000})


@pytest.mark.parametrize("name", ["markov", "hmm", "grammar"])
def test_a_language_is_two_streams_of_its_own_words(tmp_path, short_streams, name):
    language, out = LANGUAGES[name](), tmp_path / "out"
    manifest = prepare(Recipe(name, vocab_size=12, length=25), out)
    assert manifest == read_manifest(out) == prepare(Recipe(name, vocab_size=12, length=25), out)
    assert (manifest["vocab_size"], manifest["eos_id"]) == (32, None)
    tokenizer = load_tokenizer(out)
    assert [tokenizer.id_to_token(i) for i in range(tokenizer.get_vocab_size())] == list(language.symbols)
    train, valid = (read_tokens(out, split) for split in ("train", "valid"))
    assert len(train) == len(valid) == 20_000 and not np.array_equal(train, valid)
    text = tokenizer.decode(train[:500].tolist())
    assert text.split() == [language.symbols[i] for i in train[:500]]
    assert tokenizer.encode(text).ids == train[:500].tolist()
    for split in ("train", "valid"):  # rows are windows of the language: their mean log p is its entropy
        rows = open_loader(out, split, 700).batch(0).x0
        nll = -language.log_likelihood(rows).view(20, -1).mean(1) / 25
        assert abs(nll.mean().item() - language.entropy(25)[0]) < 4.5 * nll.std().item() / 20**0.5 + 5e-3


@pytest.mark.heavy
def test_english_is_a_stream_of_text(tmp_path, short_streams):
    """Its tokens are those of a tokenizer of text: the folder holds it, and another one is refused."""
    language, out = LANGUAGES["english"](), tmp_path / "out"
    manifest = prepare(Recipe("english", length=25), out)
    assert (manifest["vocab_size"], manifest["eos_id"], manifest["dtype"]) == (2048, None, "<u2")
    assert tokenizer_sha256(load_tokenizer(out)) == tokenizer_sha256(language.tokenizer())
    rows = open_loader(out, "valid", 100).batch(0).x0
    nll = -language.log_likelihood(rows) / 25
    assert abs(nll.mean().item() - language.entropy(25, 100)[0]) < 4.5 * nll.std().item() / 7  # two means of 100 rows
    prepare(Recipe("hmm"), tmp_path / "words")
    with pytest.raises(DataError, match=r"--tokenizer .*its own tokens"):
        prepare(Recipe("english", tokenizer=str(tmp_path / "words")), tmp_path / "other")


@pytest.mark.heavy
def test_a_language_refuses_foreign_words_and_end_of_text(tmp_path, tiny_data, short_streams):
    prepare(Recipe("hmm"), tmp_path / "first")
    recipe = Recipe("hmm", tokenizer=str(tmp_path / "first"))
    again = prepare(recipe, tmp_path / "again")
    assert prepare(recipe, tmp_path / "again") == again  # as a distillation that resumes asks for it
    assert again["splits"] == read_manifest(tmp_path / "first")["splits"]
    with pytest.raises(DataError, match=r"--tokenizer .*its own tokens"):
        prepare(Recipe("hmm", tokenizer=str(tiny_data)), tmp_path / "out")
    with pytest.raises(DataError, match="--wrap: --data hmm"):
        prepare(Recipe("hmm", wrap=True), tmp_path / "out")
    assert not (tmp_path / "out").exists()
