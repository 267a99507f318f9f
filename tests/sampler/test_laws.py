"""Every sampler against its exact law: rows of 3 tokens out of 4, and the calls that each of them took.

A law is found by walking through all states that a row may go through, one step after another, with the probability of
each. It is written from what the docstring of the sampler defines, not from its code, and knows the network as a table
of predictions for every state, place and time (`Table` in conftest.py). Rows that were sampled are then compared by
chi-square: fixed seeds, p > 1e-4. `make test` draws FEW rows of each case, `make test-all` MANY.
"""

import itertools
import math
from collections import Counter

import pytest
import torch
from scipy import stats

from mcd.process.schedule import Cosine, Linear, LogLinear
from mcd.process.unmasking import GOLDEN
from mcd.sampler import SAMPLERS
from mcd.sampler.ancestral import Ancestral
from mcd.sampler.cad import CAD
from mcd.sampler.causal import Causal
from mcd.sampler.confidence import Confidence
from mcd.sampler.entropy_bounded import EntropyBounded
from mcd.sampler.gumbel_race import GumbelRace
from mcd.sampler.klass import KLASS
from mcd.sampler.locked import Locked
from mcd.sampler.remdm import ReMDM
from mcd.sampler.uniform import Uniform

V, L = 4, 3
FEW, MANY = 2_000, 20_000
BLANK = 4  # the mask, or of uniform models the id beyond the vocabulary


class Walk:
    """What a law needs to know: the network's predictions, the schedule, and the options common to all samplers."""

    def __init__(self, model, sampler):
        self.model, self.sampler, self.steps = model, sampler, sampler.steps
        self.seen = {}

    def alpha(self, t):
        return float(self.model.config.schedule.alpha(torch.tensor(t, dtype=torch.float64)))

    def t_of_alpha(self, alpha):
        t = float(self.model.config.schedule.t_of_alpha(torch.tensor(alpha, dtype=torch.float64)))
        return min(max(t, 0.0), 1.0)

    def prediction(self, z, t):
        """The network's probabilities, L lists of V."""
        if (z, t) not in self.seen:
            log_p = self.model.table(torch.tensor([z]), torch.tensor([t]))[0].double()
            self.seen[z, t] = [[math.exp(x) for x in place[:V]] for place in log_p.tolist()]
        return self.seen[z, t]

    def tempered(self, p):
        """p^(1 / temperature), then the likeliest until their mass reaches top_p, each normalised."""
        p = [x ** (1 / self.sampler.temperature) for x in p]
        p = [x / sum(p) for x in p]
        kept, mass = set(), 0.0
        for token in sorted(range(V), key=lambda token: -p[token]):
            if mass < self.sampler.top_p:
                kept.add(token)
                mass += p[token]
        return [x / mass if token in kept else 0.0 for token, x in enumerate(p)]

    def reveals(self, z, t, places):
        """All ways to draw the tokens at `places` from what the network says of z at t: (state, probability)."""
        x = [self.tempered(place) for place in self.prediction(z, t)]
        yield from product_of(z, {i: dict(enumerate(x[i])) for i in places})


def product_of(z, choices):
    """All states of z with independent choices {place: {token: probability}}: (state, probability), none of 0."""
    for tokens in itertools.product(*(choice.items() for choice in choices.values())):
        p = math.prod(q for _, q in tokens)
        if p > 0.0:
            after = list(z)
            for i, (token, _) in zip(choices, tokens, strict=True):
                after[i] = token
            yield tuple(after), p


def blanks(z):
    return [i for i in range(L) if z[i] == BLANK]


def chain(starts, steps, move):
    """The law of a Markov chain over (state, calls), {(state, calls): probability}, from a law of its first state.

    starts: (state, probability); move(k, z): (state, probability, calls made), all that step k may do with z.
    """
    now = {(z, 0): p for z, p in starts}
    for k in range(steps):
        after = Counter()
        for (z, calls), p in now.items():
            for z_after, q, called in move(k, z):
                after[z_after, calls + called] += p * q
        now = after
    return now


def steps_of_thresholds(walk, intervals):
    """For u uniform on each interval of (0, 1], above alpha_1 by rank: all {place: step} with their probability."""
    alpha_1 = walk.alpha(1.0)
    edges = [(walk.alpha(1 - k / walk.steps) - alpha_1) / (1 - alpha_1) for k in range(walk.steps)] + [1.0]
    shares = {}
    for i, (a, b) in intervals.items():
        of_step = [max(0.0, min(b, high) - max(a, low)) / (b - a) for low, high in itertools.pairwise(edges)]
        shares[i] = dict(enumerate(of_step))
    places = list(shares)
    for steps in itertools.product(range(walk.steps), repeat=len(places)):
        yield dict(zip(places, steps, strict=True)), math.prod(shares[i][k] for i, k in zip(places, steps, strict=True))


