"""LTD: its target is what the sampler draws, its states are those of drawing, and its loss is the definition's."""

import copy
from dataclasses import replace

import pytest
import torch

from mcd.data.languages.hidden_markov import stationary_law
from mcd.data.languages.known import LANGUAGES, Language
from mcd.errors import UsageError
from mcd.eval.exact_denoiser import exact_denoiser
from mcd.eval.known_language import truth_metrics
from mcd.model.denoiser import Denoiser, DenoiserConfig
from mcd.model.dit import DiTConfig
from mcd.model.prior import prior
from mcd.objective import Clock
from mcd.objective.ltd import LTD
from mcd.objective.nelbo import NELBO
from mcd.objective.trajectory import locked_trajectory
from mcd.process.categorical import Guide
from mcd.process.draws import Draws
from mcd.process.schedule import Cosine, LogLinear
from mcd.process.timestep import descending_grid, sample_u
from mcd.process.unmasking import ORDERS, sample_u_of_row
from mcd.sampler import sample
from mcd.sampler.ancestral import Ancestral
from mcd.sampler.locked import Locked

V, L, B = 23, 16, 6
SMALL = LTD(trajectory_steps=6, student_steps=(1, 2, 3), pairs=4)


def noise(seeded, order="iid", seed=0):
    g = seeded(seed)
    every = torch.ones(L, dtype=torch.bool)
    u = torch.stack([sample_u_of_row(order, every, 1e-3, g) for _ in range(B)])
    return u, torch.rand(B, L, dtype=torch.float64, generator=g)


@pytest.fixture
def blank():
    """Rows of masks, some with tokens that are given."""
    z = torch.full((B, L), V)
    z[2, 3:9] = torch.arange(6)
    z[3] = 1
    return z


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("schedule", [LogLinear(), Cosine()], ids=repr)
@pytest.mark.parametrize("steps", [1, 5, 16])
def test_the_trajectory_is_that_of_the_locked_sampler(tiny_denoiser, seeded, blank, order, schedule, steps):
    teacher = tiny_denoiser(schedule=schedule, time_conditioned=True)
    u, v = noise(seeded, order)
    times = descending_grid(steps)
    sampler = Ancestral(steps, order=order)
    step = sampler.steps_of(u, schedule.alpha(times)).masked_fill(blank != V, -1)
    *_, last = sampler.reveal_locked(teacher, blank, step, v, times)
    x, features = locked_trajectory(teacher, blank, u, v, steps)
    assert torch.equal(x, last.z)
    logits = teacher.logits(features).view(B, L, V)
    assert ((logits.softmax(-1).cumsum(-1) > v[..., None]).float().argmax(-1) == x)[blank == V].all()


def test_a_guided_trajectory_is_that_of_the_guided_sampler(tiny_denoiser, seeded, blank):
    teacher = tiny_denoiser()
    u, v = noise(seeded)
    times = descending_grid(5)
    sampler = Ancestral(5, top_p=0.7, guidance=0.5)
    step = sampler.steps_of(u, teacher.config.schedule.alpha(times)).masked_fill(blank != V, -1)
    *_, last = sampler.reveal_locked(teacher, blank, step, v, times)
    x, _ = locked_trajectory(teacher, blank, u, v, 5, 0.7, Guide(prior(teacher), 0.5))
    assert torch.equal(x, last.z)
    assert not torch.equal(x, locked_trajectory(teacher, blank, u, v, 5)[0])


def test_the_loss_is_of_the_trajectory_as_it_was_asked_for(tiny_denoiser, x0):
    """The student learns other texts from a teacher that is guided, or cut to its nucleus."""
    student, teacher = tiny_denoiser(process="locked"), tiny_denoiser()
    losses = [
        replace(SMALL, **asked)
        .loss(student, teacher, x0, Clock(0), Draws(torch.Generator().manual_seed(0), B, L))
        .total
        for asked in ({}, {"teacher_guidance": 1.0}, {"teacher_top_p": 0.5})
    ]
    assert len({loss.item() for loss in losses}) == 3


