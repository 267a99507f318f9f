"""Draws: exact frequencies, no impossible token at any v, temperature and nucleus by their definitions."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from mcd.process import categorical
from mcd.process.categorical import sample_gumbel_race, sample_inverse_cdf, temper


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def log_p_of(weights: list[float]) -> Tensor:
    return torch.tensor(weights, dtype=torch.float64).log().log_softmax(-1)


weights = st.lists(st.one_of(st.just(0.0), st.floats(1e-12, 1.0)), min_size=1, max_size=12).filter(any)
below_one = math.nextafter(1.0, 0.0)


def chi_square(ids: Tensor, p: Tensor) -> float:
    counts = torch.bincount(ids, minlength=len(p))
    assert (counts[p == 0] == 0).all()
    keep = p > 0
    return stats.chisquare(counts[keep].numpy(), (p[keep] * len(ids)).numpy(), sum_check=False).pvalue


# --- inverse CDF -----------------------------------------------------------------------------------------------------


def test_frequencies_are_the_probabilities():
    log_p = log_p_of([0.05, 0.0, 0.5, 0.2, 0.0, 0.25])
    v = torch.rand(60_000, dtype=torch.float64, generator=seeded(0))
    assert chi_square(sample_inverse_cdf(log_p.expand(60_000, -1), v), log_p.exp()) > 1e-3


@settings(deadline=None)
@given(weights, st.one_of(st.sampled_from([0.0, 5e-324, 2.0**-53, below_one, 1.0]), st.floats(0.0, 1.0)))
def test_never_an_impossible_index(w: list[float], v: float):
    log_p = log_p_of(w)
    index = sample_inverse_cdf(log_p[None], torch.tensor([v], dtype=torch.float64)).item()
    assert w[int(index)] > 0


@settings(deadline=None)
@given(weights, st.floats(0.0, 1.0))
def test_is_the_first_index_whose_cumulative_mass_exceeds_v(w: list[float], v: float):
    cumulative = log_p_of(w).exp().cumsum(-1)
    index = int(sample_inverse_cdf(log_p_of(w)[None], torch.tensor([v], dtype=torch.float64)).item())
    assert cumulative[index] >= v - 1e-12
    assert index == 0 or cumulative[index - 1] <= v + 1e-12


def test_edges_with_zeros_at_both_ends():
    log_p = log_p_of([0.0, 0.0, 0.3, 0.0, 0.7, 0.0, 0.0]).expand(3, -1)
    assert sample_inverse_cdf(log_p, torch.tensor([0.0, below_one, 1.0]).double()).tolist() == [2, 4, 4]
    assert sample_inverse_cdf(log_p, torch.tensor([0.0, below_one, 1.0], dtype=torch.float64)).tolist() == [2, 4, 4]


def test_rare_tokens_of_a_large_vocabulary_are_reached():
    """float32 sums would lose them: 50,000 tokens of 1e-9 each behind one of nearly all the mass."""
    p = torch.full((50_001,), 1e-9, dtype=torch.float64)
    p[0] = 1.0 - 5e-5
    v = torch.tensor([1.0 - 5e-5 + 1e-9 * (i + 0.5) for i in (0, 100, 49_999)], dtype=torch.float64)
    assert sample_inverse_cdf(p.log().expand(3, -1), v).tolist() == [1, 101, 50_000]


def test_a_constant_in_the_logits_does_not_matter():
    logits = torch.randn(50, 20, generator=seeded(1))
    v = torch.rand(50, dtype=torch.float64, generator=seeded(2))
    expected = sample_inverse_cdf(logits.log_softmax(-1).double(), v)
    assert torch.equal(sample_inverse_cdf(logits.double() + 300.0, v), expected)


@settings(deadline=None)
@given(
    st.lists(st.one_of(st.just(-math.inf), st.floats(-80.0, 80.0, width=32)), min_size=1, max_size=12).filter(
        lambda logits: max(logits) > -math.inf
    ),
    st.one_of(st.sampled_from([0.0, 5e-324, 2.0**-53, below_one, 1.0]), st.floats(0.0, 1.0)),
    st.sampled_from([1.0, 0.3, 7.0]),
    st.sampled_from([1.0, 0.6]),
)
def test_a_draw_from_raw_logits_is_one_from_their_tempered_nucleus(logits, v: float, temperature: float, top_p: float):
    """Held against the float64 definition, one token at a time."""
    row, level = torch.tensor([logits]), torch.tensor([v], dtype=torch.float64)
    before = row.clone()
    index = int(sample_inverse_cdf(row, level, temperature, top_p))
    assert torch.equal(row, before)
    p = temper(row.double(), temperature, top_p)[0].exp().tolist()
    below = math.fsum(p[:index])
    assert p[index] > 0
    assert below <= v + 1e-12 and below + p[index] >= v - 1e-12


@pytest.mark.parametrize("v", [-0.01, 1.01, math.nan])
def test_v_out_of_range(v: float):
    with pytest.raises(ValueError, match="v must lie"):
        sample_inverse_cdf(torch.zeros(1, 3), torch.tensor([v], dtype=torch.float64))


@pytest.mark.parametrize("row", [[-math.inf, -math.inf], [0.0, math.nan]])
def test_row_without_mass(row: list[float]):
    with pytest.raises(ValueError, match="without mass"):
        sample_inverse_cdf(torch.tensor([row]), torch.tensor([0.5], dtype=torch.float64))


# --- temperature and nucleus -----------------------------------------------------------------------------------------


@settings(deadline=None)
@given(weights, st.floats(1e-3, 100.0))
def test_temperature_raises_to_a_power(w: list[float], temperature: float):
    log_p = log_p_of(w)
    got = temper(log_p[None], temperature)[0]
    assert got.exp().sum().item() == pytest.approx(1.0, abs=1e-12)
    seen = log_p > -math.inf
    assert torch.equal(seen, got > -math.inf)
    i = int(log_p.argmax())
    expected = (log_p - log_p[i]) / temperature
    torch.testing.assert_close((got - got[i])[seen], expected[seen], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("temperature", [5e-324, 1e-300, 1e-5, 1e300])
def test_extreme_temperatures_stay_numbers(temperature: float):
    got = temper(log_p_of([0.0, 0.1, 0.6, 0.3])[None], temperature)[0]
    assert not got.isnan().any()
    assert got.exp().sum().item() == pytest.approx(1.0, abs=1e-12)
    assert got[2] == 0 or temperature > 1


def test_temperature_one_changes_nothing():
    log_p = torch.randn(4, 30, dtype=torch.float64, generator=seeded(3)).log_softmax(-1)
    torch.testing.assert_close(temper(log_p), log_p, rtol=0, atol=1e-14)


@settings(deadline=None)
@given(weights, st.floats(1e-6, 1.0))
def test_nucleus_is_the_smallest_set_of_enough_mass(w: list[float], top_p: float):
    p = log_p_of(w).exp()
    got = temper(log_p_of(w)[None], 1.0, top_p)[0].exp()
    kept = got > 0
    assert kept.any()
    assert got.sum().item() == pytest.approx(1.0, abs=1e-12)
    assert p[kept].sum() >= top_p - 1e-12
    assert p[kept].sum() - p[kept].min() < top_p + 1e-12
    if (~kept).any():
        assert p[~kept].max() <= p[kept].min()
    torch.testing.assert_close(got[kept], p[kept] / p[kept].sum(), rtol=1e-12, atol=1e-14)


def test_nucleus_after_tempering_and_ties():
    log_p = log_p_of([0.25, 0.25, 0.25, 0.25])[None]
    assert (temper(log_p, 1.0, 0.5)[0] > -math.inf).tolist() == [True, True, False, False]
    assert (temper(log_p, 1.0, 1e-9)[0] > -math.inf).tolist() == [True, False, False, False]
    skewed = log_p_of([0.6, 0.3, 0.1])[None]
    assert (temper(skewed, 1.0, 0.7)[0] > -math.inf).tolist() == [True, True, False]
    assert (temper(skewed, 0.25, 0.7)[0] > -math.inf).tolist() == [True, False, False]


def test_temper_keeps_its_input_and_gives_float64():
    log_p = torch.randn(2, 5, generator=seeded(4)).log_softmax(-1)
    before = log_p.clone()
    assert temper(log_p, 0.5, 0.8).dtype == torch.float64
    assert torch.equal(log_p, before)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.inf, math.nan])
def test_temperature_out_of_range(temperature: float):
    with pytest.raises(ValueError, match="temperature"):
        temper(torch.zeros(1, 3), temperature)
    with pytest.raises(ValueError, match="temperature"):
        sample_inverse_cdf(torch.zeros(1, 3), torch.zeros(1, dtype=torch.float64), temperature)


@pytest.mark.parametrize("top_p", [0.0, -0.5, 1.1, math.nan])
def test_top_p_out_of_range(top_p: float):
    with pytest.raises(ValueError, match="top_p"):
        temper(torch.zeros(1, 3), 1.0, top_p)
    with pytest.raises(ValueError, match="top_p"):
        sample_inverse_cdf(torch.zeros(1, 3), torch.zeros(1, dtype=torch.float64), 1.0, top_p)


# --- the race --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", [torch.float32, torch.float64])
def test_race_has_the_law_of_the_posterior(precision: torch.dtype):
    """Where no mass is tiny, both precisions draw q(z_s | z_t = mask): token p (a_s - a_t) / (1 - a_t), else mask."""
    p = torch.tensor([0.1, 0.0, 0.6, 0.3], dtype=torch.float64)
    n, alpha_t, alpha_s = 60_000, 0.2, 0.7
    ids = sample_gumbel_race(p.log().expand(n, -1), alpha_t, alpha_s, precision, seeded(5))
    reveal = (alpha_s - alpha_t) / (1 - alpha_t)
    assert chi_square(ids, torch.cat((p * reveal, torch.tensor([1 - reveal]).double()))) > 1e-3


def test_race_takes_a_level_per_row():
    log_p = torch.zeros(4, 1)
    alpha_t = torch.tensor([0.0, 0.3, 0.5, 0.5])
    alpha_s = torch.tensor([1.0, 1.0, 0.5, 1.0])  # all revealed, or nothing to reveal
    assert sample_gumbel_race(log_p, alpha_t, alpha_s, torch.float64, seeded(6)).tolist() == [0, 0, 1, 0]


@pytest.mark.parametrize("precision", [torch.float32, torch.float64])
def test_race_does_not_depend_on_the_chunks(precision: torch.dtype, monkeypatch: pytest.MonkeyPatch):
    log_p = torch.randn(50, 40, generator=seeded(7)).log_softmax(-1)
    whole = sample_gumbel_race(log_p, 0.1, 0.6, precision, seeded(8))
    monkeypatch.setattr(categorical, "_CHUNK_ELEMENTS", 41 * 3)
    assert torch.equal(sample_gumbel_race(log_p, 0.1, 0.6, precision, seeded(8)), whole)
    monkeypatch.setattr(categorical, "_CHUNK_ELEMENTS", 1)
    assert torch.equal(sample_gumbel_race(log_p, 0.1, 0.6, precision, seeded(8)), whole)


def test_race_of_nobody():
    assert sample_gumbel_race(torch.zeros(0, 5), 0.0, 1.0, torch.float32, seeded(0)).shape == (0,)


def test_race_refuses_other_precisions():
    with pytest.raises(ValueError, match="precision"):
        sample_gumbel_race(torch.zeros(1, 2), 0.0, 1.0, torch.bfloat16, seeded(0))


def test_several_draws_of_a_row_are_those_of_one_at_a_time(seeded):
    logits = torch.randn(7, 40, generator=seeded(0)) * 3
    v = torch.rand(7, 5, dtype=torch.float64, generator=seeded(1))
    for options in ({}, {"temperature": 0.7}, {"top_p": 0.8}):
        each = [sample_inverse_cdf(logits, v[:, k], **options) for k in range(5)]
        assert torch.equal(sample_inverse_cdf(logits, v, **options), torch.stack(each, dim=1))
