"""The methods over networks of `transformers`: against autograd through the library's own logits, and the contract."""

import copy
import json
import math
from dataclasses import replace

import pytest
import torch

from mcd.checkpoints.folder import from_pretrained
from mcd.model.targets import DIRECTIONS, TeacherTarget, TokenTarget
from mcd.objective import Clock
from mcd.objective import mcd as mcd_module
from mcd.objective.cd4lm import CD4LM
from mcd.objective.idlm import IDLM
from mcd.objective.ltd import LTD
from mcd.objective.mcd import MCD
from mcd.objective.mmd import MMD
from mcd.objective.nelbo import NELBO
from mcd.objective.sdtt import SDTT
from mcd.process.draws import Draws

K, MASK, B, L = 41, 4, 4, 16
FEW = ["electra", "dream"]
METHODS = {
    "mcd": MCD(delta0=0.25),
    "sdtt": SDTT(delta0=0.25),
    "cd4lm": CD4LM(),
    "idlm": IDLM(),
    "ltd": LTD(4, pairs=3),
    "mmd": MMD(),
    "nelbo": NELBO(),
}


@pytest.fixture
def x0(seeded):
    return torch.randint(6, 39, (B, L), generator=seeded(3))


@pytest.fixture
def theirs(published, request):
    """Networks tied and not, of two widths, shifted and not; more of them where the library is the twin."""
    return published(getattr(request, "param", "bert"))


@pytest.fixture
def models(theirs, seeded):
    """A student and a teacher that differ everywhere, both in evaluation mode."""
    student, teacher = from_pretrained(str(theirs.folder)), from_pretrained(str(theirs.folder))
    with torch.no_grad():
        for p in teacher.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=seeded(1)))
    return student, teacher.requires_grad_(False)


@pytest.fixture(params=METHODS)
def method(request):
    return METHODS[request.param]


def loss_of(method, models, x0, seed=0, diffused=None, round=0):
    method.equip(models[0], L)
    draws = Draws(torch.Generator().manual_seed(seed), *x0.shape, diffused=diffused)
    others = {name: copy.deepcopy(models[0]) for name in {*method.turns} - {"student"}}
    return method.loss(*models, x0, Clock(method.turns.index("student"), round), draws, **others)


def said_log_probs(theirs, model, z, tau=1.0):
    """(B, L, K) log-probs of the library's logits, over the ids that are not forbidden; -inf for the others."""
    logits = theirs.logits(z) / tau
    forbidden = torch.zeros(K, dtype=torch.bool)
    forbidden[list(model.config.forbidden)] = True
    return logits.masked_fill(forbidden, -torch.inf).log_softmax(-1)


@pytest.mark.parametrize("theirs", ["bert", "roberta", "modernbert", "electra", "llada", "dream"], indirect=True)
@pytest.mark.parametrize("kl", ["reverse", "forward"])
def test_mcd_is_eq_14_through_the_library(theirs, x0, kl, monkeypatch):
    """Loss and every gradient, with the library's logits of all positions, column by column."""
    pairs = []
    original = mcd_module.coupled_pair
    monkeypatch.setattr(mcd_module, "coupled_pair", lambda *args: pairs.append(original(*args)) or pairs[-1])
    method = MCD(delta0=0.3, kl=kl)
    student, teacher = from_pretrained(str(theirs.folder)), from_pretrained(str(theirs.folder))
    found = loss_of(method, (student, teacher), x0, round=1)
    found.total.backward()

    (pair,), network = pairs, copy.deepcopy(theirs.network)
    log_p = said_log_probs(theirs._replace(network=network), student, pair.z_t)
    with torch.no_grad():
        log_q = said_log_probs(theirs, teacher, pair.z_s, method.tau(1))
    total = torch.zeros(())
    for b in range(B):
        for i in range(L):
            if pair.masked_s[b, i]:
                kept = log_p[b, i].isfinite()
                p, q = log_p[b, i][kept], log_q[b, i][kept]
                total = total + ((p.exp() * (p - q)).sum() if kl == "reverse" else (q.exp() * (q - p)).sum())
            elif pair.masked_t[b, i]:
                total = total - log_p[b, i, x0[b, i]]
    total = total / (B * L)
    torch.testing.assert_close(found.total.detach(), total.detach(), rtol=1e-4, atol=1e-6)
    total.backward()
    expected = zip(theirs._replace(network=network).stored(), network.parameters(), strict=True)
    expected = {name: p.grad for name, p in expected}
    for name, p in student.named_parameters():
        gradient = expected[student.backbone.stored_name(name.removeprefix("backbone."))]
        kept = slice(1, None) if gradient.shape[0] == K else slice(None)  # the padding's row, see test_network
        torch.testing.assert_close(p.grad[kept], gradient[kept], rtol=2e-3, atol=2e-5, msg=name)


