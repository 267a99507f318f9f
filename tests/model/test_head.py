"""Divergences against torch.distributions, and the fused losses at the head against plain autograd."""

import copy
import math

import pytest
import torch
from torch.distributions import Categorical, kl_divergence
from torch.utils._python_dispatch import TorchDispatchMode

from mcd.model import shapes
from mcd.model.head import HeadLoss, head_loss
from mcd.model.targets import (
    DIRECTIONS,
    ContrastTarget,
    RewardTarget,
    RowsTarget,
    TeacherTarget,
    TokenTarget,
    divergence_rows,
    tempered,
)

N, D, V = 45, 16, 67


@pytest.fixture
def log_p(seeded):
    return torch.randn(9, 31, generator=seeded(0), dtype=torch.float64).mul(3).log_softmax(-1)


@pytest.fixture
def log_q(seeded):
    return torch.randn(9, 31, generator=seeded(1), dtype=torch.float64).mul(3).log_softmax(-1)


def test_divergences_are_kullback_leibler(log_p, log_q):
    p, q = Categorical(logits=log_p), Categorical(logits=log_q)
    torch.testing.assert_close(divergence_rows(log_p, log_q, "reverse"), kl_divergence(p, q))
    torch.testing.assert_close(divergence_rows(log_p, log_q, "forward"), kl_divergence(q, p))


def test_squared_difference_of_log_probs(log_p, log_q):
    expected = torch.nn.functional.mse_loss(log_p, log_q, reduction="none").sum(-1) / 31
    torch.testing.assert_close(divergence_rows(log_p, log_q, "mse"), expected)


def test_sdtts_own_mse_and_tvd_have_a_column_more():
    """Its `_subs_parameterization` in float32 and `F.mse_loss` over all columns: ours, and the mask's column."""
    V, generator = 31, torch.Generator().manual_seed(0)
    raw = [3 * torch.randn(7, V + 1, generator=generator) for _ in range(2)]

    def public(logits):
        logits = logits.clone()
        logits[:, V] += -1_000_000.0
        return logits - torch.logsumexp(logits, dim=-1, keepdim=True)

    log_p, log_q = (public(logits) for logits in raw)
    d = log_p[:, V] - log_q[:, V]
    assert torch.equal(d * 16, (d * 16).round()) and d.abs().max() > 0.5
    ours = [divergence_rows(log_p[:, :V], log_q[:, :V], direction) for direction in ("mse", "reverse", "forward")]
    torch.testing.assert_close(
        torch.nn.functional.mse_loss(log_p, log_q), ((V * ours[0] + d.square()) / (V + 1)).mean()
    )
    for direction, kl in (("reverse", ours[1]), ("forward", ours[2])):  # while the others give the mask no weight
        p, q = (log_q, log_p) if direction == "reverse" else (log_p, log_q)
        public_kl = torch.nn.functional.kl_div(p, q, log_target=True, reduction="batchmean")
        torch.testing.assert_close(public_kl, kl.mean())


def test_total_variation_is_the_largest_difference_of_an_event(log_p, log_q):
    p, q = log_p.exp(), log_q.exp()
    event = p > q
    torch.testing.assert_close(divergence_rows(log_p, log_q, "tv"), ((p - q) * event).sum(-1))
    apart = torch.tensor([[0.0, -1e6]]), torch.tensor([[-1e6, 0.0]])
    assert divergence_rows(*apart, "tv") == 1.0


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_divergences_are_nonnegative_and_zero_at_equality(log_p, log_q, direction):
    assert (divergence_rows(log_p, log_q, direction) > 0).all()
    assert divergence_rows(log_p, log_p, direction).abs().max() == 0


def test_unknown_direction_names_the_known(log_p, log_q):
    with pytest.raises(ValueError, match=r"sideways.*reverse, forward, mse, tv"):
        divergence_rows(log_p, log_q, "sideways")


def test_tempering(seeded):
    logits = torch.randn(4, 11, generator=seeded(2))
    assert torch.equal(tempered(logits, 1.0), logits.log_softmax(-1))
    torch.testing.assert_close(tempered(logits, 0.5).exp(), (logits.exp() ** 2) / (logits.exp() ** 2).sum(-1)[:, None])
    assert tempered(logits.bfloat16(), 0.5).dtype == torch.float32
    assert tempered(logits.double(), 0.5).dtype == torch.float64


