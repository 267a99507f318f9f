"""The kernel statistics against loops over pairs, and against the discrepancy they estimate."""

import pytest
import torch

from mcd.objective.reward import attraction, bandwidth, leave_one_out, repulsion, squared_distances

b, L, D = 3, 6, 4


@pytest.fixture
def features(seeded):
    return [torch.randn(b, L, D, generator=seeded(i)).double() for i in range(3)]


@pytest.fixture
def where():
    return torch.tensor([[1, 1, 1, 1, 1, 1], [0, 1, 0, 1, 1, 0], [1, 0, 0, 0, 0, 1]]).bool()


def pairs(where, row, apart):
    places = where[row].nonzero()[:, 0].tolist()
    return [(p, q) for p in places for q in places if not (apart and p == q)]


def kernel(f, g, a):
    return float((-a * (f - g).square().sum()).exp())


def test_bandwidth_is_the_median_distance_of_tokens(features, where):
    real = features[0]
    found = bandwidth(real, where, 0.7)
    for row in range(b):
        distances = sorted(float((real[row, p] - real[row, q]).norm()) for p, q in pairs(where, row, True))
        median = distances[(len(distances) - 1) // 2]
        assert float(found[row]) == pytest.approx(1 / (2 * (0.7 * median) ** 2))
    scaled = bandwidth(5 * real, where, 0.7)  # the kernel does not know the scale of the features
    torch.testing.assert_close(scaled * 25, found)


def test_sums_over_pairs(features, where):
    real, one, other = features
    a = torch.tensor([0.1, 0.5, 1.0]).double()
    attracted, repelled = attraction(one, real, where, a), repulsion(one, other, where, a)
    for row in range(b):
        every, apart = pairs(where, row, False), pairs(where, row, True)
        expected = sum(kernel(one[row, p], real[row, q], a[row]) for p, q in every) / len(every)
        assert float(attracted[row]) == pytest.approx(expected)
        expected = sum(kernel(one[row, p], other[row, q], a[row]) for p, q in apart) / len(apart)
        assert float(repelled[row]) == pytest.approx(expected)
        expected = sum(kernel(one[row, p], other[row, q], a[row]) for p, q in every) / len(every)
        assert float(repulsion(one, other, where, a, apart=False)[row]) == pytest.approx(expected)
    torch.testing.assert_close(repulsion(other, one, where, a), repelled)
    torch.testing.assert_close(squared_distances(one, real), torch.cdist(one, real).square())


def test_only_what_counts_is_read(features, where):
    real, one, other = features
    a = bandwidth(real, where, 1.0)
    spoilt = [torch.where(where[..., None], f, 1e3 * torch.randn(f.shape).double()) for f in features]
    torch.testing.assert_close(bandwidth(spoilt[0], where, 1.0), a)
    torch.testing.assert_close(attraction(spoilt[1], spoilt[0], where, a), attraction(one, real, where, a))
    torch.testing.assert_close(repulsion(spoilt[1], spoilt[2], where, a), repulsion(one, other, where, a))


def test_rows_without_pairs_stay_finite():
    """One token, none, and two that are equal."""
    where = torch.tensor([[1, 0], [0, 0], [1, 1]]).bool()
    features = torch.ones(3, 2, D)
    a = bandwidth(features, where, 1.0)
    assert a.isfinite().all()
    assert attraction(features, features, where, a).tolist() == [1.0, 0.0, 1.0]
    assert repulsion(features, features, where, a).tolist() == [0.0, 0.0, 1.0]


def test_advantages_cancel_and_compare_with_the_others(seeded):
    reward = torch.randn(5, 4, generator=seeded(0)).double()
    advantage = leave_one_out(reward)
    torch.testing.assert_close(advantage.sum(1), torch.zeros(5).double())
    others = torch.stack([reward[:, [h for h in range(4) if h != g]].mean(1) for g in range(4)], dim=1)
    torch.testing.assert_close(advantage, reward - others)


def law(seed, n, length):
    return torch.randn(n, length, D, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("apart", [True, False])
def test_the_reward_prefers_the_law_of_the_text_and_hardly_sees_a_collapse(apart):
    """2 att - rep of rows of independent tokens f ~ N(0, 1), a = 0.2, where E k = (1 + 4 a)^(-D / 2).

    Other laws have lower rewards. Rows that are all one and the same lose (1 - E k) / m where positions repel
    themselves, nothing where they do not, on average; and some of them win.
    """
    n, m = 2000, 8
    where, a = torch.ones(n, m, dtype=torch.bool), torch.full((n,), 0.2)
    text, expected = law(0, n, m), 1.8 ** (-D / 2)

    def reward(one, other):
        attracted = attraction(one, text, where, a) + attraction(other, text, where, a)
        return float((attracted - repulsion(one, other, where, a, apart)).mean())

    true = reward(law(1, n, m), law(2, n, m))
    assert true == pytest.approx(expected, abs=6e-3)
    assert true > reward(law(1, n, m) + 0.5, law(2, n, m) + 0.5) + 0.01
    assert true > reward(0.5 * law(1, n, m), 0.5 * law(2, n, m)) + 0.01
    shuffled = law(3, n, m)
    assert reward(shuffled, shuffled) == pytest.approx(true - (0.0 if apart else (1 - expected) / m), abs=6e-3)
    best = max(reward(row.expand(n, -1, -1), row.expand(n, -1, -1)) for row in law(4, 20, m).split(1))
    assert (best > true + 0.01) == apart
