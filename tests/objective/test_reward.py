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


def pairs(where, row, kind="all"):
    places = where[row].nonzero()[:, 0].tolist()
    return [(p, q) for p in places for q in places if kind == "all" or (p == q) == (kind == "same")]


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


def test_means_over_pairs(features, where):
    real, one, other = features
    a = torch.tensor([0.1, 0.5, 1.0]).double()

    def mean(x, y, row, kind):
        values = [kernel(x[row, p], y[row, q], a[row]) for p, q in pairs(where, row, kind)]
        return sum(values) / len(values)

    for kind, near in (("apart", "all"), ("all", "all"), ("same", "same")):
        attracted = attraction(one, real, where, a, kind)
        repelled = repulsion(one, other, where, a, kind)
        assert attracted.tolist() == pytest.approx([mean(one, real, row, near) for row in range(b)])
        assert repelled.tolist() == pytest.approx([mean(one, other, row, kind) for row in range(b)])
        torch.testing.assert_close(repulsion(other, one, where, a, kind), repelled)
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


@pytest.mark.parametrize("kind", ["apart", "all"])
def test_the_reward_prefers_the_law_of_the_text_and_hardly_sees_a_collapse(kind):
    """2 att - rep of rows of independent tokens f ~ N(0, 1), a = 0.2, where E k = (1 + 4 a)^(-D / 2).

    Other laws have lower rewards. Rows that are all one and the same lose (1 - E k) / m where positions repel
    themselves, nothing where they do not, on average; and some of them win.
    """
    n, m = 2000, 8
    where, a = torch.ones(n, m, dtype=torch.bool), torch.full((n,), 0.2)
    text, expected = law(0, n, m), 1.8 ** (-D / 2)

    def reward(one, other):
        attracted = attraction(one, text, where, a, kind) + attraction(other, text, where, a, kind)
        return float((attracted - repulsion(one, other, where, a, kind)).mean())

    true = reward(law(1, n, m), law(2, n, m))
    assert true == pytest.approx(expected, abs=6e-3)
    assert true > reward(law(1, n, m) + 0.5, law(2, n, m) + 0.5) + 0.01
    assert true > reward(0.5 * law(1, n, m), 0.5 * law(2, n, m)) + 0.01
    alike = law(3, n, m)
    assert reward(alike, alike) == pytest.approx(true - (0.0 if kind == "apart" else (1 - expected) / m), abs=6e-3)
    best = max(reward(row.expand(n, -1, -1), row.expand(n, -1, -1)) for row in law(4, 20, m).split(1))
    assert (best > true + 0.01) == (kind == "apart")


@pytest.mark.parametrize("kind", ["apart", "all", "same"])
def test_the_best_prediction_of_independent_tokens(kind):
    """Two positions with the laws (0.7, 0.3) and (0.6, 0.4), features that are the tokens themselves, and a grid.

    Only "same" has the true laws as its one best prediction; "all" has all of their mean; "apart" a certain one.
    """
    texts = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]])
    rows = torch.nn.functional.one_hot(texts, 2).double()
    where, a = torch.ones(16, 2, dtype=torch.bool), torch.full((16,), 0.5).double()
    one, other = rows.repeat_interleave(4, 0), rows.repeat(4, 1, 1)
    att = attraction(one, other, where, a, kind).view(4, 4)
    rep = repulsion(one, other, where, a, kind).view(4, 4)

    def of(first, second):
        return torch.outer(torch.tensor([first, 1 - first]), torch.tensor([second, 1 - second])).flatten().double()

    def reward(first, second):
        p = of(first, second)
        return float(2 * p @ att @ of(0.7, 0.6) - p @ rep @ p)

    grid = [i / 20 for i in range(21)]
    best = max(reward(x, y) for x in grid for y in grid)
    winners = {(x, y) for x in grid for y in grid if reward(x, y) > best - 1e-6}
    true = reward(0.7, 0.6)
    if kind == "apart":
        assert best > true + 0.05 and all({x, y} & {0.0, 1.0} for x, y in winners)
        assert reward(0.4, 0.9) == pytest.approx(0.6 * reward(0.0, 0.9) + 0.4 * reward(1.0, 0.9))
    elif kind == "all":
        assert winners == {(x, y) for x in grid for y in grid if abs(x + y - 1.3) < 1e-9}
    else:
        assert winners == {(0.7, 0.6)} and best == true