@pytest.fixture
def small_chunks(monkeypatch):
    """Chunks of 32 rows and blocks of 5, so that both borders fall inside the targets."""
    monkeypatch.setattr(shapes, "CHUNK_ELEMENTS", 32 * V)
    monkeypatch.setattr(shapes, "BLOCK_ELEMENTS", 5 * V)


@pytest.fixture
def models(tiny_denoiser):
    """A student and another teacher, with a vocabulary of V and a mask."""
    return tiny_denoiser(V=V, hidden=D), tiny_denoiser(V=V, hidden=D, seed=1)


def inputs(seeded, dtype):
    hidden = torch.randn(N, D, generator=seeded(0), dtype=dtype).requires_grad_()
    teacher_hidden = torch.randn(N, D, generator=seeded(1), dtype=dtype)
    ids = torch.randint(0, V, (N,), generator=seeded(2))
    weight = torch.rand(N, generator=seeded(3), dtype=dtype)
    return hidden, teacher_hidden, ids, weight


def gradients(loss, student, hidden):
    """d loss / d (hidden, weight, bias of the head)."""
    linear = student.backbone.head.linear
    return torch.autograd.grad(loss, (hidden, linear.weight, linear.bias))


def distance(a, b):
    return ((a - b).norm() / b.norm()).item()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_fused_losses_are_plain_autograd(models, seeded, small_chunks, direction, dtype):
    """Three kinds of target on ranges that overlap, with temperatures and weights: loss and gradients to 1e-5."""
    student, teacher = (m.to(dtype) for m in models)
    hidden, teacher_hidden, ids, weight = inputs(seeded, dtype)
    fast = student.head_loss(
        hidden,
        TeacherTarget(teacher, teacher_hidden[:40], 0.8, direction, student_tau=1.5, weight=0.3),
        TokenTarget(ids[10:43], weight[10:43], first=10),
        RowsTarget(lambda p, rows: p[:, 2].square() * torch.arange(3, dtype=dtype)[rows], 3, first=42),
    )
    logits = student.logits(hidden)
    with torch.no_grad():
        log_q = (teacher.logits(teacher_hidden[:40]) / 0.8).log_softmax(-1)
    rows = (
        divergence_rows((logits[:40] / 1.5).log_softmax(-1), log_q, direction),
        -logits[10:43].log_softmax(-1).gather(1, ids[10:43, None])[:, 0],
        logits[42:].log_softmax(-1)[:, 2].square() * torch.arange(3, dtype=dtype),
    )
    total = 0.3 * rows[0].sum() + (weight[10:43] * rows[1]).sum() + rows[2].sum()
    most = 1e-5 if dtype == torch.float32 else 1e-12
    assert distance(fast.total, total) < most
    for a, b in zip(fast.rows, rows, strict=True):
        assert distance(a, b.detach()) < most and not a.requires_grad
    for a, b in zip(gradients(fast.total, student, hidden), gradients(total, student, hidden), strict=True):
        assert a.dtype == dtype and distance(a, b) < most


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_contrast_is_plain_autograd(models, seeded, small_chunks, dtype):
    """Through the student's probabilities alone, beside a target of other rows; it is a difference of two KL."""
    student, teacher = (m.to(dtype) for m in models)
    hidden, teacher_hidden, ids, weight = inputs(seeded, dtype)
    other_hidden = torch.randn(N, D, generator=seeded(6), dtype=dtype)
    target = ContrastTarget(student, other_hidden[:40], teacher, teacher_hidden[:40], weight[5:45], first=5)
    fast = student.head_loss(hidden, TokenTarget(ids[:30], 0.5), target)
    log_p = student.logits(hidden).log_softmax(-1)
    log_f, log_q = (
        m.logits(h[:40]).log_softmax(-1).detach() for m, h in ((student, other_hidden), (teacher, teacher_hidden))
    )
    rows = (
        -log_p[:30].gather(1, ids[:30, None])[:, 0],
        divergence_rows(log_p[5:45], log_q, "reverse") - divergence_rows(log_p[5:45], log_f, "reverse"),
    )
    total = 0.5 * rows[0].sum() + (weight[5:45] * rows[1]).sum()
    most = 1e-5 if dtype == torch.float32 else 1e-12
    assert distance(fast.total, total) < most
    for a, b in zip(fast.rows, rows, strict=True):
        assert distance(a, b.detach()) < most and not a.requires_grad
    for a, b in zip(gradients(fast.total, student, hidden), gradients(total, student, hidden), strict=True):
        assert a.dtype == dtype and distance(a, b) < most


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rewards_of_draws_are_plain_autograd(models, seeded, small_chunks, dtype):
    """Through all log-probs, beside a target of other rows; an id drawn twice counts twice."""
    student = models[0].to(dtype)
    hidden, _, ids, weight = inputs(seeded, dtype)
    drawn = torch.randint(0, V, (40, 6), generator=seeded(4))
    drawn[:, 3] = drawn[:, 1]
    advantages = torch.randn(40, 6, generator=seeded(5), dtype=dtype)
    advantages -= advantages.mean(1, keepdim=True)
    fast = student.head_loss(
        hidden,
        TokenTarget(ids[:30], 0.5),
        RewardTarget(drawn, advantages, weight[5:], first=5),
        RewardTarget(drawn[:2], advantages[:2]),
    )
    log_p = student.logits(hidden).log_softmax(-1)
    rows = (
        -log_p[:30].gather(1, ids[:30, None])[:, 0],
        -(advantages * log_p[5:].gather(1, drawn)).sum(-1),
        -(advantages[:2] * log_p[:2].gather(1, drawn[:2])).sum(-1),
    )
    total = 0.5 * rows[0].sum() + (weight[5:] * rows[1]).sum() + rows[2].sum()
    most = 1e-5 if dtype == torch.float32 else 1e-12
    assert distance(fast.total, total) < most
    for a, b in zip(fast.rows, rows, strict=True):
        assert distance(a, b.detach()) < most and not a.requires_grad
    for a, b in zip(gradients(fast.total, student, hidden), gradients(total, student, hidden), strict=True):
        assert a.dtype == dtype and distance(a, b) < most


