"""Templates as ids: the given text is kept, masks begin where words do, and slips in [MASK] are refused."""

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from mcd.data.encoder import text_tokenizer
from mcd.data.template import parse_template, read_template
from mcd.data.token_texts import token_texts
from mcd.data.tokenizer import load_tokenizer, train_bpe, with_special_tokens, word_tokenizer
from mcd.errors import DataError

BLANK = 10**6
MASK = "<own mask>"
ENGLISH = load_tokenizer(Path(__file__).with_name("bpe_2048.json"))
"""A byte-level BPE of 2,048 tokens of the bundled corpus."""
CHARACTERS = Tokenizer(models.BPE({chr(i): i for i in range(128)}, []))
CHARACTERS.decoder = decoders.Fuse()
SNOW = train_bpe(["the state of the union is strong"], 257)


def given_part(tokenizer, template, length=64):
    """The ids of a template without the blanks that fill the row, and one blank for each run of masks."""
    ids = read_template(tokenizer, template, BLANK, length).ids
    assert len(ids) == length
    while ids[-1] == BLANK:
        ids.pop()
    return ids


def own_reading(tokenizer, template):
    """What the tokenizer makes of a template when it has a mask as RoBERTa's, which takes the white space before it."""
    copy = Tokenizer.from_str(tokenizer.to_str())
    copy.add_special_tokens([AddedToken(MASK, lstrip=True, special=True, normalized=False)])
    mask = copy.token_to_id(MASK)
    text = re.sub(r"\[MASK(?::(\d+))?\]", lambda found: MASK * int(found[1] or 1), template)
    ids = [BLANK if i == mask else i for i in copy.encode(text, add_special_tokens=False).ids]
    while ids[-1] == BLANK:
        ids.pop()
    return ids


def text_of(tokenizer, template, length=64):
    """The text of a template's row, U+0000 for each run of masks."""
    ids = read_template(tokenizer, template, BLANK, length).ids
    shares = token_texts(tokenizer, ids, BLANK, skip_special_tokens=False)
    return re.sub("\0+", "\0", "".join("\0" if share is None else share for share in shares))


def test_a_space_before_a_mask_is_the_masks(family):
    tokens = [ENGLISH.id_to_token(i) for i in given_part(ENGLISH, "My fellow citizens, [MASK:12]")]
    assert tokens == ["M", "y", "Ġfe", "llow", "Ġcitizens", ","]  # was: ",", "Ġ"
    assert given_part(ENGLISH, "My fellow citizens, ") == given_part(ENGLISH, "My fellow citizens,[MASK:12]")
    assert ENGLISH.id_to_token(given_part(ENGLISH, "My fellow citizens, [MASK:12] peace")[-1]) == "Ġpeace"
    metaspace = family("metaspace first")
    tokens = [metaspace.id_to_token(i) for i in given_part(metaspace, "the house [MASK:2] river [MASK]")]
    assert tokens == ["▁the", "▁house", None, None, "▁river"]


LIKE_THE_OWN = [
    "the house [MASK:3] river",
    "[MASK] river",
    "the river[MASK]",
    "the house [MASK:2] [MASK] is",
    "is [MASK]",
]


def test_as_the_tokenizer_reads_a_mask_of_its_own(family, each_family):
    tokenizer = family(each_family)
    for template in LIKE_THE_OWN:
        if each_family == "llama2" and "] " in template:
            continue  # its normalizer puts a space of its own after each special token: "the house <mask>  river"
        assert given_part(tokenizer, template) == own_reading(tokenizer, template), template


@pytest.mark.parametrize("name", ["byte-level", "llama3", "metaspace never"])
def test_parts_of_words_as_the_tokenizer_reads_a_mask_of_its_own(family, name):
    for template in ("[MASK]ing", "the [MASK]'s house", "the house[MASK].", "mak[MASK] and [MASK]ing"):
        assert given_part(family(name), template) == own_reading(family(name), template)


