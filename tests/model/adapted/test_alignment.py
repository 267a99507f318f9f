"""The loss of `mcd adapt`: masked cross-entropy by both weights, and the alignment with the autoregressive network."""

import copy

import pytest
import torch
import torch.nn.functional as F

from mcd.checkpoints.autoregressive import adapted, open_autoregressive
from mcd.model.lora import LoRA
from mcd.objective import Clock
from mcd.objective.adapt import Adapt
from mcd.process.draws import Draws
from mcd.training.state import teacher_of

BEGIN, SPARE, B, L = 0, 4, 4, 16


@pytest.fixture
def student(causal):
    return adapted(open_autoregressive(str(causal.folder))).model


@pytest.fixture
def x0(seeded):
    return torch.randint(5, 39, (B, L), generator=seeded(3))


NOTHING = torch.zeros(B, L, dtype=torch.bool)
"""No token is diffused, so none is masked and there is no cross-entropy."""


def loss_of(objective, student, teacher, x0, diffused=None, seed=0):
    draws = Draws(torch.Generator().manual_seed(seed), *x0.shape, diffused=diffused)
    return objective.loss(student, teacher, x0, Clock(), draws)


def noised(x0, t_min=1e-3, seed=0):
    """z_t and t of `loss_of`."""
    draws = Draws(torch.Generator().manual_seed(seed), *x0.shape)
    t = draws.t(t_min, 1.0)
    return torch.where(draws.u() > 1.0 - 0.999 * t[:, None], SPARE, x0), t


@pytest.mark.parametrize("max_weight", [3.0, float("inf")])
def test_both_weights_are_the_sums_that_they_say(student, x0, max_weight):
    z_t, t = noised(x0)
    masked = z_t == SPARE
    with torch.no_grad():
        log_p = student.log_x_theta(student.hidden(z_t, t)).view(B, L, -1)
        cross_entropy = -log_p.gather(-1, x0[..., None])[..., 0]
        mean = loss_of(Adapt(), student, None, x0)
        bound = loss_of(Adapt(weights="bound", max_weight=max_weight), student, None, x0)
    torch.testing.assert_close(mean.total, cross_entropy[masked].mean())
    weight = (1.0 / t).clamp(max=max_weight)[:, None]  # of the log-linear schedule
    torch.testing.assert_close(bound.total, (weight * cross_entropy * masked).sum() / (B * L), rtol=1e-4, atol=1e-5)
    for loss in (mean, bound):
        torch.testing.assert_close(loss.terms["cross_entropy"], cross_entropy[masked].mean())
        assert loss.counts["tokens_masked"] == masked.sum() and "alignment" not in loss.terms


def states_of(network, ids, full):
    """What each block of the library's network gives, (B, L + 1, D)."""
    layers = network.get_submodule("transformer.h" if hasattr(network, "transformer") else "model.layers")
    ids = torch.cat((torch.full((len(ids), 1), BEGIN), ids), dim=1)
    everything, states = torch.zeros(len(ids), 1, ids.shape[1], ids.shape[1]), []
    hooks = [layer.register_forward_hook(lambda module, args, out: states.append(out)) for layer in layers]
    network(input_ids=ids, attention_mask=everything if full else None, use_cache=False)
    for hook in hooks:
        hook.remove()
    return states


def test_the_alignment_is_one_minus_the_cosine_through_the_library(causal, student, x0):
    """Of all blocks and positions: masked rows under full attention, against clean rows under causal attention."""
    with torch.no_grad():
        causal.network.get_input_embeddings().weight[SPARE] = student.backbone.table()[SPARE]
        z_t, _ = noised(x0)
        pairs = zip(states_of(causal.network, z_t, True), states_of(causal.network, x0, False), strict=True)
        expected = torch.stack([1.0 - F.cosine_similarity(h, g, dim=-1) for h, g in pairs]).mean()
        found = loss_of(Adapt(align=10.0), student, teacher_of(student, shared=True), x0)
        plain = loss_of(Adapt(), student, None, x0)
    torch.testing.assert_close(found.terms["alignment"], expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found.total, plain.total + 10.0 * expected, atol=1e-4, rtol=1e-5)
    assert expected > 0.01


def test_equal_attention_on_equal_rows_is_aligned(student, x0):
    """A student that attends as the teacher does, and sees all tokens: the loss is 0, of rounding alone."""
    teacher = teacher_of(student, shared=True)
    with torch.no_grad():
        assert loss_of(Adapt(align=1.0), student, teacher, x0, NOTHING).total > 0.01  # attention is full
        with student.backbone.causally():
            assert loss_of(Adapt(align=1.0), student, teacher, x0, NOTHING).total.abs() < 1e-6


@pytest.mark.parametrize("recomputed", [False, True])
def test_its_gradient_reaches_the_factors_and_no_weight_of_the_teacher(student, x0, recomputed):
    pytest.importorskip("peft")
    student.add_lora(LoRA(lora_rank=2))
    teacher = teacher_of(student, shared=True)
    student.backbone.checkpointing = recomputed
    student.train()
    with torch.no_grad():
        for p in student.parameters():
            if p.requires_grad:
                p.add_(0.1)
    loss_of(Adapt(align=1.0), student, teacher, x0, NOTHING).total.backward()
    for name, p in student.named_parameters():
        assert p.requires_grad == (p.grad is not None), name
        last = "layers.1." in name or "h.1." in name
        assert p.grad is None or p.grad.abs().sum() > 0 or (last and "mlp" not in name), name
    assert all(p.grad is None for p in teacher.parameters())


def test_blocks_computed_again_give_the_same_gradient(student, x0):
    teacher = teacher_of(student, shared=True)
    other = copy.deepcopy(student)
    other.backbone.checkpointing = True
    gradients = []
    for model in (student, other):
        model.train()
        torch.manual_seed(0)
        loss_of(Adapt(align=1.0), model, teacher, x0).total.backward()
        gradients.append([p.grad for p in model.parameters()])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)


def test_without_a_network_that_was_autoregressive_there_is_no_alignment(tiny_denoiser, x0):
    model = tiny_denoiser(V=41)
    assert not Adapt().needs_teacher and Adapt(align=1.0).needs_teacher
    with pytest.raises(ValueError, match="--align: is for networks of Hugging Face"):
        loss_of(Adapt(align=1.0), model, model, x0)
