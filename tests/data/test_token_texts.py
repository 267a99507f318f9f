"""The share of the text that each token of a row has, against its definition and on texts known beforehand."""

import random
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from mcd.data.token_texts import UNFINISHED, token_texts, word_of
from mcd.data.tokenizer import load_tokenizer, train_bpe, word_tokenizer

BLANK = 10**6
BYTES = train_bpe(["the state of the union is strong"], 257)
TEXT = "The singing man's riverstone house: é, ☃ and 😀.\n\nFellow  citizens, giggle and goggle in 1862."


def by_definition(tokenizer, ids, skip_special_tokens=True):
    """Quadratic: a token ends where the text up to it ceases to be a prefix of the whole; blanks are words."""
    ids = [word_of(tokenizer) if i == BLANK else i for i in ids]
    texts = [tokenizer.decode(ids[:n], skip_special_tokens=skip_special_tokens) for n in range(len(ids) + 1)]
    ends, end = [], 0
    for text in texts[: len(ids)]:
        end = max(end, next(n for n in range(len(text), -1, -1) if texts[-1][:n] == text[:n]))
        ends.append(end)
    return [texts[-1][a:b] for a, b in zip(ends, [*ends, len(texts[-1])][1:], strict=True)]


def ids_of(tokenizer, text):
    return tokenizer.encode(text, add_special_tokens=False).ids


def test_shares_are_those_of_the_definition(family, each_family):
    tokenizer, rng = family(each_family), random.Random(0)
    text, size = ids_of(tokenizer, TEXT), tokenizer.get_vocab_size()
    rows = [text, *([rng.randrange(size) for _ in range(n)] for n in (1, 2, 50))]
    for row in rows:
        for share_masked in (0.0, 0.4):
            masked = [BLANK if rng.random() < share_masked else i for i in row]
            for skip in (True, False):
                shares = token_texts(tokenizer, masked, BLANK, skip_special_tokens=skip)
                assert [share is None for share in shares] == [i == BLANK for i in masked]
                expected = by_definition(tokenizer, masked, skip)
                given = [(a.replace(UNFINISHED, "\ufffd"), b) for a, b in zip(shares, expected, strict=True) if a]
                assert all(a == b for a, b in given)
                if not share_masked:
                    assert "".join(shares) == tokenizer.decode(row, skip_special_tokens=skip)


@settings(max_examples=50)
@given(st.lists(st.integers(0, 256), max_size=40))
def test_any_bytes_are_shared_out(ids):
    assert token_texts(BYTES, ids, BLANK) == by_definition(BYTES, ids)
    assert "".join(token_texts(BYTES, ids, BLANK)) == BYTES.decode(ids)


def test_words_and_parts_of_words(family):
    for name, text, shares in (
        ("wordpiece, uncased", "riverstone giggle", ["riverstone", " giggle"]),
        ("wordpiece, uncased", "making hats", ["making", " h", "a", "t", "s"]),
        ("metaspace first", "the house is", ["the", " house", " is"]),
        ("metaspace always", "the house is", ["the", " house", " is"]),
        ("llama2", "the house is", ["the", " house", " is"]),
        ("end of word", "the house is", ["the", " house", " is"]),
    ):
        tokenizer = family(name)
        assert token_texts(tokenizer, ids_of(tokenizer, text), BLANK) == shares
    wordpiece = family("wordpiece, uncased")
    the, ing = (wordpiece.token_to_id(token) for token in ("the", "##ing"))
    assert token_texts(wordpiece, [the, BLANK, ing, the], BLANK) == ["the", None, "ing", " the"]
    metaspace = family("metaspace first")
    house = metaspace.token_to_id("▁house")
    assert token_texts(metaspace, [house, BLANK, house], BLANK) == ["house", None, " house"]
    assert token_texts(metaspace, [BLANK, house, house], BLANK) == [None, " house", " house"]
    assert token_texts(word_tokenizer("abc"), [0, BLANK, 2, 1], BLANK) == ["a", None, " c", " b"]


def test_a_character_is_shown_when_it_is_complete(family):
    snow = ids_of(BYTES, "a☃b")
    assert len(snow) == 5
    assert token_texts(BYTES, snow, BLANK) == ["a", "", "", "☃", "b"]
    a, one, two, three, b = snow
    for row, shares in (
        ([a, one, BLANK, three, b], ["a", UNFINISHED, None, UNFINISHED, "b"]),
        ([a, one, two, BLANK, b], ["a", UNFINISHED, "", None, "b"]),
        ([BLANK, one, two, three, BLANK], [None, "", "", "☃", None]),
        ([a, three, b], ["a", "\ufffd", "b"]),  # no mask beside it: these bytes are no character
        ([a, b, one], ["a", "b", "\ufffd"]),
    ):
        assert token_texts(BYTES, row, BLANK) == shares
    llama2 = family("llama2")
    assert token_texts(llama2, ids_of(llama2, "ü"), BLANK)[-2:] == ["", "ü"]


def test_special_tokens_are_shown_where_asked_for():
    eos = BYTES.get_vocab_size() - 1
    row = [eos, *ids_of(BYTES, "ab"), eos]
    assert token_texts(BYTES, row, BLANK) == ["", "a", "b", ""]
    assert token_texts(BYTES, row, BLANK, skip_special_tokens=False) == ["<|endoftext|>", "a", "b", "<|endoftext|>"]


def test_the_mask_may_be_a_token_or_none_and_rows_may_be_empty(family):
    wordpiece = family("wordpiece, uncased")
    mask, the = (wordpiece.token_to_id(token) for token in ("[MASK]", "the"))
    assert token_texts(wordpiece, [the, mask, the], mask) == ["the", None, " the"]
    assert token_texts(wordpiece, [], mask) == []
    assert token_texts(BYTES, [BLANK] * 3, BLANK) == [None] * 3
    only_special = Tokenizer(models.WordLevel({"[A]": 0}))
    only_special.add_special_tokens(["[A]"])
    assert token_texts(only_special, [0, BLANK], BLANK) == ["", None]


def test_a_decoder_that_looks_far_back_is_followed():
    """Byte fallback makes a whole run of bytes invalid when one is: the text of the first depends on the last."""
    tokenizer = Tokenizer(models.BPE({f"<0x{i:02X}>": i for i in range(256)}, [], byte_fallback=True))
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    row = [65] * 70 + [255]
    assert tokenizer.decode(row) == "\ufffd" * 71
    assert token_texts(tokenizer, row, BLANK) == [""] * 70 + ["\ufffd" * 71] == by_definition(tokenizer, row)


def test_time_is_linear_in_the_row():
    tokenizer = load_tokenizer(Path(__file__).with_name("bpe_2048.json"))
    row = (ids_of(tokenizer, "The dogmas of the quiet past are inadequate ☃ to the stormy present. ") * 60)[:1024]
    seconds = []
    for _ in range(5):
        before = time.process_time()
        shares = token_texts(tokenizer, row, 2048)
        seconds.append(time.process_time() - before)
    assert "".join(shares) == tokenizer.decode(row)
    assert min(seconds) < 0.05


@pytest.mark.parametrize("pre", [None, pre_tokenizers.WhitespaceSplit()])
def test_without_a_decoder_tokens_are_parted_by_spaces(pre):
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "b": 1}))
    tokenizer.pre_tokenizer = pre
    assert token_texts(tokenizer, [0, 1, BLANK, 0], BLANK) == ["a", " b", None, " a"]