def ancestral(walk, start):
    """u_i says in which step a token is revealed; a step is one call if it reveals anything of the row."""
    places, order = blanks(start), walk.sampler.order
    m = len(places)
    if order == "iid":
        rankings = [None]
    elif order == "stratified":
        rankings = list(itertools.permutations(range(m)))
    elif order == "low-discrepancy":
        points = [i * GOLDEN % 1.0 for i in range(m)]
        rankings = [[(sorted(points).index(x) + shift) % m for x in points] for shift in range(m)]
    else:  # blockwise: so few tokens are a block each
        rankings = [[(i - first) % m for i in range(m)] for first in range(m)]
    law = Counter()
    for ranks in rankings or [None]:
        intervals = {
            i: (0.0, 1.0) if ranks is None else (ranks[n] / m, (ranks[n] + 1) / m) for n, i in enumerate(places)
        }
        for step_of, p in steps_of_thresholds(walk, intervals):

            def move(k, z, step_of=step_of):
                due = [i for i, step in step_of.items() if step == k]
                for after, q in walk.reveals(z, 1 - k / walk.steps, due):
                    yield after, q, bool(due)

            for end, q in chain([(start, 1.0)], walk.steps, move).items() if p > 0.0 else ():
                law[end] += p * q / max(1, len(rankings))
    return law


def gumbel_race(walk, start):
    """Each masked token is revealed from t to s with (alpha_s - alpha_t) / (1 - alpha_t); at 1e-5 all that is left.

    A call is made for an unfinished row, but not where an untimed network has said all of this state before: so the
    calls of a row are then the states in which it was when a step began.
    """
    grid = [1 - k * (1 - 1e-5) / walk.steps for k in range(walk.steps + 1)]
    timed = walk.model.config.time_conditioned
    now = {(start, True, 0): 1.0}
    for k, t in enumerate(grid):
        last, after = k == walk.steps, Counter()
        alpha_t, alpha_s = walk.alpha(t), 1.0 if last else walk.alpha(grid[k + 1])
        rho = (alpha_s - alpha_t) / (1 - alpha_t)
        for (z, new, calls), p in now.items():
            called = bool(blanks(z)) and (timed or new)
            x = [walk.tempered(place) for place in walk.prediction(z, t)]
            choices = {i: {BLANK: 1 - rho} | {token: rho * x[i][token] for token in range(V)} for i in blanks(z)}
            for z_after, q in product_of(z, choices):
                after[z_after, z_after != z, calls + called] += p * q
        now = after
    law = Counter()
    for (z, _, calls), p in now.items():
        law[z, calls] += p
    return law


def sureness(p, score):
    ranked = sorted(p, reverse=True)
    if score == "entropy":
        return sum(x * math.log(x) for x in ranked)
    return {"top": ranked[0], "margin": ranked[0] - ranked[1], "random": 0.0}[score]


