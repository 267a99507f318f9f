"""The three calls of a denoiser, under SUBS."""

import pytest
import torch

from mcd.model.denoiser import DenoiserConfig
from mcd.model.dit import DiTConfig
from mcd.model.targets import TeacherTarget, TokenTarget, divergence_rows
from mcd.process.schedule import Cosine, Linear, LogLinear

V, MASK = 23, 23


@pytest.fixture
def z(seeded):
    z = torch.randint(0, V, (3, 16), generator=seeded(5))
    return z.masked_fill(torch.rand(z.shape, generator=seeded(6)) < 0.5, MASK)


T = torch.tensor([0.1, 0.5, 0.9])


def test_rows_are_the_full_result_indexed(tiny_denoiser, z):
    model = tiny_denoiser()
    rows = (z == MASK).flatten().nonzero()[:, 0]
    full = model.hidden(z, T)
    assert full.shape == (48, 16)
    torch.testing.assert_close(model.hidden(z, T, rows=rows), full[rows])
    assert model.hidden(z, T, rows=rows[:0]).shape == (0, 16)


def test_one_hot_soft_tokens_are_ids(tiny_denoiser, z):
    model = tiny_denoiser()
    one_hot = torch.nn.functional.one_hot(z, V + 1).float()
    torch.testing.assert_close(model.hidden(one_hot, T), model.hidden(z, T))


def test_soft_tokens_are_mixtures_of_embeddings(tiny_denoiser, z):
    model = tiny_denoiser()
    soft = torch.softmax(torch.arange(V + 1.0), 0).expand(*z.shape, V + 1)
    torch.testing.assert_close(model.embed(soft)[1, 2], (soft[1, 2][:, None] * model.backbone.embedding).sum(0))


def test_noise_is_added_to_the_embedding(tiny_denoiser, z, seeded):
    """An offset of the mask's embedding is the same as noise at the masked tokens."""
    model, shifted = tiny_denoiser(), tiny_denoiser()
    offset = torch.randn(16, generator=seeded(0))
    with torch.no_grad():
        shifted.backbone.embedding[MASK] += offset
    noise = (z == MASK)[..., None] * offset
    torch.testing.assert_close(model.hidden(z, T, noise=noise), shifted.hidden(z, T))
    assert not torch.allclose(model.hidden(z, T, noise=noise), model.hidden(z, T))


def test_subs(tiny_denoiser, z):
    """Probabilities over real tokens sum to one; a visible token keeps its value; a masked row ignores the mask."""
    model = tiny_denoiser()
    hidden = model.hidden(z, T)
    log_p = model.log_x_theta(hidden, z.flatten())
    assert log_p.shape == (48, V)
    torch.testing.assert_close(log_p.exp().sum(-1), torch.ones(48))
    for row, token in zip(log_p, z.flatten().tolist(), strict=True):
        if token != MASK:
            assert row.exp().tolist() == [float(k == token) for k in range(V)]
    masked = z.flatten() == MASK
    torch.testing.assert_close(log_p[masked], model.log_x_theta(hidden[masked]))
    linear = model.backbone.head.linear
    raw = hidden @ linear.weight.T + linear.bias
    raw[:, MASK] = -1e6  # as in the public code
    torch.testing.assert_close(log_p[masked], raw[masked].log_softmax(-1)[:, :V])


def test_tau_divides_the_raw_logits(tiny_denoiser, z):
    model = tiny_denoiser()
    hidden = model.hidden(z, T)
    torch.testing.assert_close(model.log_x_theta(hidden, tau=0.6), (model.logits(hidden) / 0.6).log_softmax(-1))


def test_only_a_time_conditioned_network_reads_t(tiny_denoiser, z):
    free, conditioned = tiny_denoiser(), tiny_denoiser(time_conditioned=True)
    assert torch.equal(free.hidden(z, T), free.hidden(z, 1 - T))
    assert not torch.allclose(conditioned.hidden(z, T), conditioned.hidden(z, 1 - T))
    # sigma = 0 at t = 0: there both are the same network
    torch.testing.assert_close(conditioned.hidden(z, torch.zeros(3)), free.hidden(z, T))