def test_nothing_is_put_before_a_text_that_follows_a_mask(family):
    for name, token in (
        ("metaspace first", "ing"),
        ("metaspace always", "ing"),  # its own reading is "▁", "ing"
        ("llama2", "ing"),
        ("unigram", "ing"),
        ("unigram of words", "ing"),
        ("byte-level, prefix space", "ing"),
        ("wordpiece, uncased", "##ing"),
    ):
        ids = given_part(family(name), "the [MASK]ing")
        assert family(name).id_to_token(ids[-1]) == token and ids[-2] == BLANK, name
    llama2 = family("llama2")
    assert llama2.id_to_token(given_part(llama2, "[MASK] river")[-1]) == "▁river"


@pytest.mark.heavy
def test_the_text_comes_back_to_the_byte(family, each_family):
    lossless = ("byte-level", "llama3", "llama2", "metaspace never")
    templates = {
        "the house [MASK:2] the river[MASK].": "the house\0 the river\0.\0",
        "the [MASK]ing [MASK] is": "the\0ing\0 is\0",
        "A line\n\n[MASK:3]\n\nand the  [MASK]": "A line\n\n\0\n\nand the \0",
        "é ☃\t[MASK]\n [MASK]": "é ☃\t\0\n\0",
    }
    for template, text in templates.items() if each_family in lossless else ():
        assert text_of(family(each_family), template) == text
        assert not read_template(family(each_family), template, BLANK, 64).changed
    for template, text in templates.items():  # the others say what they change
        row = read_template(family(each_family), template, BLANK, 64)
        assert row.changed or text_of(family(each_family), template) == text


@pytest.mark.heavy
@settings(max_examples=25)
@given(st.lists(st.text("ab ☃\n.'[\\", min_size=1, max_size=6), min_size=1, max_size=4))
def test_any_text_comes_back(texts):
    template = "[MASK:2]".join(text.replace("\\", "") for text in texts)
    expected = re.sub(" ?(?:\\[MASK:2\\])+", "\0", template + "[MASK:2]")
    got = text_of(SNOW, template, 256).split("\0")
    for one, other in zip(got, expected.split("\0"), strict=True):
        assert one in (other, other + " ")  # 257 tokens: no word begins with its space, so it stays


def test_new_lines_are_text_and_split_as_before_a_word(family):
    for name in ("byte-level", "llama3", "metaspace never", "llama2"):
        tokenizer = family(name)
        followed = tokenizer.encode("A line\n\nThe", add_special_tokens=False).ids
        ids = given_part(tokenizer, "A line\n\n[MASK:4]")
        assert ids == followed[: len(ids)] and tokenizer.decode(ids) == "A line\n\n"
    gpt2 = Tokenizer(models.BPE({"a": 0, "Ċ": 1, "ĊĊ": 2, "Ġa": 3, "Ġ": 4}, [("Ċ", "Ċ"), ("Ġ", "a")]))
    gpt2.pre_tokenizer, gpt2.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    assert gpt2.encode("a\n\n").ids == [0, 2] and gpt2.encode("a\n\na").ids == [0, 1, 1, 0]
    assert given_part(gpt2, "a\n\n[MASK]") == [0, 1, 1]


def test_a_space_stays_where_no_word_begins_with_one():
    assert given_part(CHARACTERS, "ab [MASK:2] c") == [97, 98, 32, BLANK, BLANK, 32, 99]


def test_white_space_that_the_tokenizer_drops_is_told(family):
    row = read_template(family("wordpiece, cased"), "A line\n\n[MASK:3]", BLANK, 16)
    assert row.changed == [("A line\n\n", "A line")]
    assert read_template(family("wordpiece, cased"), "A line [MASK:3]", BLANK, 16).changed == []
    assert read_template(word_tokenizer("abc"), "a [MASK:3] b[MASK]", 3, 16).changed == []


