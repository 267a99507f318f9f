"""Why float32 sampling lowers entropy: the public Gumbel race cuts the tail, the harder the more steps are taken.

A vocabulary of 50,257 tokens with a Zipf law, every position independent, no network. A still masked position runs a
race over the whole vocabulary at every step, 512 on average at N = 1,024; to afford thousands of positions, tokens of
equal probability run as one group. That changes nothing in the law: of m tokens of one probability only the one with
the largest uniform can win, the maximum of m uniforms on the grid {0, ..., 2^24 - 1} / 2^24 is drawn by inverting its
distribution function ((j + 1) / 2^24)^m, and which of the m it was is uniform. `test_largest_of_a_group` checks it
against torch.rand, and two tests run the real race.
"""

import math
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import pytest
import torch
from scipy import stats
from torch import Tensor

from mcd.process.categorical import sample_gumbel_race
from mcd.process.timestep import descending_grid

V = 50_257
POSITIONS = 3000
GRID = 2.0**24
TAIL_RANK = 5000  # tokens from this rank on have p < 2e-5


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@dataclass(frozen=True)
class Groups:
    """A Zipf law made constant on groups: `size` tokens of probability `p` each."""

    size: Tensor
    p: Tensor

    @property
    def mass(self) -> Tensor:
        return self.size * self.p


def zipf() -> Groups:
    edges = torch.logspace(0, math.log10(V + 1), 72, dtype=torch.float64).round().unique()
    size = edges.diff()
    rank_p = 1.0 / torch.arange(1, V + 1, dtype=torch.float64)
    group = torch.repeat_interleave(torch.arange(len(size)), size.long())
    mass = torch.zeros(len(size), dtype=torch.float64).index_add(0, group, rank_p)
    return Groups(size, mass / mass.sum() / size)


ZIPF = zipf()
LOG_P = torch.repeat_interleave(ZIPF.p.log(), ZIPF.size.long())
GROUP_OF_TOKEN = torch.repeat_interleave(torch.arange(len(ZIPF.size)), ZIPF.size.long())
IN_TAIL = ZIPF.size.cumsum(0) > TAIL_RANK


def exponentials(size: Tensor, rows: int, precision: torch.dtype, generator: torch.Generator) -> Tensor:
    """(rows, G): the smallest denominator of the race among `size` tokens, as the public code rounds it."""
    log_largest = (1.0 - torch.rand(rows, len(size), dtype=torch.float64, generator=generator)).log() / size
    if precision == torch.float64:
        return -log_largest
    u = ((log_largest.exp() * GRID).ceil() - 1.0) / GRID
    return 1e-10 - (u.float() + 1e-10).log()


@cache
def drawn_groups(steps: int, precision: torch.dtype) -> Tensor:
    """Group of the token drawn at each position by `steps` reverse steps of alpha_t = 1 - t; (POSITIONS,)."""
    generator = seeded(steps)
    ids = torch.full((POSITIONS,), -1)
    size = torch.cat((ZIPF.size, torch.ones(1, dtype=torch.float64)))
    grid = descending_grid(steps)
    for t, s in pairwise(grid):
        masked = (ids < 0).nonzero()[:, 0]
        q = torch.cat((ZIPF.p * (t - s), s[None])).to(precision)
        winner = (q / exponentials(size, len(masked), precision, generator)).argmax(-1)
        ids[masked] = torch.where(winner == len(ZIPF.p), -1, winner)
    assert (ids >= 0).all()
    return ids


def entropy(mass: Tensor) -> float:
    """Unigram entropy in nats of a law that is constant on each group."""
    seen = mass > 0
    return -(mass[seen] * (mass[seen] / ZIPF.size[seen]).log()).sum().item()


def statistics(steps: int, precision: torch.dtype) -> tuple[float, float]:
    """(entropy, tail mass) of what was drawn."""
    mass = torch.bincount(drawn_groups(steps, precision), minlength=len(ZIPF.p)).double() / POSITIONS
    return entropy(mass), mass[IN_TAIL].sum().item()


def coarse_p_value(groups: Tensor) -> float:
    """Chi-square of drawn groups against the exact law, neighbours merged so that every cell expects 20 or more."""
    counts, expected = torch.bincount(groups, minlength=len(ZIPF.p)), ZIPF.mass * len(groups)
    cells, seen, hoped = [], 0.0, 0.0
    for c, e in zip(counts.tolist(), expected.tolist(), strict=True):
        seen, hoped = seen + c, hoped + e
        if hoped >= 20:
            cells.append((seen, hoped))
            seen = hoped = 0.0
    cells[-1] = (cells[-1][0] + seen, cells[-1][1] + hoped)
    return stats.chisquare([c for c, _ in cells], [e for _, e in cells], sum_check=False).pvalue


def test_float32_gumbel_stops_at_16_63():
    largest = torch.tensor(1.0 - 2.0**-24)
    u = torch.rand(30_000_000, generator=seeded(0))
    assert u.max() <= largest
    assert torch.equal(u * GRID, (u * GRID).round())
    gumbel = -torch.log(1e-10 - torch.log(largest + 1e-10))
    assert gumbel.item() == pytest.approx(16.63, abs=0.005)
    finer = torch.tensor(1.0 - 2.0**-53, dtype=torch.float64)
    assert -torch.log(-torch.log(finer)).item() == pytest.approx(36.74, abs=0.005)