@pytest.mark.parametrize("schedule", [LogLinear(), Linear(), Cosine()], ids=repr)
def test_time_conditioning_is_finite_from_noise_to_clean(tiny_denoiser, z, schedule):
    model = tiny_denoiser(time_conditioned=True, schedule=schedule)
    for t in (0.0, 1e-5, 0.5, 1.0):
        assert model.hidden(z, torch.full((3,), t)).isfinite().all()


def test_forward_kl_to_a_visible_token_is_cross_entropy(tiny_denoiser, z):
    """Under SUBS a teacher that sees x0 is certain of it, so KL(teacher || student) there is CE(x0) (Eq. 14)."""
    model = tiny_denoiser()
    x0 = torch.arange(48) % V
    certain = model.log_x_theta(model.hidden(z, T), x0).clamp(min=-1e6)
    log_p = model.log_x_theta(model.hidden(z, T))
    torch.testing.assert_close(divergence_rows(log_p, certain, "forward"), -log_p[torch.arange(48), x0])
    # and KL(student || teacher) is about (1 - p(x0)) 1e6: why it must not be taken there
    reverse = divergence_rows(log_p, certain, "reverse")
    torch.testing.assert_close(reverse / 1e6, 1 - log_p.exp()[torch.arange(48), x0], atol=1e-4, rtol=0)


@pytest.mark.parametrize("target", ["ids", "reverse", "forward"])
def test_head_loss_is_autograd_through_log_x_theta(tiny_denoiser, z, target):
    student, teacher = tiny_denoiser(), tiny_denoiser(seed=1)
    rows = (z == MASK).flatten().nonzero()[:, 0]
    x0 = (rows * 7) % V
    weight = torch.linspace(0.5, 2.0, len(rows))

    student.zero_grad()
    hidden = student.hidden(z, T, rows=rows)
    teacher_hidden = teacher.hidden(z, T, rows=rows)
    of_teacher = target if target != "ids" else "reverse"
    fast_target = TokenTarget(x0, weight) if target == "ids" else None
    total, (fast,) = student.head_loss(
        hidden, fast_target or TeacherTarget(teacher, teacher_hidden, 0.8, of_teacher, weight=weight)
    )
    total.backward()
    gradients = {name: p.grad.clone() for name, p in student.named_parameters()}
    assert all(p.grad is None for p in teacher.parameters())

    student.zero_grad()
    p = student.log_x_theta(student.hidden(z, T, rows=rows))
    with torch.no_grad():
        q = teacher.log_x_theta(teacher_hidden, tau=0.8)
    if target == "ids":
        slow = torch.stack([-row[k] for row, k in zip(p, x0, strict=True)])
    elif target == "reverse":
        slow = torch.stack([sum(p[n, k].exp() * (p[n, k] - q[n, k]) for k in range(V)) for n in range(len(p))])
    else:
        slow = torch.stack([sum(q[n, k].exp() * (q[n, k] - p[n, k]) for k in range(V)) for n in range(len(p))])
    torch.testing.assert_close(fast, slow, rtol=1e-4, atol=1e-6)
    (slow * weight).sum().backward()
    for name, parameter in student.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-3, atol=1e-5, msg=name)


def test_no_rows_cost_nothing_and_have_a_gradient(tiny_denoiser, z):
    model = tiny_denoiser()
    hidden = model.hidden(z, T, rows=torch.empty(0, dtype=torch.int64))
    loss = model.head_loss(hidden, TokenTarget(torch.empty(0, dtype=torch.int64))).total
    loss.backward()
    assert loss.item() == 0.0
    assert model.backbone.head.linear.weight.grad.count_nonzero() == 0


