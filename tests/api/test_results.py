"""States as text."""

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

from mcd.api.results import State
from mcd.data.text import Writer


def test_states_are_read_as_a_whole():
    tokens = ["[UNK]", "the", "river", "##stone", "gig", "##gle", "house", "stone"]
    tokenizer = Tokenizer(models.WordPiece({token: i for i, token in enumerate(tokens)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
    blank, writer = 99, Writer(tokenizer, None, "dropped")

    def state(*row: int) -> State:
        return State(0.5, torch.tensor([row]), [1], blank, writer)

    assert state(blank, blank, blank, blank).tokens == [[None] * 4]
    assert state(2, blank, 4, blank).tokens == [["river", None, " gig", None]]
    assert state(2, 3, 4, 5).tokens == [["river", "stone", " gig", "gle"]]
    assert state(2, blank, 4, blank).texts == ["river· gig·"] and state(2, 3, 4, 5).texts == ["riverstone giggle"]