def test_advantages_that_do_not_cancel_are_refused():
    with pytest.raises(ValueError, match="must have the sum 0"):
        RewardTarget(torch.zeros(2, 2, dtype=torch.int64), torch.tensor([[1.0, -1.0], [1.0, 1.0]]))
    RewardTarget(torch.zeros(1, 2, dtype=torch.int64), torch.zeros(1, 2))


def test_rewards_make_no_logits_of_tokens_that_were_not_drawn(tiny_denoiser, seeded):
    """Of 500 rows with two draws each: nothing is larger than the head itself, let alone 500 x 900."""
    student = tiny_denoiser(V=900, hidden=4)
    hidden = torch.randn(500, 4, generator=seeded(0)).requires_grad_()
    target = RewardTarget(torch.randint(0, 900, (500, 2), generator=seeded(1)), torch.tensor([[1.0, -1.0]] * 500))
    Largest.elements = 0
    with Largest():
        student.head_loss(hidden, target).total.backward()
    assert Largest.elements <= 901 * 4 + 500 * 2 * 4


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_gradients_by_finite_differences(models, seeded, direction):
    student, teacher = (m.double() for m in models)
    hidden, teacher_hidden, ids, _ = inputs(seeded, torch.float64)
    linear = student.backbone.head.linear

    def loss(hidden, weight, bias):
        distilled = TeacherTarget(teacher, teacher_hidden[:3], 0.9, direction, 1.2, 0.5)
        return head_loss(hidden, weight, bias, V, (distilled, TokenTarget(ids[1:5], 2.0, first=1))).total

    at = hidden[:5].detach().requires_grad_(), linear.weight.detach().requires_grad_(), linear.bias.detach()
    # A loss that was differentiated in its own call is once differentiable, as gradcheck has it.
    assert torch.autograd.gradcheck(loss, (*at[:2], at[2].requires_grad_()), fast_mode=True)


def test_a_factor_outside_the_weights_is_as_good(models, seeded):
    student, _ = models
    hidden, _, ids, _ = inputs(seeded, torch.float32)
    inside = gradients(student.head_loss(hidden, TokenTarget(ids, 0.25)).total, student, hidden)
    outside = gradients(student.head_loss(hidden, TokenTarget(ids)).total * 0.25, student, hidden)
    for a, b in zip(inside, outside, strict=True):
        torch.testing.assert_close(a, b)