@pytest.mark.parametrize(("steps", "least"), [(32, 1.3e-6), (512, 2.2e-5), (1024, 4.4e-5)])
def test_token_that_cannot_beat_a_median_mask_draw(steps: int, least: float):
    """At t = 1/2: p (alpha_s - alpha_t) / E_min against (1 - alpha_s) / ln 2, E_min the least float32 denominator."""
    e_min = (1e-10 - torch.log(torch.tensor(1.0 - 2.0**-24) + 1e-10)).item()
    assert (0.5 - 1 / steps) / math.log(2) * e_min * steps == pytest.approx(least, rel=0.03)


@pytest.mark.parametrize("m", [1, 7, 300])
def test_largest_of_a_group(m: int):
    """The group's draw has the law of the least denominator of m tokens of the real race, in float32."""
    n = 20_000
    u = torch.rand(n, m, generator=seeded(1)).amax(-1)
    real = 1e-10 - (u + 1e-10).log()
    ours = exponentials(torch.tensor([float(m)]).double(), n, torch.float32, seeded(2))[:, 0]
    assert stats.ks_2samp(real.numpy(), ours.numpy()).pvalue > 1e-3
    exact = exponentials(torch.tensor([float(m)]).double(), n, torch.float64, seeded(3))[:, 0]
    assert stats.kstest(exact.numpy(), stats.expon(scale=1 / m).cdf).pvalue > 1e-3


@pytest.mark.heavy
@pytest.mark.parametrize("steps", [32, 256, 1024])
def test_float64_draws_the_exact_law_at_every_step_count(steps: int):
    assert coarse_p_value(drawn_groups(steps, torch.float64)) > 1e-3
    h, tail = statistics(steps, torch.float64)
    surprisal = -ZIPF.p.log()
    spread = ((ZIPF.mass * surprisal.square()).sum() - entropy(ZIPF.mass) ** 2).sqrt().item()
    assert abs(h - entropy(ZIPF.mass)) < (4 * spread / math.sqrt(POSITIONS)) + len(ZIPF.p) / POSITIONS
    exact = ZIPF.mass[IN_TAIL].sum().item()
    assert abs(tail - exact) < 4 * math.sqrt(exact * (1 - exact) / POSITIONS)


@pytest.mark.slow
def test_float32_loses_entropy_and_tail_the_more_the_finer_the_steps():
    loss, tail_loss = [], []
    exact = ZIPF.mass[IN_TAIL].sum().item()
    for steps in (32, 256, 1024):
        h32, tail32 = statistics(steps, torch.float32)
        loss.append(entropy(ZIPF.mass) - h32)
        tail_loss.append(exact - tail32)
    noise = 2 * math.sqrt(exact * (1 - exact) / POSITIONS)
    assert tail_loss[2] > tail_loss[1] + noise > tail_loss[0] + 2 * noise
    assert tail_loss[2] > 0.5 * exact
    assert loss[2] > loss[1] > loss[0]
    assert loss[2] > 0.5
    assert coarse_p_value(drawn_groups(1024, torch.float32)) < 1e-9


@pytest.mark.heavy
def test_real_race_in_float64_over_several_steps_draws_the_exact_law():
    """The race itself over all 50,257 tokens, 4 steps, 600 positions."""
    ids = torch.full((600,), V)
    generator = seeded(4)
    grid = descending_grid(4)
    for t, s in pairwise(grid.tolist()):
        masked = (ids == V).nonzero()[:, 0]
        log_p = LOG_P.expand(len(masked), -1)
        ids[masked] = sample_gumbel_race(log_p, 1 - t, 1 - s, torch.float64, generator)
    assert coarse_p_value(GROUP_OF_TOKEN[ids]) > 1e-3


@pytest.mark.heavy
@pytest.mark.parametrize(("bits", "kappa"), [(12, 0.4), (14, 0.4), (14, 1.5)])
def test_real_race_on_a_grid_reveals_too_little(bits: int, kappa: float, monkeypatch: pytest.MonkeyPatch):
    """Uniform over 1,000 tokens, a step that should reveal a share `rho` of the rows, rand on a grid of 2^-bits.

    At 24 bits one reveal costs 10^7 numbers, so the real race runs on a coarser grid; the tests above show that float32
    is the grid of 24 bits. The best token's uniform is 1 - j / 2^bits with probability (1 - (j - 1) / 2^bits)^V
    - (1 - j / 2^bits)^V, and beats the mask with probability (1 - j / 2^bits)^(V (1 - rho) / rho); kappa is rho / V in
    units of the grid, and for small rho the share revealed is rho / kappa / (exp(1 / kappa) - 1).
    """
    n, tokens = 30_000, 1000
    fine = torch.rand
    monkeypatch.setattr(torch, "rand", lambda *args, **kwargs: (fine(*args, **kwargs) * 2**bits).floor() / 2**bits)
    rho = kappa * tokens / 2**bits
    log_p = torch.full((1, tokens), -math.log(tokens)).expand(n, -1)
    revealed = int((sample_gumbel_race(log_p, 0.0, rho, torch.float32, seeded(5)) < tokens).sum())
    u = 1.0 - torch.arange(2**bits + 1, dtype=torch.float64) / 2**bits
    law = -u.pow(tokens).diff() @ u[1:].pow(tokens * (1 - rho) / rho)
    assert law.item() == pytest.approx(rho / kappa / math.expm1(1 / kappa), rel=0.2)
    assert stats.binomtest(revealed, n, rho, alternative="less").pvalue < 1e-12
    assert stats.binomtest(revealed, n, law.item()).pvalue > 1e-3


if __name__ == "__main__":  # a smaller form of the table in docs/results.md
    for steps in (32, 256, 1024):
        for dtype in (torch.float32, torch.float64):
            print(f"N = {steps}, {dtype}: entropy %.3f, tail mass %.3f" % statistics(steps, dtype))