def blocks_of(places, sampler):
    """Of each step the block of masked tokens that it fills, and how many steps that block has left."""
    m, size = len(places), sampler.block or max(1, len(places))
    blocks = [places[n : n + size] for n in range(0, m, size)]
    if len(blocks) <= sampler.steps:
        ends = [min(m, (n + 1) * size) * sampler.steps // m for n in range(len(blocks))]
    else:  # neighbours join: as many groups as steps
        edges = [n * len(blocks) // sampler.steps for n in range(sampler.steps + 1)]
        blocks = [[*itertools.chain(*blocks[a:b])] for a, b in itertools.pairwise(edges)]
        ends = range(1, sampler.steps + 1)
    starts = [0, *ends]
    return [
        (block, b - k) for block, (a, b) in zip(blocks, itertools.pairwise(starts), strict=True) for k in range(a, b)
    ]


def confidence(walk, start):
    """Of the block's masked tokens the surest, as many as the step may reveal; ties in a random order of the row."""
    sampler, law = walk.sampler, Counter()
    schedule = blocks_of(blanks(start), sampler)

    for ties in itertools.permutations(range(L)):

        def move(k, z, ties=ties):
            block, left = schedule[k]
            candidates = [i for i in block if z[i] == BLANK]
            if not candidates:
                yield z, 1.0, 0
                return
            t = walk.t_of_alpha(1 - len(blanks(z)) / len(blanks(start)))
            p = walk.prediction(z, t)
            sure = {i: sureness(p[i], sampler.score) for i in candidates}
            if isinstance(sampler, CAD):
                count = min(max(1, sum(x >= sampler.threshold for x in sure.values())), sampler.cap)
                count = len(candidates) if left == 1 else count
            else:
                count = math.ceil(len(candidates) / left)
            chosen = sorted(candidates, key=lambda i: (-round(sure[i] * 1e4), ties[i]))
            if isinstance(sampler, EntropyBounded):
                count = max(count, affordable([-sureness(p[i], "entropy") for i in chosen], sampler.gamma))
            chosen = chosen[:count]
            if sampler.greedy:
                after = list(z)
                for i in chosen:
                    after[i] = p[i].index(max(p[i]))
                yield tuple(after), 1.0, 1
                return
            for after, q in walk.reveals(z, t, chosen):
                yield after, q, 1

        for end, p in chain([(start, 1.0)], len(schedule), move).items():
            law[end] += p / math.factorial(L)
    return law


def affordable(entropies, gamma):
    """How long a beginning of the entropies may be, so that their sum without the largest is at most gamma."""
    return max(n for n in range(1, len(entropies) + 1) if sum(entropies[:n]) - max(entropies[:n]) <= gamma)


def klass(walk, start):
    """Of the block the tokens that are sure and at rest; else the surest. What counts is all that was predicted."""
    sampler, law = walk.sampler, Counter()
    schedule = blocks_of(blanks(start), sampler)
    for ties in itertools.permutations(range(L)):
        now = {((start, ()), 0): 1.0}  # a state, the predictions of its block so far, and calls
        for k, (block, left) in enumerate(schedule):
            after = Counter()
            for ((z, past), calls), q in now.items():
                candidates = [i for i in block if z[i] == BLANK]
                if not candidates:
                    after[(z, ()), calls] += q
                    continue
                t = walk.t_of_alpha(1 - len(blanks(z)) / len(blanks(start)))
                past = (*(past if k and schedule[k - 1][0] == block else ()), (z, t))
                p = [walk.prediction(*one) for one in past]
                ready = {
                    i
                    for i in candidates
                    if sureness(p[-1][i], sampler.score) > sampler.threshold and at_rest([x[i] for x in p], sampler)
                }
                sure = {i: sureness(p[-1][i], sampler.score) for i in candidates}
                order = sorted(candidates, key=lambda i: (i not in ready, -round(sure[i] * 1e4), ties[i]))
                for z_after, share in walk.reveals(z, t, order[: max(len(ready), math.ceil(len(candidates) / left))]):
                    after[(z_after, past), calls + 1] += q * share
            now = after
        for ((z, _), calls), q in now.items():
            law[z, calls] += q / math.factorial(L)
    return law


def at_rest(p, sampler):
    """Whether the last `history` changes of a prediction were below the threshold; p: all its predictions, V each."""
    changes = [sum(x * math.log(x / y) for x, y in zip(b, a, strict=True) if x > 0) for a, b in itertools.pairwise(p)]
    last = changes[len(changes) - sampler.history :]
    return len(changes) >= sampler.history and all(kl < sampler.kl_threshold for kl in last)


def remdm(walk, start):
    """Visible at t: masked again with sigma. Masked: revealed so that P(visible at s) is alpha_s. Given: kept."""
    sampler, wanted = walk.sampler, blanks(start)
    alphas = [(walk.alpha(1 - k / walk.steps) - walk.alpha(1.0)) / (1 - walk.alpha(1.0)) for k in range(walk.steps)]
    alphas.append(1.0)

    def move(k, z):
        alpha_t, alpha_s = alphas[k], alphas[k + 1]
        most = min(1.0, (1 - alpha_s) / alpha_t) if alpha_t else 1.0
        sigma = min(sampler.eta, most) if sampler.remasking == "cap" else sampler.eta * most
        rho = (alpha_s - (1 - sigma) * alpha_t) / (1 - alpha_t)
        x = [walk.tempered(place) for place in walk.prediction(z, 1 - k / walk.steps)]
        choices = {}
        for i in wanted:
            if z[i] == BLANK:
                choices[i] = {BLANK: 1 - rho} | {token: rho * x[i][token] for token in range(V)}
            else:
                choices[i] = {BLANK: sigma, z[i]: 1 - sigma}
        for after, q in product_of(z, choices):
            yield after, q, any(z[i] == BLANK != after[i] for i in wanted)

    return chain([(start, 1.0)], walk.steps, move)


def uniform(walk, start):
    """Bayes' rule with x for the clean token: q(z_s | z_t) ~ q(z_t | z_s) q(z_s); 1 - kappa of it is noised afresh."""
    sampler, wanted = walk.sampler, blanks(start)
    end = 1e-5 if sampler.tail == "greedy" else 0.0
    grid = [1 - (1 - end) * k / walk.steps for k in range(walk.steps + 1)]
    alphas = [0.0] + [walk.alpha(t) for t in grid[1:]]
    alphas[-1] = 1.0 if sampler.tail == "sampled" else alphas[-1]

    def posterior(x, z, alpha_t, alpha_s):
        keep = alpha_t / alpha_s
        q = [(keep * (token == z) + (1 - keep) / V) * (alpha_s * x[token] + (1 - alpha_s) / V) for token in range(V)]
        return [value / sum(q) for value in q]

    def move(k, z):
        x = [walk.tempered(place) for place in walk.prediction(z, grid[k])]
        choices = {}
        for i in wanted:
            if k == walk.steps:
                choices[i] = {x[i].index(max(x[i])): 1.0}
                continue
            q = posterior(x[i], z[i], alphas[k], alphas[k + 1])
            clean = posterior(x[i], z[i], alphas[k], 1.0)
            noised = [alphas[k + 1] * value + (1 - alphas[k + 1]) / V for value in clean]
            kappa = sampler.kappa
            choices[i] = {token: kappa * q[token] + (1 - kappa) * noised[token] for token in range(V)}
        for after, p in product_of(z, choices):
            yield after, p, bool(wanted)

    starts = product_of(start, {i: dict.fromkeys(range(V), 1 / V) for i in wanted})
    return chain(starts, walk.steps + (sampler.tail == "greedy"), move)


def causal(walk, start):
    """Left to right: the network reads a start of text and what stands before a token, at no noise."""
    places = blanks(start)

    def move(k, z):
        i = places[k]
        shifted = (BLANK, *z[:-1])
        x = walk.tempered(walk.prediction(shifted, 0.0)[i])
        for after, p in product_of(z, {i: dict(enumerate(x))}):
            yield after, p, 1

    return chain([(start, 1.0)], len(places), move)


LAWS = {
    "ancestral": ancestral,
    "gumbel-race": gumbel_race,
    "locked": ancestral,  # of a network that its noise tells nothing; tests/sampler/test_locked_noise.py has the others
    "confidence": confidence,
    "cad": confidence,
    "entropy-bounded": confidence,
    "klass": klass,
    "remdm": remdm,
    "uniform": uniform,
    "causal": causal,
}
CASES = [
    (Ancestral, {"steps": 1}),
    (Ancestral, {"steps": 3}),
    (Ancestral, {"steps": 2, "order": "stratified"}),
    (Ancestral, {"steps": 2, "order": "low-discrepancy"}),
    (Ancestral, {"steps": 2, "order": "blockwise"}),
    (Ancestral, {"steps": 4, "order": "blockwise"}),
    (GumbelRace, {"steps": 2}),
    (GumbelRace, {"steps": 3, "precision": "fp32"}),
    (Locked, {"steps": 3}),
    (Locked, {"steps": 2, "order": "blockwise"}),
    (Confidence, {"steps": 2}),
    (Confidence, {"steps": 5, "score": "margin", "block": 2}),
    (Confidence, {"steps": 2, "score": "entropy", "block": 1}),
    (Confidence, {"steps": 2, "score": "random"}),
    (Confidence, {"steps": 2, "greedy": True}),
    (CAD, {"steps": 3, "threshold": 0.5, "cap": 2}),
    (CAD, {"steps": 2, "threshold": 0.4, "cap": 1, "score": "margin", "block": 2}),
    (CAD, {"steps": 3, "threshold": -1.1, "score": "entropy", "block": 0}),
    (EntropyBounded, {"steps": 3, "gamma": 0.9}),
    (EntropyBounded, {"steps": 2, "gamma": 0.0, "score": "margin"}),
    (EntropyBounded, {"steps": 3, "gamma": 0.7, "score": "top", "block": 2}),
    (KLASS, {"steps": 3, "threshold": 0.4, "kl_threshold": 0.5, "history": 1}),
    (KLASS, {"steps": 3, "threshold": 0.3, "kl_threshold": 2.0, "history": 1, "score": "margin"}),
    (KLASS, {"steps": 3, "threshold": 0.5, "history": 0, "block": 2}),
    (KLASS, {"steps": 2, "threshold": 0.0, "kl_threshold": 9.0, "history": 1}),
    (ReMDM, {"steps": 4, "eta": 0.3}),
    (ReMDM, {"steps": 3, "remasking": "rescale", "eta": 0.7}),
    (Uniform, {"steps": 1}),
    (Uniform, {"steps": 3}),
    (Uniform, {"steps": 2, "tail": "greedy"}),
    (Uniform, {"steps": 3, "kappa": 0.4}),
    (Causal, {}),
]


def assert_follows(ends, law):
    """ends: {(row, calls): count}. Cells that expect fewer than 5 are taken together; impossible ones are empty."""
    n = sum(ends.values())
    assert sum(law.values()) == pytest.approx(1.0, abs=1e-9)
    assert set(ends) <= {end for end, p in law.items() if p > 0.0}
    cells = [(ends.get(end, 0), n * p) for end, p in law.items()]
    rare = [cell for cell in cells if cell[1] < 5.0]
    cells = [cell for cell in cells if cell[1] >= 5.0] + [tuple(map(sum, zip(*rare, strict=True)))] * bool(rare)
    if len(cells) > 1:
        seen, expected = zip(*cells, strict=True)
        assert stats.chisquare(seen, expected, sum_check=False).pvalue > 1e-4


def follow(sampler, model, starts, rows):
    """Sample that many rows, in turn from each of the starts, in one batch; hold each start's against its law."""
    z = torch.tensor(starts).repeat(-(-rows // len(starts)), 1)
    *_, last = sampler.trajectory(model, z, range(len(z)), 7)
    for n, start in enumerate(starts):
        rows_of_start = map(tuple, last.z[n :: len(starts)].tolist())
        ends = Counter(zip(rows_of_start, last.nfe[n :: len(starts)].tolist(), strict=True))
        assert_follows(ends, LAWS[sampler.name](Walk(model, sampler), start))


EMPTY = (BLANK,) * L
both = pytest.mark.parametrize("rows", [FEW, pytest.param(MANY, marks=pytest.mark.slow)])


def name_of(case):
    return case.name if isinstance(case, type) else "-".join(str(value) for value in case.values())


def test_every_sampler_has_a_law():
    assert LAWS.keys() == SAMPLERS.keys() == {kind.name for kind, _ in CASES}


@pytest.mark.heavy
@both
@pytest.mark.parametrize("kind, options", CASES, ids=name_of)
def test_rows_and_calls_have_the_law_of_the_sampler(table_denoiser, kind, options, rows):
    """A network that is not told the time; where it has a mask, that is one of the columns, as of adapted networks."""
    model = table_denoiser(V, L, kind.process, LogLinear(0.4), inside=True)
    follow(kind(**options, rows_per_call=1000), model, [EMPTY], rows)


@pytest.mark.heavy
@both
@pytest.mark.parametrize("kind, options", CASES, ids=name_of)
def test_with_time_temperature_nucleus_and_templates(table_denoiser, kind, options, rows):
    """All at once, and rows of one batch with templates of their own, one of them with nothing to write."""
    model = table_denoiser(V, L, kind.process, Cosine(), time_conditioned=True, seed=1)
    sampler = kind(**options, rows_per_call=1000, temperature=0.8, top_p=0.9)
    follow(sampler, model, [EMPTY, (BLANK, 2, BLANK), (BLANK, BLANK, 0), (3, 1, 2)], rows)


@pytest.mark.heavy
@pytest.mark.parametrize("kind", [GumbelRace, Ancestral, ReMDM])
def test_a_time_conditioned_network_is_asked_anew_where_a_row_did_not_change(table_denoiser, kind):
    """One token with P(0) = t: two steps ask half the rows at t = 1, and half of them at t = 1/2, which gives 0.75."""
    model = table_denoiser(2, 1, schedule=Linear(), time_conditioned=True)
    model.table = lambda z, t: torch.stack((t, 1 - t), -1)[:, None].expand(len(z), 1, 2).clamp(min=1e-12).log()
    *_, last = kind(2, rows_per_call=1000).trajectory(model, torch.full((FEW, 1), 2), range(FEW), 0)
    share = (last.z == 0).double().mean().item()
    assert abs(share - 0.75) < 4.5 * math.sqrt(0.75 * 0.25 / FEW)