def test_what_a_normalizer_changes_is_told_and_what_is_lost_is_refused(family):
    uncased, cased = family("wordpiece, uncased"), family("wordpiece, cased")
    row = read_template(uncased, "The [MASK] MÄN, [MASK]", BLANK, 16)
    assert row.changed == [("The", "the"), (" MÄN,", " man,")]
    assert [uncased.id_to_token(i) for i in row.ids[:5]] == ["the", None, "man", ",", None]
    for name, template in (
        ("wordpiece, cased", "the Žižek [MASK]"),
        ("metaspace first", "the [MASK] Žižek"),
        ("unigram", "the ☂ [MASK]"),
    ):
        with pytest.raises(DataError, match=r"--template: the model's tokenizer cannot write .*reads '(Žižek|☂)' as"):
            read_template(family(name), template, BLANK, 32)
    assert cased.token_to_id("[UNK]") is not None
    with pytest.raises(DataError, match="'a d' is not in the model's vocabulary"):
        read_template(word_tokenizer("abc"), "a d [MASK]", 3, 8)
    with pytest.raises(DataError, match="cannot write 'aéb'"):  # no unknown token: the letter would vanish
        read_template(CHARACTERS, "aéb[MASK]", BLANK, 8)


def test_special_tokens_are_text_unless_asked_for():
    eos = ENGLISH.token_to_id("<|endoftext|>")
    template = "peace<|endoftext|>[MASK]"
    assert eos not in read_template(ENGLISH, template, 2048, 32).ids
    assert text_of(ENGLISH, template) == "peace<|endoftext|>\0"
    ids = given_part(with_special_tokens(ENGLISH), template)
    assert ids[-1] == eos and ids[:-1] == given_part(ENGLISH, "peace[MASK]")


def test_the_mask_may_be_a_token_of_the_tokenizer(family):
    tokenizer = family("wordpiece, cased")
    mask = tokenizer.token_to_id("[MASK]")
    house = tokenizer.token_to_id("house")
    ids = read_template(tokenizer, "house [MASK:2] house", mask, 6).ids
    assert ids == [house, mask, mask, house, mask, mask]
    with_mask = Tokenizer.from_str(ENGLISH.to_str())
    with_mask.add_special_tokens(["[MASK]"])
    literal = read_template(text_tokenizer(with_mask.to_str()), r"house \[MASK] house [MASK]", 2048, 16).ids
    assert literal == read_template(ENGLISH, r"house \[MASK] house [MASK]", 2048, 16).ids
    assert ENGLISH.decode(literal[: literal.index(2048)]) == "house [MASK] house"
    with pytest.raises(DataError, match=r"reads a part of .* as the mask"):
        read_template(with_special_tokens(with_mask), r"house \[MASK] house [MASK]", 2048, 16)


def test_length():
    template = "The dogmas of the quiet past [MASK:5]"
    n = len(given_part(ENGLISH, template)) + 5
    assert read_template(ENGLISH, template, 2048, n).ids[-5:] == [2048] * 5
    with pytest.raises(DataError, match=f"--template: is longer than --length {n - 1}"):
        read_template(ENGLISH, template, 2048, n - 1)
    for text in ("The dogmas", "[MASK:99999999999999999999]", "[MASK:3][MASK:9]", "a [MASK:9999] b"):
        with pytest.raises(DataError, match="longer than --length 4"):
            read_template(ENGLISH, text + " of the quiet past", 2048, 4)
    past = len(given_part(ENGLISH, "the past"))
    with pytest.raises(DataError, match="leaves nothing to write"):
        read_template(ENGLISH, "the past", 2048, past)
    assert read_template(ENGLISH, "", 2048, 3).ids == [2048] * 3
    # the space is the next word's only where there is room for one
    assert read_template(ENGLISH, "[MASK]the past ", 2048, past + 3).ids[-2:] == [2048] * 2
    assert ENGLISH.id_to_token(read_template(ENGLISH, "[MASK]the past ", 2048, past + 2).ids[-1]) is None
    assert read_template(ENGLISH, "[MASK] past ", 2048, 3).ids == [2048, ENGLISH.token_to_id("Ġpast"), 2048]