def test_bfloat16_autocast_stays_close_and_gives_float32(tiny_denoiser, z):
    model = tiny_denoiser(scale=0.5)
    exact = model.log_x_theta(model.hidden(z, T))
    with torch.autocast("cpu", torch.bfloat16):
        log_p = model.log_x_theta(model.hidden(z, T))
    assert log_p.dtype == torch.float32
    torch.testing.assert_close(log_p.exp().sum(-1), torch.ones(48))
    torch.testing.assert_close(log_p, exact, rtol=0, atol=0.06)


def test_a_whole_model_in_bfloat16_runs(tiny_denoiser, z):
    model = tiny_denoiser(scale=0.5).bfloat16()
    log_p = model.log_x_theta(model.hidden(z, T))
    assert log_p.dtype == torch.float32
    torch.testing.assert_close(log_p.exp().sum(-1), torch.ones(48))


def test_a_row_longer_than_the_model_is_refused(tiny_denoiser):
    with pytest.raises(ValueError, match="length 17 is beyond the model's 16"):
        tiny_denoiser().hidden(torch.zeros(1, 17, dtype=torch.int64), torch.ones(1))


def test_uniform_diffusion_has_no_mask(tiny_denoiser, z):
    model = tiny_denoiser(process="uniform")
    assert model.config.vocab_size == V
    with pytest.raises(ValueError, match="no mask"):
        _ = model.mask_id
    assert model.log_x_theta(model.hidden(z % V, T)).shape == (48, V)


@pytest.mark.parametrize("mask_id", [24, -1, 5])
def test_a_mask_that_is_not_the_last_row_is_refused(mask_id):
    with pytest.raises(ValueError, match=f"mask_id {mask_id} is not the last of the 24 rows"):
        DenoiserConfig(DiTConfig(rows=24, hidden=16, heads=2), mask_id=mask_id)


@pytest.mark.parametrize(
    "process, rows, mask_id, causal",
    [("masked", 24, 23, False), ("uniform", 23, None, False), ("autoregressive", 24, 23, True)],
)
def test_the_process_follows_from_the_configuration(process, rows, mask_id, causal, tiny_denoiser):
    model = tiny_denoiser(V=23, process=process)
    config = model.config
    assert (config.process, config.backbone.rows, config.mask_id, config.backbone.causal) == (
        process,
        rows,
        mask_id,
        causal,
    )
    assert model.blank_id == config.vocab_size == 23


def test_a_causal_backbone_needs_a_start_of_text():
    with pytest.raises(ValueError, match="start of text"):
        DenoiserConfig(DiTConfig(8, 8, 1, 2, causal=True), None)


@pytest.mark.parametrize("time_conditioned", [False, True])
def test_features_are_the_states_of_the_full_pass_and_later_blocks_do_not_run(tiny_denoiser, z, time_conditioned):
    model = tiny_denoiser(layers=3, time_conditioned=time_conditioned)
    ran = []
    for block in model.backbone.blocks:
        block.register_forward_hook(lambda module, args, output: ran.append(output))
    with torch.no_grad():
        full = model.hidden(z, torch.zeros(3))
        states, ran[:] = list(ran[:2]), []
        for layer in (1, 2):
            torch.testing.assert_close(model.features(z, layer), states[layer - 1])
            assert len(ran) == layer
            ran.clear()
        last = model.features(z, 3)
        cond = model.backbone.time(torch.zeros(1))[:, None]
        torch.testing.assert_close(model.backbone.head.features(last, cond).flatten(0, 1), full)
    assert model.depth == 3
    for layer in (0, 4):
        with pytest.raises(ValueError, match=f"layer {layer}: must be 1 to 3"):
            model.features(z, layer)
    with pytest.raises(ValueError, match="length 17 is beyond the model's 16"):
        model.features(torch.zeros(1, 17, dtype=torch.int64), 1)