@pytest.mark.parametrize("exact", [True, False])
def test_the_prior_of_guidance_is_that_of_the_teacher(tiny_denoiser, x0, exact, monkeypatch):
    """Also where the student did not begin as the teacher: an exact one is another model than --init."""
    asked, guided = replace(SMALL, teacher_guidance=0.5), []
    original = locked_trajectory
    monkeypatch.setattr("mcd.objective.ltd.locked_trajectory", lambda *a: guided.append(a[-1]) or original(*a))
    student = tiny_denoiser(V=32)
    teacher = exact_denoiser(LANGUAGES["grammar"](), L) if exact else copy.deepcopy(student)
    asked.equip(student, L)
    asked.loss(student, teacher, x0, Clock(0), Draws(torch.Generator().manual_seed(0), B, L))
    assert torch.allclose(guided[0].prior.exp(), prior(teacher, L).exp(), atol=1e-6)


def test_what_a_guided_teacher_cannot_be(tiny_denoiser):
    with pytest.raises(ValueError, match="--target distribution"):
        LTD(target="distribution", teacher_guidance=0.5)
    student = tiny_denoiser(process="locked")
    shown = student.config.locked
    LTD(shown=shown).check(student)
    for asked in ({"teacher_top_p": 0.9}, {"teacher_guidance": 0.5}):
        with pytest.raises(UsageError, match="takes the likeliest tokens"):
            LTD(shown=shown, **asked).check(student)


@pytest.mark.parametrize("order", ["iid", "low-discrepancy"])
def test_the_trajectory_of_a_student_as_teacher_is_that_of_its_greedy_sampler(tiny_denoiser, order, monkeypatch):
    teacher = tiny_denoiser(process="locked")
    seen = []
    original = Locked.thresholds
    monkeypatch.setattr(Locked, "thresholds", lambda *a: seen.append(original(*a)) or seen[-1])
    first_drafts = teacher.locked.first_drafts
    monkeypatch.setattr(teacher.locked, "first_drafts", lambda v: seen.append(v) or first_drafts(v))
    z = torch.full((B, L), V)
    *_, last = Locked(5, order=order, greedy=True).trajectory(teacher, z, range(B), 0)
    u, v = seen
    assert torch.equal(locked_trajectory(teacher, z, u, v.clone(), 5)[0], last.z)


def test_where_the_context_decides_a_token_the_target_is_exact(seeded):
    """A cycle of three symbols: once one token is known, the others follow. Where the first step reveals one token, a
    trajectory is a text of the language, the same for every number of later steps, and each text comes equally often.
    """
    cycle = torch.eye(3, dtype=torch.float64).roll(1, 1)
    language = Language(
        cycle, torch.eye(3, dtype=torch.float64), torch.full((3,), 1 / 3).double(), "cycle", tuple("abc")
    )
    teacher, n = exact_denoiser(language, 4), 600
    u = torch.stack([sample_u_of_row("stratified", torch.ones(4, dtype=torch.bool), 1e-3, seeded(i)) for i in range(n)])
    v = torch.rand(n, 4, dtype=torch.float64, generator=seeded(1))
    made = [locked_trajectory(teacher, torch.full((n, 4), 3), u, v, steps)[0] for steps in (4, 8, 64)]
    x = made[0]
    assert torch.equal(x, (x[:, :1] + torch.arange(4)) % 3)
    assert all(torch.equal(x, other) for other in made[1:])
    torch.testing.assert_close(torch.bincount(x[:, 0]) / n, torch.full((3,), 1 / 3), rtol=0, atol=0.08)