@pytest.mark.parametrize(
    ("template", "parts"),
    [
        ("", []),
        ("a", ["a"]),
        ("[MASK]", [1]),
        ("[MASK:012][MASK]", [12, 1]),
        ("a [MASK:3] b", ["a ", 3, " b"]),
        ("[[MASK:2]]", ["[", 2, "]"]),
        (r"\[MASK] a", ["[MASK] a"]),
        (r"\[mask: 5]\<mask>", ["[mask: 5]<mask>"]),
        (r"a\\[MASK]", ["a\\", 1]),
        (r"a\\\[MASK]b", [r"a\[MASK]b"]),
        (r"C:\dir \n [MASK]", [r"C:\dir \n ", 1]),
        (
            "[masked] men, a [mask of clay], unmask [me], <masque>, <b>",
            ["[masked] men, a [mask of clay], unmask [me], <masque>, <b>"],
        ),
    ],
)
def test_parsing(template, parts):
    assert parse_template(template) == parts


@pytest.mark.parametrize(
    "slip",
    [
        *("[MASK: 5]", "[mask]", "[MASK:-2]", "[MASK:]", "[MASK:0]", "[MASK:000]", "[ MASK ]", "[MASK 5]", "[MASK5]"),
        *("[MASK*5]", "[MASK=5]", "[Mask:5]", "[MASKS]", "[MASK:1.5]", "[MASK:five]", "[MASK:+5]", "[MASK:\u0663]"),
        *("<mask>", "<MASK:3>", "<|mask|>", "<|mdm_mask|>", "{mask}", "{MASK:5}", "\uff3bMASK\uff3d"),
        *("[MASK:5", "[MASK", "[MASK:5)", "MASK:5]", "(MASK:5)"),
    ],
)
def test_slips_are_refused_with_the_right_form(slip):
    with pytest.raises(DataError, match=r"is no mask; write \[MASK\], or \[MASK:n\]") as refusal:
        parse_template(f"We {slip} peace")
    form = re.search(r"or \\(.*) to have it as text", str(refusal.value))
    assert form and parse_template(f"We {slip} peace".replace(form[1], "\\" + form[1])) == [f"We {slip} peace"]


def test_the_models_own_mask_is_refused_as_a_spelling():
    assert parse_template("@@ [MASK]") == ["@@ ", 1]
    with pytest.raises(DataError, match="'@@' is no mask"):
        parse_template("@@ [MASK]", "@@")
    assert parse_template("unMask me", "mask") == ["unMask me"]
    tokenizer = word_tokenizer(["a", "@@"])
    with pytest.raises(DataError, match="'@@' is no mask"):
        read_template(tokenizer, "a @@", 1, 4)


def test_a_template_ends_where_its_text_ends_unless_a_length_is_asked_for():
    template = "The [MASK:12] of the United States [MASK:8] peace."
    ids = read_template(ENGLISH, template, BLANK).ids
    assert ids == given_part(ENGLISH, template) and ids.count(BLANK) == 20 and ids[-1] != BLANK
    assert read_template(ENGLISH, "peace [MASK:3]", BLANK).ids == read_template(ENGLISH, "peace", BLANK, 5).ids
    space = read_template(ENGLISH, "[MASK] peace ", BLANK).ids  # no mask follows: the space is text
    assert ENGLISH.decode(space[1:]) == " peace "
    with pytest.raises(DataError, match=r"has no \[MASK\] and leaves nothing to write; .*give --length"):
        read_template(ENGLISH, "peace", BLANK)
    with pytest.raises(DataError, match="longer than 65,536 tokens, the most that a row may have; shorten it"):
        read_template(ENGLISH, "[MASK:999999999999]", BLANK)


def test_the_parts_of_a_template_are_never_read_as_masks():
    parts = read_template(ENGLISH, ["say [MASK:2] ", 3, "", " peace"], BLANK)
    assert parts == read_template(ENGLISH, r"say \[MASK:2] [MASK:3] peace", BLANK)
