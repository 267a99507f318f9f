"""What a tokenizer loses of a text: counted, told, the same for any number of processes, and refused beyond a share."""

import json
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

from mcd.data.encoder import Encoder, Lost
from mcd.data.manifest import read_manifest
from mcd.data.prepare import records, workers
from mcd.data.prepare.pipeline import prepare
from mcd.data.recipe import Recipe
from mcd.data.template import read_template
from mcd.data.tokenizer import load_tokenizer, train_bpe
from mcd.data.tokens import read_tokens
from mcd.errors import DataError

LETTERS = "abcdefghijklmnopqrstuvwxyz."


def bpe(vocabulary=LETTERS, merges=(), **options):
    """A BPE of letters, which drops what it does not know."""
    known = dict.fromkeys([*vocabulary, *(a + b for a, b in merges)])
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(known)}, list(merges), **options))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(["</s>"])
    return tokenizer


def word_pieces():
    tokenizer = Tokenizer(models.WordPiece({t: i for i, t in enumerate(["[UNK]", "[SEP]", "a", "##b", "ab", "."])}))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens(["[UNK]", "[SEP]"])
    return tokenizer


def encoded(tokenizer, *texts):
    """The ids of texts, and what is lost of them."""
    encoder = Encoder(tokenizer.to_str())
    return list(encoder.encode(texts)), encoder.lost


def test_characters_that_a_bpe_drops_are_counted_and_its_ids_are_its_own():
    tokenizer = bpe(merges=[("s", "t"), ("o", "e")])
    texts = ["stone ☃ caf\u00e9", "s\u00e9t o\U0001f600e", "plain."]
    ids, lost = encoded(tokenizer, *texts)
    assert ids == [tokenizer.encode(text).ids for text in texts]  # it joins what stood around: "s\u00e9t" is "st"
    assert (lost.dropped, lost.characters, lost.unknown) == (4, sum(map(len, texts)), 0)
    assert lost.tokens == sum(map(len, ids)) and lost.examples == ["☃", "\u00e9", "\U0001f600"]
    assert lost.summary.startswith("the tokenizer drops 4 of 25 characters (16.00%), such as '☃'")


def test_unknown_tokens_are_counted_with_an_example():
    ids, lost = encoded(word_pieces(), "A b\u00e9 AB ☃.", "ab x")
    assert ids == [[2, 0, 4, 0, 5], [4, 0]] and (lost.unknown, lost.tokens, lost.dropped) == (3, 7, 0)
    assert lost.examples == ["b\u00e9", "☃", "x"]
    assert "unknown token for 3 of 7 tokens (42.86%)" in lost.summary


def test_lower_case_and_accents_are_no_loss():
    assert encoded(word_pieces(), "\u00c4 \u00e1b \u0007ab")[1].summary == ""
    assert encoded(word_pieces(), "AB a\u0301.")[1].examples == []


def test_bytes_of_a_character_without_all_of_them():
    """A byte-level BPE that knows only the first byte of two drops half a character: it counts as one."""
    tokenizer = bpe("".join(pre_tokenizers.ByteLevel.alphabet()).replace("\u00a9", ""))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    ids, lost = encoded(tokenizer, "a\u00e9b")
    assert ids == [tokenizer.encode("a\u00e9b").ids] and len(ids[0]) == 3
    assert lost.dropped == 1 and lost.examples == ["\u00e9"]


@given(st.text())
def test_a_byte_for_each_character_loses_nothing(text):
    tokenizer = train_bpe(["the state of the union"] * 9, 260)
    fallback = {f"<0x{i:02X}>": i for i in range(256)}
    for whole in (tokenizer, Tokenizer(models.BPE(fallback, [], byte_fallback=True))):
        assert encoded(whole, text)[1].examples == []
        assert encoded(whole, text)[0] == [whole.encode(text, add_special_tokens=False).ids] or "<|" in text


def test_added_tokens_keep_their_ids_beside_what_is_dropped():
    tokenizer = bpe()
    tokenizer.add_tokens(["<think>"])
    ids, lost = encoded(tokenizer, "ab<think>☃</s>")
    for part in ("<", "/", ">"):
        assert part in lost.examples  # the name of a special token is text
    assert ids == [[0, 1, tokenizer.token_to_id("<think>"), LETTERS.index("s")]] and "☃" in lost.examples


def test_what_a_pre_tokenizer_removes_is_dropped():
    tokenizer = bpe()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation("removed")]
    )
    ids, lost = encoded(tokenizer, "ab, c.")
    assert len(ids[0]) == 3 and lost.dropped == 2 and lost.examples == [",", "."]
    tokenizer.pre_tokenizer = pre_tokenizers.CharDelimiterSplit("-")
    assert encoded(tokenizer, "a-b")[1].examples == ["-"]


