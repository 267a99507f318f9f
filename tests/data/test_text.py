"""Ids as text: where a document ends is kept, apart from the same letters in a text, or dropped as `decode` does."""

import pytest
from tokenizers import Tokenizer, decoders, models

from mcd.data.text import Writer, split_at, writer_of
from mcd.data.tokenizer import EOS, train_bpe, word_tokenizer


@pytest.fixture(scope="module")
def writer():
    return writer_of(train_bpe(["the people of the union and the states of the nation"] * 20, 260))


def row(writer, *documents):
    """The ids of documents with the end of text between them."""
    ids = []
    for i, document in enumerate(documents):
        ids += [writer.end_id] * (i > 0) + writer.tokenizer.encode(document, add_special_tokens=False).ids
    return ids


@pytest.mark.parametrize(
    "documents",
    [("the union",), ("the union", "of the nation"), ("", "the union", "the states", ""), ("a", "", "b"), ("", "")],
)
def test_documents_come_back_from_their_ids(writer, documents):
    ids = row(writer, *documents)
    assert writer.documents(ids) == documents
    assert writer.ids(documents) == ids
    assert writer.text(ids) == EOS.join(documents)


def test_padding_behind_the_last_document_is_told_once(writer):
    assert writer.documents([*row(writer, "the union"), *[writer.end_id] * 9]) == ("the union", "")
    assert writer.documents([writer.end_id] * 9) == ("", "")
    assert writer.documents([]) == ("",)


def test_letters_that_spell_the_end_of_text_are_no_border(writer):
    letters = writer.tokenizer.encode
    spelled = [i for c in EOS for i in letters(c, add_special_tokens=False).ids]
    assert writer.end_id not in spelled
    assert writer.documents([*spelled, writer.end_id, *row(writer, "b")]) == (EOS, "b")
    fields = writer.fields([*spelled, writer.end_id, *row(writer, "b")])
    assert fields == {"text": f"{EOS}{EOS}b", "documents": [EOS, "b"]}  # the text is to read, the documents are exact
    assert writer.fields(row(writer, "b")) == {"text": "b"}


def test_dropped_borders_are_what_decode_does(writer):
    dropped = Writer(writer.tokenizer, writer.end_id, "dropped")
    ids = row(writer, "the union", "of the nation", "")
    assert dropped.documents(ids) == ("the unionof the nation",) == (writer.tokenizer.decode(ids),)
    assert dropped.fields(ids) == {"text": "the unionof the nation"}


def test_a_language_without_an_end_of_text_has_no_borders():
    writer = writer_of(word_tokenizer(["a", "b"]))
    assert writer.end_id is None and writer.documents([0, 1, 0]) == ("a b a",) and writer.text([0, 1]) == "a b"


def test_texts_of_others_are_split_at_what_stands_there():
    assert split_at("a</s>b</s></s></s>", "</s>") == ("a", "b", "")
    assert split_at("a", "</s>") == ("a",)


def test_a_document_that_begins_with_a_continuing_piece_has_no_joint():
    """As a row cut from the middle of a word does; between pieces of a word there is none either."""
    tokenizer = Tokenizer(models.WordPiece({"[UNK]": 0, "[SEP]": 1, "##gle": 2, "dan": 3, "a": 4}, unk_token="[UNK]"))
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens(["[UNK]", "[SEP]"])
    writer = Writer(tokenizer, 1)
    assert writer.documents([2, 4, 1, 2, 3, 2]) == ("gle a", "gle dangle")
    assert writer.text([3, 1, 2]) == "dan[SEP]gle"