@torch.no_grad()
def slow_twin(objective, student, teacher, x0, seed, wanted):
    """The loss in a loop over pairs and positions, in double; and how many tokens it is of."""
    g, K, Ns = torch.Generator().manual_seed(seed), objective.pairs, objective.student_steps
    iid = objective.order == "iid"
    u = (
        sample_u(B, L, g)
        if iid
        else torch.stack([sample_u_of_row(objective.order, row, 0.0, g) for row in wanted]).float()
    )
    u = u.masked_fill(~wanted, 0.0)
    v = torch.rand(B, L, dtype=torch.float64, generator=g)
    place = (torch.arange(K) + torch.rand(B, K, dtype=torch.float64, generator=g)) / K * len(Ns)
    again = torch.rand(B, K, dtype=torch.float64, generator=g) < objective.redraft
    blank = torch.where(wanted, V, x0)
    x, features = locked_trajectory(teacher, blank, u, v, objective.trajectory_steps)
    log_q = teacher.log_x_theta(features).view(B, L, V).double()
    total, tokens = 0.0, 0
    if not (again & (place % 1 * torch.tensor(Ns)[place.long()] >= 1)).any():
        pytest.fail("the seed has no drafts of a step before")
    for b in range(B):
        for k in range(K):
            N = Ns[int(place[b, k])]
            j = int(place[b, k] % 1 * N)

            def state(j, b=b, N=N):
                level = 1 - 0.999 * (1 - j / N)
                masked = wanted[b] & (u[b] > level if j else torch.ones(L, dtype=torch.bool))
                return torch.where(masked, V, x[b])[None], masked[None], torch.tensor([1 - j / N])

            def prediction(j, draft, b=b, state=state):
                z, masked, t = state(j)
                return student.logits(student.hidden(z, t, student.noise(masked, draft, u[b : b + 1], v[b : b + 1])))

            draft = student.locked.first_drafts(v[b : b + 1])
            if again[b, k] and j > 0:
                draft = torch.where(state(j - 1)[1], prediction(j - 1, draft).argmax(-1)[None], draft)
            log_p = prediction(j, draft).double().log_softmax(-1)
            for i in range(L):
                masked, later = state(j)[1][0, i], state(j + 1)[1][0, i] and j + 1 < N
                if masked and (objective.region == "masked" or not later):
                    q = log_q[b, i]
                    kl = (q.exp() * (q - log_p[i])).sum()
                    total += float(-log_p[i, x[b, i]] if objective.target == "token" else kl)
                    tokens += 1
    return total / (K * int(wanted.sum())), tokens


@pytest.mark.heavy
@pytest.mark.parametrize("prompt", [False, True])
@pytest.mark.parametrize(
    "options",
    [{}, {"target": "distribution"}, {"region": "masked", "order": "iid"}, {"pairs": 1, "redraft": 1.0}],
    ids=str,
)
def test_the_loss_is_the_sum_that_the_definition_says(tiny_denoiser, x0, options, prompt, seeded):
    objective = replace(SMALL, **options)
    student, teacher = tiny_denoiser(process="locked"), tiny_denoiser(seed=1)
    wanted = torch.ones(B, L, dtype=torch.bool)
    if prompt:
        wanted[:, :5] = False
    draws = Draws(seeded(4), B, L, diffused=wanted if prompt else None)
    loss = objective.loss(student, teacher, x0, Clock(), draws)
    total, tokens = slow_twin(objective, student, teacher, x0, 4, wanted)
    assert loss.counts["tokens_distilled"] == tokens
    assert loss.total.item() == pytest.approx(total, rel=1e-5)


@pytest.mark.heavy
def test_parts_of_a_batch_have_the_draws_of_the_whole(tiny_denoiser, x0, seeded):
    student, teacher = tiny_denoiser(process="locked"), tiny_denoiser(seed=1)
    for method in (SMALL, replace(SMALL, pairs=1)):  # of so few states, some parts have none whose drafts are made anew
        whole = method.loss(student, teacher, x0, Clock(), Draws(seeded(0), B, L)).total.item()
        parts = [
            method.loss(student, teacher, x0[i : i + 1], Clock(), Draws(seeded(0), B, L, slice(i, i + 1))).total.item()
            for i in range(B)
        ]
        assert sum(parts) / B == pytest.approx(whole, rel=1e-5)


