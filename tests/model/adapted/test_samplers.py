"""Every masked sampler over networks whose mask is inside the vocabulary: it is never said, nor what is forbidden."""

import pytest
import torch

from mcd.checkpoints.folder import from_pretrained
from mcd.data.template import read_template
from mcd.data.tokenizer import load_tokenizer
from mcd.model.prior import prior
from mcd.sampler import SAMPLERS, sample

K, MASK, L = 41, 4, 16
MASKED = [name for name, kind in SAMPLERS.items() if kind.process in ("masked", "locked")]


@pytest.fixture(params=["bert", "dream"])
def plain(request, published):
    return from_pretrained(str(published(request.param).folder)).requires_grad_(False)


@pytest.fixture(params=MASKED)
def sampler(request):
    return SAMPLERS[request.param]


@pytest.fixture
def model(plain, sampler, seeded):
    """The network as the sampler takes it; its locked noise, where it is shown any, weighs as much as its tokens."""
    if sampler.process == "locked":
        plain.add_locked(("draft", "when"), prior(plain, L))
        for p in plain.locked.parameters():
            p.data.copy_(plain.backbone.table().std() * torch.randn(p.shape, generator=seeded(0)))
    return plain


@pytest.mark.parametrize("options", [{"temperature": 5.0}, {"temperature": 0.5, "top_p": 0.7}, {"guidance": 1.0}])
def test_what_is_forbidden_is_never_said(model, sampler, options):
    for steps in (1, 9):
        ids, nfe = sample(sampler(steps, **options), model, 12, L, seed=steps)
        assert ids.shape == (12, L) and (nfe >= 1).all()
        assert not torch.isin(ids, torch.tensor(model.config.forbidden)).any()
    assert len(ids.unique()) > 4


@pytest.mark.heavy
def test_greedy_and_other_scores(plain):
    for name in ("confidence", "cad"):
        for options in ({"greedy": True}, {"score": "entropy", "threshold": -0.5}, {"score": "margin"}):
            if name == "confidence":
                options.pop("threshold", None)
            ids, _ = sample(SAMPLERS[name](6, **options), plain, 4, L)
            assert not torch.isin(ids, torch.tensor(plain.config.forbidden)).any()


@pytest.mark.heavy
def test_tokens_follow_the_prediction(model, sampler):
    """One token a row: frequencies are those of the prediction at a masked row, forbidden ids 0 among them."""
    if sampler.process == "locked":
        pytest.skip("the first prediction depends on the noise of the row")
    p = model.log_x_theta(model.hidden(torch.full((1, 1), MASK), torch.ones(1)))[0].exp()
    ids, _ = sample(sampler(1, rows_per_call=256), model, 1000, 1, seed=4)
    counts = torch.bincount(ids[:, 0], minlength=K)
    said = p > 0
    assert (counts[~said] == 0).all()
    chi_square = ((counts - 1000 * p)[said] ** 2 / (1000 * p[said])).sum().item()
    assert chi_square < 80.0  # about 36 degrees of freedom: beyond the 1 - 2e-5 quantile


@pytest.mark.heavy
def test_what_shares_a_batch_never_changes_a_row(model, sampler):
    draw = sampler(6, rows_per_call=3)
    ids, nfe = sample(draw, model, 7, L, seed=1)
    for row in (0, 4, 6):
        one, nfe_one = sample(draw, model, 1, L, seed=1, first_row=row)
        assert torch.equal(one[0], ids[row]) and nfe_one[0] == nfe[row]


def test_a_template_is_kept_whatever_it_holds(model, sampler):
    """Also ids beyond the mask's, and ids that are never said."""
    template = torch.full((L,), MASK)
    template[[0, 3, 9, 15]] = torch.tensor([2, 38, 0, 40])
    ids, _ = sample(sampler(4), model, 3, L, template=template)
    assert (ids[:, [0, 3, 9, 15]] == template[[0, 3, 9, 15]]).all()
    assert not (ids == MASK).any()
    with pytest.raises(ValueError, match="holds ids outside the model's 41"):
        sample(sampler(4), model, 1, L, template=torch.full((L,), 41))


def test_a_template_of_text(plain):
    tokenizer = load_tokenizer(plain.folder)
    ids = read_template(tokenizer, "w1 [MASK:3] w2", plain.blank_id, 8).ids
    assert ids == [7, MASK, MASK, MASK, 8, MASK, MASK, MASK]
