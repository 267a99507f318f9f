"""Bits per byte of models whose distribution over text is known, whatever their tokens are."""

import itertools
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor

from mcd.data.loader import Batch
from mcd.data.token_bytes import row_bytes
from mcd.data.tokenizer import train_bpe
from mcd.eval.bits_per_byte import bits_per_byte, causal_figures, figures
from mcd.eval.likelihood import likelihood_of, nelbo
from mcd.eval.scorer import Scorer
from mcd.model.denoiser import Denoiser, DenoiserConfig
from mcd.model.dit import DiTConfig

L = 16


def byte_tokenizer() -> Tokenizer:
    """A token for each byte, and nothing else."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def model_of(log_p: Tensor, causal: bool = True) -> Denoiser:
    """A model of independent tokens of a given law (V,): its weights are zero, and its bias is the law."""
    V = len(log_p)
    backbone = DiTConfig(V + 1, hidden=16, layers=1, heads=1, length=L, cond_dim=8, causal=causal)
    model = Denoiser(DenoiserConfig(backbone, mask_id=V)).eval()
    with torch.no_grad():
        model.backbone.head.linear.bias[:V].copy_(log_p)
    return model


def test_a_uniform_model_over_bytes_has_eight_bits():
    tokenizer, model = byte_tokenizer(), model_of(torch.zeros(256))
    text = "Straße, ☃ and 😀: any text at all, however it is cut into rows. " * 4
    ids = torch.tensor(tokenizer.encode(text).ids)
    rows = ids[: len(ids) // L * L].view(-1, L)
    bytes = row_bytes(tokenizer, Batch(rows), None)
    assert bytes.tolist() == [L] * len(rows)
    assert nelbo(model, [rows], bytes=bytes)["valid_bpb"] == pytest.approx(8.0, rel=1e-6)
    found = likelihood_of(model, Batch(rows), 1, 0, bytes)
    assert [found[key] for key in ("valid_bpb", "valid_bpb_lo", "valid_bpb_hi")] == pytest.approx([8.0] * 3, rel=1e-6)
    assert (found["tokens"], found["bytes"]) == (rows.numel(), rows.numel())


@pytest.mark.parametrize("causal", [True, pytest.param(False, marks=pytest.mark.heavy)])
def test_two_tokenizers_of_one_distribution_over_text_have_the_same_bits(causal):
    """Letters drawn independently, as tokens of one letter and of two. A masked model needs many draws for its bound;
    the same draws of u mask the same share of both."""
    letters, p = "abcdefgh", torch.linspace(1, 3, 8).softmax(0)
    names = {1: list(letters), 2: ["".join(pair) for pair in itertools.product(letters, repeat=2)]}
    laws = {1: p.log(), 2: (p[:, None] * p).log().flatten()}
    text = torch.multinomial(p, 64 * 2 * L, replacement=True, generator=torch.Generator().manual_seed(0)).tolist()
    found = {}
    for width, tokens in names.items():
        tokenizer = Tokenizer(models.BPE({name: i for i, name in enumerate(tokens)}, []))
        tokenizer.decoder = decoders.ByteLevel()
        spelled = ["".join(letters[i] for i in text[k : k + width]) for k in range(0, len(text), width)]
        x0 = torch.tensor([tokenizer.token_to_id(name) for name in spelled]).view(-1, L)
        model = model_of(laws[width], causal)
        found[width] = nelbo(model, [x0], draws=1 if causal else 60, bytes=row_bytes(tokenizer, Batch(x0), None))
    assert found[2]["valid_nelbo"] == pytest.approx(2 * found[1]["valid_nelbo"], rel=1e-5 if causal else 0.05)
    expected = -sum(p.log()[i].item() for i in text) / len(text) / math.log(2)
    for one in found.values():
        assert one["valid_bpb"] == pytest.approx(expected, rel=1e-5 if causal else 0.05)


def test_the_end_of_text_costs_nats_and_has_no_byte():
    tokenizer = train_bpe(["abc"] * 9, 257)
    row = torch.tensor([[*tokenizer.encode("abcdef").ids, 256, *tokenizer.encode("ghi").ids, 256]])
    model, ends = model_of(torch.zeros(257)), torch.full((1, 4), 256)
    found = nelbo(model, [row], bytes=row_bytes(tokenizer, Batch(row), 256))
    assert found["valid_bpb"] == pytest.approx(11 / 9 * math.log2(257), rel=1e-6)
    assert "valid_bpb" not in nelbo(model, [ends], bytes=row_bytes(tokenizer, Batch(ends), 256))


@pytest.mark.parametrize("causal", [True, pytest.param(False, marks=pytest.mark.heavy)])
def test_of_an_answer_its_nats_and_its_bytes_count(causal):
    """Padding is diffused too: its nats are in the sum, its tokens are not counted, and it has no byte."""
    tokenizer = train_bpe(["abc"] * 9, 257)
    answers = ["ab", "the longer"]
    ids = [tokenizer.encode("ask" + answer).ids for answer in answers]
    x0 = torch.tensor([one + [256] * (L - len(one)) for one in ids])
    diffused = (torch.arange(L) >= 3).expand(2, L)
    text = Batch(x0, diffused, torch.tensor([len(answer) + 1 for answer in answers]))
    bytes = row_bytes(tokenizer, text, 256)
    found = likelihood_of(model_of(torch.zeros(257), causal), text, 400, 0, bytes)
    assert bytes.tolist() == [2, 10] and found["bytes"] == 12 and found["tokens"] == 14
    expected = 2 * (L - 3) * math.log2(257) / 12
    assert found["valid_bpb"] == pytest.approx(expected, rel=1e-6 if causal else 0.05)


def test_nats_and_bytes_are_summed_before_they_are_divided():
    found = figures([1.0, 4.0], [10, 20], [5, 100])
    assert found["valid_bpb"] == pytest.approx(90 / 105 / math.log(2)) == bits_per_byte([10, 80], [5, 100])
    assert found["valid_nelbo"] == 2.5 and found["valid_bpb_lo"] < found["valid_bpb"] < found["valid_bpb_hi"]
    assert bits_per_byte([1.0], [0]) is None
    without = figures([1.0, 4.0], [10, 20], None)
    assert [without[key] for key in ("valid_bpb", "valid_bpb_lo", "valid_bpb_hi", "bytes")] == [None] * 4
    assert without["valid_nelbo_lo"] == found["valid_nelbo_lo"]
    assert figures([1.0], [1], [0])["valid_bpb"] is None


class Digits:
    """Digits to ids 0 to 9, and `end` to 10, which is the beginning too where `begins`."""

    pad_token_id = None

    def __init__(self, begins: bool, ends: bool = True):
        self.bos_token_id, self.eos_token_id = (10 if begins else None), (10 if ends else None)

    def get_vocab(self) -> dict[str, int]:
        return {str(i): i for i in range(10)}

    def __call__(self, texts: list[str], max_length: int | None = None, **_: Any) -> dict[str, list[list[int]]]:
        return {"input_ids": [[int(letter) for letter in text][:max_length] for text in texts]}


def causal_toy(begins: bool = True, ends: bool = True, context: int = 64) -> Scorer:
    """Uniform over 11 tokens."""

    def uniform(input_ids: Tensor, **_: Any) -> SimpleNamespace:
        return SimpleNamespace(logits=torch.zeros(*input_ids.shape, 11))

    return Scorer("toy", uniform, Digits(begins, ends), "fp32", context)


@pytest.mark.parametrize("begins", [True, False])
def test_a_causal_model_scores_every_token_of_text_and_no_end(begins):
    texts = ["0123", ("45", "6"), "7"]
    found = causal_figures(causal_toy(begins), texts)
    assert found["valid_bpb"] == pytest.approx(math.log2(11), rel=1e-6)
    assert (found["rows"], found["tokens"], found["bytes"], found["truncated"]) == (3, 8, 8, 0)
    assert found["valid_nelbo"] == pytest.approx(math.log(11), rel=1e-6)


def test_texts_beyond_the_context_are_left_out_and_counted():
    found = causal_figures(causal_toy(context=4), ["0123", "01234567", "", "9"])
    assert (found["rows"], found["tokens"], found["bytes"], found["truncated"]) == (2, 5, 5, 1)
    with pytest.raises(ValueError, match="fits its context of 2 tokens"):
        causal_figures(causal_toy(context=2), ["0123"])
    with pytest.raises(ValueError, match="no token to begin a text"):
        causal_figures(causal_toy(begins=False, ends=False), ["0"])


def test_a_causal_model_and_a_model_of_rows_of_the_same_law_agree():
    """The same uniform law over ten digits: one by its scorer, one as a denoiser."""
    digits = Tokenizer(models.BPE({str(i): i for i in range(11)}, []))
    digits.decoder = decoders.ByteLevel()
    x0 = torch.from_numpy(np.random.default_rng(0).integers(0, 10, (4, L)))
    texts = ["".join(map(str, row)) for row in x0.tolist()]
    own = nelbo(model_of(torch.zeros(11)), [x0], bytes=row_bytes(digits, Batch(x0), None))["valid_bpb"]
    assert own == pytest.approx(causal_figures(causal_toy(), texts)["valid_bpb"], rel=1e-6)
