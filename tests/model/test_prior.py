"""What a model predicts where it sees nothing."""

from dataclasses import replace

import torch

from mcd.data.languages.known import LANGUAGES
from mcd.eval.exact_denoiser import exact_denoiser
from mcd.model.prior import prior


def test_it_is_the_mean_prediction_of_a_row_of_masks(tiny_denoiser):
    model = tiny_denoiser(V=23, length=16).eval()
    with torch.no_grad():
        p = model.log_x_theta(model.hidden(torch.full((1, 16), 23), torch.ones(1))).double().exp()
    assert torch.allclose(prior(model).exp(), p.mean(0), atol=1e-9)
    assert torch.isclose(prior(model).exp().sum(), torch.tensor(1.0, dtype=torch.float64), atol=1e-6)


def test_a_long_row_is_summed_in_parts(tiny_denoiser):
    whole, model = tiny_denoiser(V=23, length=16), tiny_denoiser(V=23, length=16)
    model.shapes = replace(model.shapes, chunk_rows=5)
    assert torch.allclose(prior(model), prior(whole), atol=1e-6)


def test_the_exact_denoiser_has_the_law_of_a_token():
    language = LANGUAGES["hmm"]()
    V = language.vocab_size
    law = torch.tensor([language.ngram_at(torch.tensor([[x]])).item() for x in range(V)])
    assert torch.allclose(prior(exact_denoiser(language, 12)).exp(), law.double(), atol=1e-6)


def test_it_is_found_once_for_the_weights_as_they_are(tiny_denoiser):
    model = tiny_denoiser(V=23, length=16).train()
    first = prior(model)
    assert prior(model) is first and model.training
    with torch.no_grad():
        model.backbone.projection()[1].add_(torch.linspace(0.0, 1.0, len(model.backbone.projection()[1])))
    assert not torch.allclose(prior(model), first)


def test_a_model_that_is_shown_its_noise_keeps_the_prior_it_began_with(tiny_denoiser):
    model = tiny_denoiser(V=23, length=16)
    plain = prior(model)
    model.add_locked(("draft",), prior(model, 16))
    assert torch.allclose(prior(model), plain, atol=1e-5)
