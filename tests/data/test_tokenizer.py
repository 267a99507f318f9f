"""Byte-level BPE trained on the spot, and whole words."""

import json
import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import pre_tokenizers

from mcd.data.prepare.pipeline import prepare
from mcd.data.recipe import Recipe
from mcd.data.special_tokens import end_of_text
from mcd.data.tokenizer import (
    EOS,
    LONGEST_WORD,
    _moderate,
    load_tokenizer,
    tokenizer_of_model,
    tokenizer_sha256,
    train_bpe,
    word_tokenizer,
)
from mcd.errors import DataError

TEXTS = ["the state of the union is strong", "the people of the states", "naïve café 汉字"] * 20
TOKENIZER = train_bpe(TEXTS, 280)


@pytest.mark.parametrize("vocab_size", [257, 258, 280, 300])
def test_exact_size_with_end_of_text_last(vocab_size):
    tokenizer = train_bpe(TEXTS, vocab_size)
    assert tokenizer.get_vocab_size() == vocab_size
    assert sorted(tokenizer.get_vocab().values()) == list(range(vocab_size))
    assert end_of_text(tokenizer).id == tokenizer.token_to_id(EOS) == vocab_size - 1


@given(st.text())
def test_any_text_comes_back(text):
    ids = TOKENIZER.encode(text, add_special_tokens=False).ids
    assert TOKENIZER.decode(ids, skip_special_tokens=False) == text
    assert all(0 <= i < 279 for i in ids) or EOS in text


def test_training_is_deterministic_and_hashes_tell_tokenizers_apart():
    again = train_bpe(TEXTS, 280)
    assert tokenizer_sha256(again) == tokenizer_sha256(TOKENIZER)
    assert tokenizer_sha256(train_bpe(TEXTS, 281)) != tokenizer_sha256(TOKENIZER)


def test_a_stored_tokenizer_is_the_same_however_it_is_written(tmp_path):
    TOKENIZER.save(str(tmp_path / "tokenizer.json"))
    value = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    (tmp_path / "other.json").write_text(json.dumps(dict(reversed(value.items())), indent=7), encoding="utf-8")
    for path in (tmp_path, tmp_path / "tokenizer.json", tmp_path / "other.json"):
        assert tokenizer_sha256(load_tokenizer(path)) == tokenizer_sha256(TOKENIZER)


@pytest.mark.parametrize("vocab_size, match", [(256, "at least 257"), (100_000, "ask for fewer")])
def test_impossible_sizes_name_the_option(vocab_size, match):
    with pytest.raises(DataError, match=f"--vocab-size {vocab_size}.*{match}"):
        train_bpe(TEXTS, vocab_size)


def test_files_that_are_no_tokenizer_name_the_option(tmp_path):
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(DataError, match="--tokenizer"):
        load_tokenizer(tmp_path / "bad.json")
    value = json.loads(TOKENIZER.to_str())
    value["added_tokens"] = []
    (tmp_path / "no_eos.json").write_text(json.dumps(value))
    with pytest.raises(DataError, match="no end-of-text"):
        end_of_text(load_tokenizer(tmp_path / "no_eos.json"))


@pytest.mark.parametrize(
    "vocabulary, match",
    [
        ({"a": 0}, "has 1 tokens, at least 2"),
        ({}, "has 0 tokens"),
        ({"a": 0, "b": 1, "c": 1}, "'[bc]' and '[bc]' have the same id 1"),
        ({"a": 0, "b": 2}, "no token has the id 1, and 'b' has 2"),
        ({"a": 1, "b": 2}, "no token has the id 0"),
        ({"a": 0, "b": 1 << 31}, "no token has the id 1"),
    ],
)
def test_ids_that_are_missing_or_shared(tmp_path, vocabulary, match):
    model = {"type": "WordLevel", "vocab": vocabulary, "unk_token": "a"}
    (tmp_path / "t.json").write_text(json.dumps({"version": "1.0", "model": model}))
    with pytest.raises(DataError, match=rf"--tokenizer .*t\.json: (the tokens )?{match}"):
        prepare(Recipe("sotu", tokenizer=str(tmp_path / "t.json")), tmp_path / "out")


def test_what_can_only_be_a_path_never_goes_to_the_hub(tmp_path, monkeypatch):
    monkeypatch.setattr("mcd.data.tokenizer.Tokenizer", None)
    (tmp_path / "model").mkdir()
    monkeypatch.chdir(tmp_path)
    for name in ("model", "model/tokenizer.json"):
        with pytest.raises(DataError, match=r"^model: no tokenizer\.json"):
            load_tokenizer(name)
    for name in ("nowhere/tokenizer.json", "./nowhere", "/nowhere/else"):
        with pytest.raises(DataError, match=f"--tokenizer {name}: no such file"):
            load_tokenizer(name)


def test_a_tokenizer_of_another_size_than_the_models_is_refused(tmp_path):
    TOKENIZER.save(str(tmp_path / "tokenizer.json"))
    assert tokenizer_sha256(tokenizer_of_model(tmp_path, 280)) == tokenizer_sha256(TOKENIZER)
    with pytest.raises(DataError, match="has 280 tokens, the model 281"):
        tokenizer_of_model(tmp_path, 281)


@given(st.lists(st.sampled_from(["ba", "(", ")", "<", "x-1"])), st.sampled_from([" ", "\n", "  "]))
def test_words_come_back_parted_by_spaces(words, gap):
    tokenizer = word_tokenizer(["ba", "(", ")", "<", "x-1"])
    ids = tokenizer.encode(gap.join(words)).ids
    assert [tokenizer.id_to_token(i) for i in ids] == words
    assert tokenizer.decode(ids) == " ".join(words)


def test_words_have_no_end_of_text_and_must_differ():
    tokenizer = word_tokenizer(["b", "a"])
    assert tokenizer.get_vocab() == {"b": 0, "a": 1}
    with pytest.raises(DataError, match="no end-of-text"):
        end_of_text(tokenizer)
    for symbols in (["a", "a"], ["a b"], [""]):
        with pytest.raises(ValueError, match="must differ"):
            word_tokenizer(symbols)


def test_words_of_any_length_are_trained_on_in_moderate_time_and_usual_texts_as_they_are():
    rng = random.Random(0)
    usual = ["a b  c\n\n" + "x" * LONGEST_WORD + " y", "\u00e9" * LONGEST_WORD, " " * LONGEST_WORD + "a", ""]
    for text in usual:
        assert list(_moderate(text)) == [text]
    long = "".join(rng.choices("abcdefgh", k=5 * LONGEST_WORD + 3))
    text = f"the first {long}, 12  end" + " " * 2500 + "now\n"
    pieces = list(_moderate(text))
    assert "".join(pieces) == text
    split = pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str
    words = [word for piece in pieces for word, _ in split(piece)]
    expected = [word[i : i + LONGEST_WORD] for word, _ in split(text) for i in range(0, len(word), LONGEST_WORD)]
    assert words == expected and max(map(len, words)) == LONGEST_WORD


def test_one_long_word_takes_no_longer_than_its_pieces():
    """Ten times as long, where the time is that of the square."""
    letters = "".join(random.Random(0).choices("abcdefghijklmnopqrstuvwxyz", k=100_000))
    seconds = []
    for text in (letters, " ".join(letters[i : i + LONGEST_WORD] for i in range(0, len(letters), LONGEST_WORD))):
        started = time.process_time()
        train_bpe([text], 1000)
        seconds.append(time.process_time() - started)
    assert seconds[0] < 4 * seconds[1]