def test_pairs_are_spread_evenly_over_the_steps():
    j, N = LTD(student_steps=(1, 2, 4), pairs=300)._steps_of(torch.rand(2, 300, dtype=torch.float64))
    for steps in (1, 2, 4):
        for k in range(steps):
            assert (N.eq(steps) & j.eq(k)).sum(1).sub(100 / steps).abs().max() <= 1


def test_what_a_row_costs():
    assert SMALL.schedule_of_round(0) == {"forwards": 6 + 4 * (3 + 0.5 * (0 + 1 / 2 + 2 / 3) / 3)}
    assert replace(SMALL, shown=("when",)).schedule_of_round(0) == {"forwards": 18.0}
    assert "--redraft" in replace(SMALL, shown=("when",)).idle_options(1)
    assert "--redraft" in replace(SMALL, student_steps=(1,)).idle_options(1)
    assert SMALL.idle_options(1) == {}


def test_a_student_goes_on_as_it_began(tiny_denoiser):
    student = tiny_denoiser(process="locked")
    table = student.locked.table
    SMALL.equip(student, L)
    assert student.locked.table is table
    with pytest.raises(ValueError, match="--shown value: the teacher is shown draft when"):
        replace(SMALL, shown=("value",)).check(student)


def chain():
    """Eight symbols in a Markov chain, each with a very likely successor and another likely one."""
    transition = torch.full((8, 8), 0.01, dtype=torch.float64)
    for i in range(8):
        transition[i, (3 * i + 1) % 8] += 0.82
        transition[i, (5 * i + 6) % 8] += 0.10
    transition /= transition.sum(1, keepdim=True)
    eye = torch.eye(8, dtype=torch.float64)
    return Language(transition, eye, stationary_law(transition), "chain", tuple("abcdefgh"))


def learn(model, loss_of_step, steps, lr):
    optimizer = torch.optim.AdamW(model.parameters(), lr, weight_decay=0.0)
    for n in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1.0, n / 20, 2 * (1 - n / steps))
        loss_of_step(n).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.slow
def test_a_short_training_makes_the_tokens_of_one_call_agree():
    """A Markov chain: in one and two calls, the total variation of bigrams is at most 0.7 times the teacher's."""
    language = chain()
    config = DenoiserConfig(DiTConfig(9, 32, 2, 2, L, cond_dim=8, dropout=0.0, gate_init=1.0), mask_id=8)
    torch.manual_seed(0)
    teacher, g = Denoiser(config), torch.Generator().manual_seed(0)
    rows = language.sample_rows(2000, L, g)

    def draws(n, size):
        return Draws(torch.Generator().manual_seed(n), size, L)

    def batch(n, size):
        return rows[torch.randint(len(rows), (size,), generator=torch.Generator().manual_seed(n))]

    learn(teacher, lambda n: NELBO().loss(teacher, None, batch(n, 32), Clock(), draws(n, 32)).total, 200, 6e-3)
    student, method = copy.deepcopy(teacher), LTD(trajectory_steps=8, student_steps=(1, 2))
    teacher.requires_grad_(False)
    method.equip(student, L)
    learn(student, lambda n: method.loss(student, teacher, batch(n, 4), Clock(), draws(n, 4)).total, 300, 6e-3)
    for steps in (1, 2):
        options = {"rows_per_call": 64}
        of_teacher = sample(Ancestral(steps, order="low-discrepancy", **options), teacher, 500, L)[0]
        of_student = sample(Locked(steps, greedy=True, **options), student, 500, L)[0]
        tv = [truth_metrics(ids, language)["tv_bigram"] for ids in (of_teacher, of_student)]
        assert tv[1] < 0.7 * tv[0]
