"""What a network is shown of the locked noise: where it goes, that it begins as nothing, and where drafts come from."""

import pytest
import torch

from mcd.model.denoiser import DenoiserConfig
from mcd.model.dit import DiTConfig
from mcd.model.prior import prior
from mcd.process.categorical import sample_inverse_cdf, sample_shared_cdf

V, L, B = 23, 16, 5
SHOWN = ("draft", "word", "when", "value")


def noise_of(seeded, seed=0):
    """Drafts, u and v of B rows."""
    g = seeded(seed)
    return torch.randint(V, (B, L), generator=g), 1 - torch.rand(B, L, generator=g), torch.rand(B, L, generator=g)


@pytest.fixture
def z(seeded):
    """Rows of which about half is masked."""
    g = seeded(5)
    return torch.where(torch.rand(B, L, generator=g) < 0.5, V, torch.randint(V, (B, L), generator=g))


def shown_model(tiny_denoiser, shown=SHOWN):
    model = tiny_denoiser()
    model.add_locked(shown, prior(model, L))
    return model


@pytest.mark.parametrize("time_conditioned", [False, True])
def test_it_changes_no_prediction_at_first(tiny_denoiser, seeded, z, time_conditioned):
    plain, model = (tiny_denoiser(time_conditioned=time_conditioned) for _ in range(2))
    model.add_locked(SHOWN, prior(model, L))
    assert plain.config.process == "masked" and model.config.process == "locked"
    t = torch.linspace(0, 1, B)
    added = model.noise(z == V, *noise_of(seeded))
    assert torch.equal(model.hidden(z, t, added), plain.hidden(z, t))


@pytest.mark.parametrize("shown", SHOWN)
def test_each_thing_shown_reaches_other_tokens_and_no_visible_one(tiny_denoiser, seeded, z, shown):
    model = shown_model(tiny_denoiser, (shown,))
    with torch.no_grad():
        for p in model.locked.parameters():
            p.normal_(generator=seeded(1))
    first, second = (model.noise(z == V, *noise_of(seeded, seed)) for seed in range(2))
    assert first.shape == (B, L, 16)
    assert (first[z != V] == 0).all() and (first[z == V] != second[z == V]).any(-1).float().mean() > 0.8
    one = first.clone()
    place = int((z[0] == V).nonzero()[0])
    one[0, place] = second[0, place]
    t = torch.ones(B)
    change = (model.hidden(z, t, one) - model.hidden(z, t, first)).abs().view(B, L, -1).sum(-1)
    assert (change[0] > 0).all() and (change[1:] == 0).all()


def test_the_first_drafts_are_drawn_from_the_prediction_of_nothing_but_masks(tiny_denoiser, seeded):
    model, v = shown_model(tiny_denoiser), torch.rand(200, L, dtype=torch.float64, generator=seeded(2))
    log_p = tiny_denoiser().log_x_theta(tiny_denoiser().hidden(torch.full((1, L), V), torch.ones(1)))
    drawn = sample_inverse_cdf(log_p.repeat(200, 1), v.flatten()).view(200, L)
    assert torch.equal(model.locked.first_drafts(v), drawn)


def test_a_shared_law_is_drawn_from_as_one_of_each_row(seeded):
    log_p, v = torch.randn(V, generator=seeded(0)), torch.rand(100, dtype=torch.float64, generator=seeded(1))
    v[:2] = torch.tensor([0.0, 1.0])
    assert torch.equal(sample_shared_cdf(log_p, v), sample_inverse_cdf(log_p.expand(100, V), v))
    with pytest.raises(ValueError, match=r"v must lie in \[0, 1\]"):
        sample_shared_cdf(log_p, v + 0.5)


def test_a_prediction_without_the_noise_is_refused(tiny_denoiser, z):
    with pytest.raises(ValueError, match="shown locked noise, and got none"):
        shown_model(tiny_denoiser).hidden(z, torch.ones(B))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"locked": ("draft", "draft")}, "--locked: names draft twice"),
        ({"locked": ("draft",), "mask_id": None}, "locked: only a model of masked diffusion"),
    ],
)
def test_configurations_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        DenoiserConfig(**({"backbone": DiTConfig(V + 1, 16, 1, 1, L), "mask_id": V} | options))