@pytest.mark.parametrize("theirs", FEW, indirect=True)
def test_finite_accounted_for_and_with_gradients(method, models, x0):
    student, teacher = models
    loss = loss_of(method, models, x0)
    assert loss.total.requires_grad and loss.total.isfinite()
    json.dumps(loss.as_floats(), allow_nan=False)
    if method.distils:
        torch.testing.assert_close(sum(loss.terms.values()), loss.total.detach())
    loss.total.backward()
    for name, p in student.named_parameters():
        assert p.grad is not None and p.grad.isfinite().all() and p.grad.abs().sum() > 0, name
    assert all(p.grad is None for p in teacher.parameters())


def test_a_function_of_its_arguments_alone(method, models, x0):
    first, again, other = (loss_of(method, models, x0, seed) for seed in (5, 5, 6))
    assert torch.equal(first.total, again.total) and not torch.equal(first.total, other.total)


@pytest.mark.parametrize("theirs", FEW, indirect=True)
@pytest.mark.parametrize("name", ["mcd", "sdtt", "cd4lm", "idlm", "ltd"])
def test_nothing_to_distil_at_zero_gap_with_equal_weights(name, models, x0):
    still, same = METHODS[name].without_gap(), copy.deepcopy(models[0])
    assert abs(loss_of(still, (models[0], same), x0).total.item()) < 1e-6
    assert loss_of(still, models, x0).terms["distillation"].item() > 1e-3


@pytest.mark.parametrize("theirs", FEW, indirect=True)
def test_what_is_not_diffused_is_seen_and_costs_nothing(method, models, x0, monkeypatch):
    """Instruction data: a prompt of 6 tokens and 3 of padding; also where the answer is short."""
    if method.name == "ltd":  # each row once in each call
        method = replace(method, pairs=1, redraft=0.0)
        method.equip(models[0], L)
    diffused = torch.zeros(B, L, dtype=torch.bool)
    diffused[:, 6:13] = True
    diffused[0, 8:] = False
    x0[:, 13:] = 3
    seen = []
    for model in models:
        original = model.hidden
        monkeypatch.setattr(
            model, "hidden", lambda z, t, *a, f=original, **k: seen.append((z.clone(), k["rows"])) or f(z, t, *a, **k)
        )
    loss = loss_of(method, models, x0, diffused=diffused)
    assert loss.total.isfinite()
    for z, rows in seen:
        assert torch.equal(z[~diffused], x0[~diffused]) and diffused.flatten()[rows].all()
    assert any((z == MASK).any() for z, _ in seen)
    loss.total.backward()


@pytest.mark.parametrize("theirs", FEW, indirect=True)
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("tau", [1.0, 0.6])
def test_divergences_leave_out_what_is_never_said(models, x0, direction, tau):
    """Each is what it is over the columns that are said, losses and gradients; also with temperatures."""
    student, teacher = models
    z, t = torch.where(torch.arange(L) % 2 == 0, MASK, x0), torch.ones(B)
    hidden = student.hidden(z, t)
    with torch.no_grad():
        teacher_hidden = teacher.hidden(z, t)
    target = TeacherTarget(teacher, teacher_hidden, tau, direction, student_tau=0.8)
    total, (rows,) = student.head_loss(hidden, target)
    found = torch.autograd.grad(total, [*student.parameters()])

    kept = torch.ones(K, dtype=torch.bool)
    kept[list(student.config.forbidden)] = False
    log_p = (student.logits(student.hidden(z, t))[:, kept] / 0.8).log_softmax(-1)
    log_q = (teacher.logits(teacher_hidden)[:, kept] / tau).log_softmax(-1)
    slow = {
        "reverse": (log_p.exp() * (log_p - log_q)).sum(-1),
        "forward": (log_q.exp() * (log_q - log_p)).sum(-1),
        "mse": (log_p - log_q).square().mean(-1),
        "tv": 0.5 * (log_p.exp() - log_q.exp()).abs().sum(-1),
    }[direction]
    torch.testing.assert_close(rows, slow.detach(), rtol=1e-3, atol=1e-5)
    expected = torch.autograd.grad(slow.sum(), [*student.parameters()])
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=3e-3, atol=3e-4)


@pytest.mark.heavy
@pytest.mark.parametrize("theirs", FEW, indirect=True)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_stays_finite(method, models, x0, dtype):
    exact = loss_of(method, models, x0)
    with torch.autocast("cpu", dtype):
        rough = loss_of(method, models, x0)
    torch.testing.assert_close(rough.total, exact.total, rtol=0.1, atol=0.05)
    rough.total.backward()
    assert all(p.grad.isfinite().all() for p in models[0].parameters())


@pytest.mark.parametrize("theirs", FEW, indirect=True)
def test_a_model_that_knows_nothing_chooses_among_what_is_said(models, x0):
    """Features of 0 and no bias: the loss is the logarithm of how many ids are not forbidden."""
    student, _ = models
    said = K - len(student.config.forbidden)
    if student.backbone.bias is not None:
        torch.nn.init.zeros_(student.backbone.bias)
    hidden = student.hidden(torch.full((B, L), MASK), torch.ones(B)) * 0.0
    _, (losses,) = student.head_loss(hidden, TokenTarget(x0.flatten()))
    torch.testing.assert_close(losses, torch.full_like(losses, math.log(said)))
