"""Bytes of rows against the length of the text that they were cut from, for every family of tokenizers."""

import pytest
import torch
from tokenizers import Tokenizer, decoders, models
from torch import Tensor

from mcd.data.loader import Batch, Loader, spread_batch
from mcd.data.token_bytes import reads_back, row_bytes
from mcd.data.tokenizer import train_bpe, word_tokenizer

DOCUMENTS = (
    "The house by the river is old. Fellow citizens, peace and war; the singing man's stone house: 12 men in 1862.",
    "é and ☃ are letters, 😀 is one too; don't be late\n\nA new paragraph\nand a line\twith a tab",
    "riverstone, giggle, goggle, singing, making and taking",
)
READ_BACK = ("byte-level", "llama3", "llama2")
BYTES = train_bpe(["abc"] * 9, 257)


def stream(tokenizer: Tokenizer, end_id: int) -> list[int]:
    """The ids of DOCUMENTS, an end of text behind each."""
    return [i for text in DOCUMENTS for i in (*tokenizer.encode(text, add_special_tokens=False).ids, end_id)]


def with_end(tokenizer: Tokenizer) -> tuple[Tokenizer, int]:
    """A copy with an end of text."""
    tokenizer = Tokenizer.from_str(tokenizer.to_str())
    tokenizer.add_special_tokens(["<|end|>"])
    return tokenizer, tokenizer.token_to_id("<|end|>")


def test_rows_of_any_length_add_up_to_the_text(each_family, family):
    """However the stream is cut, and whatever is cut: words, and characters made of several tokens."""
    tokenizer, end_id = with_end(family(each_family))
    ids = torch.tensor(stream(tokenizer, end_id))
    texts = [tokenizer.decode(tokenizer.encode(text, add_special_tokens=False).ids) for text in DOCUMENTS]
    expected = sum(len(text.encode()) for text in texts)
    assert bytes_of_document(tokenizer, ids, end_id) == bytes_of_document(tokenizer, ids[:-1], end_id) == expected
    for length in (2, 3, 7, 16):
        total = 0
        for start in range(0, len(ids), length):
            row = ids[start : start + length]
            as_document = bytes_of_document(tokenizer, row, end_id)
            continuing = row_bytes(tokenizer, Batch(row[None]), end_id).item()
            begins = start == 0 or ids[start - 1] == end_id
            total += as_document if begins else continuing
            assert not begins or continuing - as_document in (0, 1)  # what is before a row is not known
        assert total == expected


def bytes_of_document(tokenizer: Tokenizer, row: Tensor, end_id: int) -> int:
    """The bytes of a row that begins a document, as those of packing "rows" do."""
    return int(row_bytes(tokenizer, Batch(row[None], counted=torch.ones(1)), end_id))


@pytest.mark.parametrize("name", READ_BACK)
def test_what_reads_back_is_counted_by_its_text(family, name):
    tokenizer, end_id = with_end(family(name))
    found = bytes_of_document(tokenizer, torch.tensor(stream(tokenizer, end_id)), end_id)
    assert found == sum(len(text.encode()) for text in DOCUMENTS)


def test_the_mask_parts_a_row_and_the_end_of_text_is_none(each_family, family):
    tokenizer, end_id = with_end(family(each_family))
    x0 = torch.tensor([stream(tokenizer, end_id)])
    whole = row_bytes(tokenizer, Batch(x0), end_id)
    mask = torch.rand(x0.shape, generator=torch.Generator().manual_seed(0)) < 0.5
    assert row_bytes(tokenizer, Batch(x0, mask), end_id) + row_bytes(tokenizer, Batch(x0, ~mask), end_id) == whole
    nothing = row_bytes(tokenizer, Batch(torch.full((2, 3), end_id)), end_id)
    assert nothing.tolist() == [0, 0] and nothing.dtype == torch.int64


def test_a_byte_is_a_byte_wherever_a_character_is_cut(family):
    snow = torch.tensor(BYTES.encode("a☃b").ids)
    cut = [row_bytes(BYTES, Batch(part[None]), 256).item() for part in snow.split(2)]
    assert cut == [2, 2, 1]
    llama2 = family("llama2")
    ids = llama2.encode("ü", add_special_tokens=False).ids[-2:]
    assert [row_bytes(llama2, Batch(torch.tensor([[i]])), None).item() for i in ids] == [1, 1]


def test_special_tokens_are_no_text_and_added_words_are(family):
    tokenizer, end_id = with_end(family("byte-level"))
    tokenizer.add_special_tokens(["<|user|>"])
    tokenizer.add_tokens(["    ", "Straße"])
    row = torch.tensor([[tokenizer.token_to_id(name) for name in ("<|user|>", "    ", "Straße", "<|end|>", "a")]])
    assert row_bytes(tokenizer, Batch(row), end_id).item() == len("    Straßea".encode())
    assert row_bytes(tokenizer, Batch(row), tokenizer.token_to_id("a")).item() == len("    Straße".encode())


def test_what_loses_letters_is_known(family, each_family):
    assert reads_back(family(each_family)) == (each_family in READ_BACK)
    assert reads_back(BYTES) and not reads_back(word_tokenizer(["a", "b"]))


def test_of_an_answer_only_its_bytes_count():
    """Rows of a prompt and its answer: what is learnt is the answer with its end."""
    text, answer = BYTES.encode("Prompt: ").ids, BYTES.encode("ünder").ids
    row = [*text, *answer, 256, 256, 256]
    loader = Loader(torch.tensor([len(text), len(row), *row]).numpy(), len(row), 1, 256, spans=True)
    batch = spread_batch(loader, 1)
    assert batch.counted is not None and batch.counted.tolist() == [7]
    assert row_bytes(BYTES, batch, 256).tolist() == [6]


def test_a_frame_is_no_text(family):
    wordpiece = family("wordpiece, uncased")
    cls, sep = (wordpiece.token_to_id(name) for name in ("[CLS]", "[SEP]"))
    ids = wordpiece.encode("the house is old", add_special_tokens=False).ids
    loader = Loader(torch.tensor(ids * 4).numpy(), len(ids) + 2, 1, sep, frame=(cls, sep), shuffle=False)
    batch: Batch = spread_batch(loader, 2)
    counts: Tensor = row_bytes(wordpiece, batch, sep)
    assert counts.tolist() == [len(" the house is old")] * 2


def test_bytes_to_fall_back_to_that_are_no_character():
    tokenizer = Tokenizer(models.BPE({f"<0x{i:02X}>": i for i in range(256)}, [], byte_fallback=True))
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    assert row_bytes(tokenizer, Batch(torch.tensor([[255, 254, 65, 0x82]])), None).tolist() == [4]