def test_parts_of_templates():
    assert encoded(bpe(), "stone caf\u00e9 ☃")[1].examples == ["\u00e9", "☃"]
    assert encoded(word_pieces(), "ab [MASK]")[1].examples == ["[", "MASK", "]"]
    assert encoded(bpe(), "stone. ")[1].examples == []


def test_counts_of_parts_add_up_in_order():
    whole = Lost(10, 2, 5, 1, ["a", "b", "c"])
    parts = Lost(6, 1, 3, 1, ["a", "b"])
    parts.add(Lost(4, 1, 2, 0, ["b", "c"]))
    assert parts == whole == Lost(**json.loads(json.dumps(vars(whole))))
    many = Lost()
    many.show([str(i) for i in range(20)])
    assert many.examples == list("01234567")


@pytest.mark.parametrize(
    "lost, most, refused",
    [
        (Lost(characters=1000, dropped=1), None, False),
        (Lost(characters=999, dropped=1), None, True),
        (Lost(tokens=100, unknown=1), None, False),
        (Lost(tokens=99, unknown=1), None, True),
        (Lost(characters=10, dropped=5), 0.5, False),
        (Lost(characters=10, dropped=5, tokens=9, unknown=5), 0.5, True),
        (Lost(characters=10, dropped=1), 0.0, True),
        (Lost(characters=10, tokens=2), 0.0, False),
    ],
)
def test_shares_that_are_taken(lost, most, refused):
    assert lost.too_much(most) is refused


@pytest.fixture
def lossy(tmp_path):
    """A recipe of many records, two documents of which hold what the tokenizer drops."""
    rng = random.Random(0)
    texts = ["".join(rng.choices(LETTERS + " ", k=200)) for _ in range(40)]
    texts[7] += " caf\u00e9"
    texts[31] = "\U0001f600\u00e9 " + texts[31]
    (tmp_path / "text.txt").write_text("\n\n".join(texts), encoding="utf-8")
    bpe().save(str(tmp_path / "tokenizer.json"))
    return Recipe(str(tmp_path / "text.txt"), tokenizer=str(tmp_path), length=8, valid_every=8)


def test_prepared_text_says_what_it_lost_for_any_number_of_processes(lossy, tmp_path, monkeypatch):
    monkeypatch.setattr(records, "UNIT_BYTES", 800)
    monkeypatch.setattr(workers, "FEW_UNITS", 2)
    alone, shared = prepare(lossy, tmp_path / "a", workers=1), prepare(lossy, tmp_path / "b", workers=2)
    assert alone["lost"] == shared["lost"] == read_manifest(tmp_path / "b")["lost"]
    assert alone["lost"]["dropped"] == 3 and alone["lost"]["examples"] == ["\u00e9", "\U0001f600"]
    assert alone["lost"]["characters"] == len(Path(lossy.data).read_text(encoding="utf-8")) - 2 * 39


def test_work_that_is_refused_is_kept(lossy, tmp_path, monkeypatch):
    monkeypatch.setattr(records, "UNIT_BYTES", 800)
    with pytest.raises(DataError, match=r"drops 3 of .* such as 'é'.*--most-lost"):
        prepare(lossy, tmp_path / "out", most_lost=1e-5)
    monkeypatch.setattr(workers, "Encoder", lambda *_: None)  # nothing is encoded again
    prepare(lossy, tmp_path / "out")
    monkeypatch.undo()
    prepare(lossy, tmp_path / "again")
    for split in ("train", "valid"):
        assert read_tokens(tmp_path / "out", split)[:].tolist() == read_tokens(tmp_path / "again", split)[:].tolist()


def test_dropout_of_a_bpe_makes_no_draws(tmp_path, text_file):
    tokenizer = train_bpe(text_file.read_text(encoding="utf-8").split("\n\n"), 300)
    content = json.loads(tokenizer.to_str())
    content["model"]["dropout"] = 0.5
    (tmp_path / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    text = "the states of the people and the union"
    assert load_tokenizer(tmp_path).encode(text).ids == tokenizer.encode(text).ids
    assert list(Encoder(json.dumps(content)).encode([text])) == [tokenizer.encode(text).ids]
    recipe = Recipe(str(text_file), tokenizer=str(tmp_path), length=16)
    whole = [prepare(recipe, tmp_path / name)["splits"] for name in ("a", "b")]
    assert whole[0] == whole[1]


def test_templates_that_lose_text_are_refused():
    for tokenizer, text in ((bpe(), "st\u00e9ne"), (word_pieces(), "ab xyz.")):
        with pytest.raises(DataError, match="--template: the model's tokenizer cannot write"):
            read_template(tokenizer, f"{text} [MASK:2]", tokenizer.get_vocab_size(), 16)
