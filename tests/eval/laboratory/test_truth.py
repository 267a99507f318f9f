"""Samples and networks measured against a language whose law is known."""

import pytest
import torch

from mcd.data.languages.known import LANGUAGES
from mcd.eval.laboratory.truth import likelihood_row, measure_language, open_model, true_sample_entropy
from mcd.sampler.ancestral import Ancestral


def test_a_language_judges_its_exact_denoiser(tiny_denoiser):
    """Token by token the exact denoiser is the language; a network of noise is far from it, and its bound says so."""
    exact = measure_language(
        open_model("exact:markov", 16), Ancestral(64, rows_per_call=64), "markov", 64, 16, 0, "exact"
    )
    noise = tiny_denoiser(V=32, length=16)
    other = measure_language(noise, Ancestral(64, rows_per_call=64), "markov", 64, 16, 0, "noise", round=2)
    row = exact.row
    assert abs(row["nll"] - row["entropy_true"]) < 0.5 < other.row["nll"] - row["entropy_true"]
    assert abs(row["tv_bigram"] - row["floor"]["tv_bigram"]) < 0.1 < other.row["tv_bigram"] - row["tv_bigram"]
    assert other.row["round"] == 2 and len(exact.samples) == 64 and len(exact.samples[0]["ids"]) == 16
    told = likelihood_row(noise, "markov", "noise", seed=0, rows=128)
    assert told["gap"] == pytest.approx(told["valid_nelbo"] - told["entropy_true"]) and told["gap"] > 1.0


def test_the_entropy_of_true_rows_is_below_that_of_the_alphabet():
    entropy = true_sample_entropy("hmm", 64, 32)
    assert 1.0 < entropy < torch.tensor(32.0).log().item()
    assert entropy == true_sample_entropy("hmm", 64, 32)
    assert LANGUAGES["hmm"]().vocab_size == 32
