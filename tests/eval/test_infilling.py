"""Accuracy of infilled words, with models whose answers are known."""

import pytest
import torch
from tokenizers import Tokenizer

from mcd.data.tokenizer import train_bpe
from mcd.eval.infilling import masked_words, word_accuracy, words_of
from mcd.model.denoiser import Denoiser, DenoiserConfig
from mcd.model.dit import DiTConfig

TEXT = "We hold, however unlikely, these truths to be self-evident: all free people."


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_bpe(["the truths these people hold self free " * 50], 280)


def constant(token: int, V: int, L: int = 64) -> Denoiser:
    """A model that predicts one token everywhere."""
    model = Denoiser(DenoiserConfig(DiTConfig(V + 1, hidden=16, layers=1, heads=1, length=L, cond_dim=8), mask_id=V))
    with torch.no_grad():
        model.backbone.projection()[1][token] = 5.0  # the head's weights begin as zeros
    return model.eval()


def test_words_are_runs_of_tokens_between_spaces_and_signs(tokenizer):
    ids = tokenizer.encode(TEXT).ids
    words = [tokenizer.decode([ids[i] for i in word]).strip() for word in words_of(tokenizer, ids)]
    assert words == "hold however unlikely these truths to be self evident all free".split()


@pytest.mark.parametrize("rate", [0.1, 0.5, 1.0])
def test_whole_words_are_masked_at_the_rate(tokenizer, rate):
    known = words_of(tokenizer, tokenizer.encode(TEXT).ids)
    for words in masked_words([known] * 3, rate, seed=1):
        assert len(words) == max(1, round(11 * rate)) and all(word in known for word in words)


def test_a_word_counts_where_all_its_tokens_are_restored(tokenizer):
    whole, rest = tokenizer.token_to_id("Ġthe"), tokenizer.token_to_id("x")
    ids = tokenizer.encode(" start the the thex the end.").ids
    words = words_of(tokenizer, ids)
    assert [len(word) for word in words] == [1, 1, 2, 1]
    found = word_accuracy(constant(whole, tokenizer.get_vocab_size()), torch.tensor([ids, ids]), [words, words], 1.0)
    assert found["words"] == 8 and found["word_accuracy"] == pytest.approx(6 / 8)
    assert found["tokens"] == 10 and found["token_accuracy"] == pytest.approx(8 / 10)
    found = word_accuracy(constant(rest, tokenizer.get_vocab_size()), torch.tensor([ids, ids]), [words, words], 1.0)
    assert found["word_accuracy"] == 0.0 and found["token_accuracy"] == pytest.approx(2 / 10)


def test_text_without_words_and_other_models_are_refused(tokenizer):
    V, ids = tokenizer.get_vocab_size(), tokenizer.encode("... !?").ids
    with pytest.raises(ValueError, match="no words"):
        word_accuracy(constant(0, V), torch.tensor([ids]), [words_of(tokenizer, ids)], 0.5)
    uniform = Denoiser(DenoiserConfig(DiTConfig(V, hidden=16, layers=1, heads=1, length=8, cond_dim=8), None))
    with pytest.raises(ValueError, match="filled in by masked models"):
        word_accuracy(uniform, torch.zeros(1, 8, dtype=torch.int64), [[[0]]], 0.5)
