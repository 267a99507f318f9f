"""Samples and networks measured against a language whose law is known."""

import pytest

from mcd.data.languages.known import LANGUAGES
from mcd.eval.known_language import sampling_floor
from mcd.eval.laboratory.lab import model_of
from mcd.eval.laboratory.measure import measure_model
from mcd.reproduce.languages import likelihood_row
from mcd.sampler.ancestral import Ancestral


@pytest.mark.heavy
def test_a_language_judges_its_exact_denoiser(tiny_denoiser):
    """Token by token the exact denoiser is the language; a network of noise is far from it, and its bound says so."""
    sampler, noise = Ancestral(64, rows_per_call=64), tiny_denoiser(V=32, length=16)
    exact, other = (
        measure_model(model, sampler, None, 64, 16, 0, model="any", round=2, language="markov")
        for model in (model_of("exact:markov", 16), noise)
    )
    row, floor = exact.row, sampling_floor(LANGUAGES["markov"](), 64, 16)
    assert abs(row["nll"] - row["entropy_true"]) < 0.5 < other.row["nll"] - row["entropy_true"]
    assert abs(row["tv_bigram"] - floor["tv_bigram"]) < 0.1 < other.row["tv_bigram"] - row["tv_bigram"]
    assert other.row["round"] == 2 and len(exact.samples) == 64 and len(exact.samples[0]["ids"]) == 16
    said = likelihood_row(noise, "markov", "noise", seed=0, rows=128)
    assert said["gap"] == pytest.approx(said["valid_nelbo"] - said["entropy_true"]) and said["gap"] > 1.0