class Largest(TorchDispatchMode):
    """Notes the largest tensor any operation makes."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for t in out if isinstance(out, tuple | list) else (out,):
            if isinstance(t, torch.Tensor):
                Largest.elements = max(Largest.elements, t.numel())
        return out


@pytest.mark.parametrize("kind", ["ids", "teacher", "rows"])
def test_no_tensor_is_larger_than_a_chunk(tiny_denoiser, seeded, monkeypatch, kind):
    """Of 2,000 rows of a vocabulary of 300: nothing beyond 32 x 300 is ever made, in the loss and in its gradient."""
    student, teacher = (tiny_denoiser(V=300, hidden=4, seed=seed) for seed in (0, 1))
    monkeypatch.setattr(shapes, "CHUNK_ELEMENTS", 32 * 300)
    hidden = torch.randn(2000, 4, generator=seeded(0)).requires_grad_()
    targets = {
        "ids": TokenTarget(torch.arange(2000) % 300),
        "teacher": TeacherTarget(teacher, hidden.detach() + 1),
        "rows": RowsTarget(lambda log_p, rows: log_p[:, 0], 2000),
    }
    Largest.elements = 0
    with Largest():
        student.head_loss(hidden, targets[kind]).total.backward()
    assert Largest.elements == 32 * 300
    with Largest():
        student.log_x_theta(hidden)
    assert Largest.elements == 2000 * 300


def test_bfloat16_autocast_multiplies_in_bfloat16(models, seeded, small_chunks):
    student, teacher = models
    hidden, teacher_hidden, ids, _ = inputs(seeded, torch.float32)

    def run():
        loss = student.head_loss(hidden, TeacherTarget(teacher, teacher_hidden), TokenTarget(ids, 0.5)).total
        return loss, gradients(loss, student, hidden)

    exact, exact_gradients = run()
    with torch.autocast("cpu", torch.bfloat16):
        rough, rough_gradients = run()
    assert rough.dtype == torch.float32 and 0 < distance(rough, exact) < 0.01
    for a, b in zip(rough_gradients, exact_gradients, strict=True):
        assert a.dtype == torch.float32 and 0 < distance(a, b) < 0.02


def test_tied_heads_gather_both_gradients(models, seeded):
    """Embedding and head as one parameter: the sum of what each alone would get."""
    apart = models[0]
    apart.backbone.head.linear.weight.data.copy_(apart.backbone.embedding.data)
    tied = copy.deepcopy(apart)
    tied.backbone.head.linear.weight = tied.backbone.embedding
    z, ids, t = torch.randint(0, V + 1, (3, 8), generator=seeded(0)), torch.arange(24), torch.ones(3)
    for model in (apart, tied):
        model.head_loss(model.hidden(z, t), TokenTarget(ids)).total.backward()
    expected = apart.backbone.embedding.grad + apart.backbone.head.linear.weight.grad
    torch.testing.assert_close(tied.backbone.embedding.grad, expected)


def test_frozen_parts_get_no_gradient(models, seeded):
    student, _ = models
    hidden, _, ids, _ = inputs(seeded, torch.float32)
    student.backbone.head.linear.requires_grad_(False)
    loss = student.head_loss(hidden, TokenTarget(ids)).total
    loss.backward()
    assert hidden.grad is not None and student.backbone.head.linear.weight.grad is None
    for context in (torch.no_grad(), torch.inference_mode()):
        with context:
            torch.testing.assert_close(student.head_loss(hidden, TokenTarget(ids)).total, loss)


def test_rows_without_a_target_cost_nothing(models, seeded):
    student, _ = models
    hidden, _, ids, _ = inputs(seeded, torch.float32)
    total, (rows,) = student.head_loss(hidden, TokenTarget(ids[20:30], first=20))
    total.backward()
    assert rows.shape == (10,) and math.isclose(total.item(), rows.sum().item(), rel_tol=1e-6)
    assert (
        hidden.grad[:20].count_nonzero() == hidden.grad[30:].count_nonzero() == 0 != hidden.grad[20:30].count_nonzero()
    )
    assert isinstance(student.head_loss(hidden), HeadLoss) and student.head_loss(hidden).total == 0


def test_targets_beyond_the_rows_are_refused(models):
    for first, n in ((-1, 3), (3, 3), (0, 6)):
        with pytest.raises(ValueError, match=f"rows {first} to {first + n}: there are 5"):
            models[0].head_loss(torch.zeros(5, D), TokenTarget(torch.zeros(n, dtype=torch.int64), first=first))


def test_unknown_direction_of_a_teacher(models):
    with pytest.raises(ValueError, match=r"sideways.*reverse, forward, mse, tv"):
        TeacherTarget(models[1], torch.zeros(1, D), direction="sideways")
