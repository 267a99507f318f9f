"""Networks of `transformers` behind the calls of a denoiser: the same numbers as their own forward passes."""

import copy

import pytest
import torch

from mcd.checkpoints.folder import from_pretrained
from mcd.model.adapted.families import FAMILIES
from mcd.model.linear import Linear
from mcd.model.targets import TokenTarget

K, MASK = 41, 4
T = torch.tensor([0.1, 0.5, 0.9])


@pytest.fixture
def model(theirs):
    return from_pretrained(str(theirs.folder))


def said(model):
    """Which of the K columns are not forbidden, (K,) bool."""
    found = torch.ones(K, dtype=torch.bool)
    found[list(model.config.forbidden)] = False
    return found


@pytest.mark.parametrize("kind", [kind for kind, family in FAMILIES.items() if not family.causal], indirect=True)
def test_logits_are_those_of_the_library(model, theirs, z):
    """And of nothing else: the mask and rows without a token are never said."""
    with torch.no_grad():
        expected = theirs.logits(z)
        logits = model.logits(model.hidden(z, T)).view(3, 16, K)
    kept = said(model)
    torch.testing.assert_close(logits[..., kept], expected[..., kept], atol=1e-5, rtol=1e-5)
    assert not kept[[MASK, 39, 40]].any() and kept[6:39].all() and kept[3]
    p = model.log_x_theta(model.hidden(z, T)).exp()
    assert (p[:, ~kept] == 0).all()
    torch.testing.assert_close(p.sum(-1), torch.ones(48))
    torch.testing.assert_close(p[:, kept], expected[..., kept].softmax(-1).flatten(0, 1), atol=1e-5, rtol=1e-4)


def test_attention_is_full(model, z):
    """The last token changes what is said of the first, and the first what is said of the last."""
    with torch.no_grad():
        before = model.logits(model.hidden(z[:1], T[:1])).view(16, K)
        for changed, seen in ((15, 0), (0, 14)):
            other = z[:1].clone()
            other[0, changed] = 6 + (other[0, changed] + 1) % 33
            assert not torch.allclose(model.logits(model.hidden(other, T[:1]))[seen], before[seen], atol=1e-4)


def test_rows_are_the_full_result_indexed(model, z):
    rows = (z == MASK).flatten().nonzero()[:, 0].flip(0)
    full = model.hidden(z, T)
    assert full.shape == (48, model.config.backbone.hidden)
    torch.testing.assert_close(model.hidden(z, T, rows=rows), full[rows])
    assert model.hidden(z, T, rows=rows[:0]).shape == (0, full.shape[1])
    torch.testing.assert_close(model.hidden(z, T, rows=rows[:0]), full[:0])


def test_in_groups_a_row_has_the_same_bits_however_many_others_are_wanted(model, z):
    with torch.no_grad():
        rows = torch.arange(48)
        whole = model.hidden(z, T, rows=rows, group=8)
        for part in (rows[:1], rows[3:20], rows[40:]):
            assert torch.equal(model.hidden(z, T, rows=part, group=8), whole[part])


def test_time_is_not_read_and_soft_tokens_are_mixtures(model, z):
    with torch.no_grad():
        hidden = model.hidden(z, T)
        assert torch.equal(hidden, model.hidden(z, 1 - T))
        one_hot = torch.nn.functional.one_hot(z, K).float()
        torch.testing.assert_close(model.hidden(one_hot, T), hidden)


def test_a_tied_projection_is_one_tensor_with_both_gradients(model, theirs, z):
    """Against autograd through the library's own pass, whose gradient of a tied tensor is the sum over its uses."""
    x0 = torch.arange(48) % 33 + 6
    model.head_loss(model.hidden(z, T), TokenTarget(x0)).total.backward()
    network = copy.deepcopy(theirs.network)
    logits = theirs._replace(network=network).logits(z)
    logits = logits.masked_fill(~said(model), -torch.inf).flatten(0, 1)
    torch.nn.functional.cross_entropy(logits, x0, reduction="sum").backward()
    expected = {name: p.grad for name, p in network.named_parameters()}
    names = theirs._replace(network=network).stored()
    assert len(list(model.parameters())) == len(expected)
    # the library drops the gradient of the padding's row, which nothing here reads
    own = {model.backbone.stored_name(n.removeprefix("backbone.")): p.grad for n, p in model.named_parameters()}
    assert own.keys() == names.keys()
    for (name, _), gradient in zip(names.items(), expected.values(), strict=True):
        kept = slice(1, None) if gradient.shape[0] == K else slice(None)
        torch.testing.assert_close(own[name][kept], gradient[kept], rtol=1e-3, atol=2e-5, msg=name)


def test_checkpointing_changes_no_gradient_and_keeps_fewer_tensors(model, z):
    def run(on):
        kept = []
        model.train()
        model.backbone.checkpointing = on
        model.zero_grad()
        torch.manual_seed(0)
        with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
            hidden = model.hidden(z, T)
        model.head_loss(hidden, TokenTarget(torch.full((48,), 7))).total.backward()
        return [p.grad.clone() for p in model.parameters()], sum(kept)

    (plain, much), (again, little) = run(False), run(True)
    for a, b in zip(plain, again, strict=True):
        torch.testing.assert_close(a, b)
    assert little < much
    assert torch.equal(run(False)[0][0], plain[0])  # and it can be turned off again


@pytest.mark.parametrize("kind", ["bert", "roberta", "modernbert", "distilbert", "electra"])
def test_dropout_follows_the_mode(published, kind, z):
    model = from_pretrained(str(published(kind).folder))
    if kind == "modernbert":
        pytest.skip("it has no dropout by default")
    assert torch.equal(model.hidden(z, T), model.hidden(z, T))
    model.train()
    assert not torch.equal(model.hidden(z, T), model.hidden(z, T))


def test_the_layers_to_shard_are_the_blocks(model):
    layers = model.shardable_layers()
    assert len(layers) == 2 and type(layers[0]) is type(layers[1])
    inside = {id(p) for layer in layers for p in layer.parameters()}
    outside = [p for p in model.parameters() if id(p) not in inside]
    assert inside and model.backbone.table() in set(outside)
    assert len(inside) == sum(len(list(layer.parameters())) for layer in layers)


def test_products_are_ours(model):
    layers = [m for m in model.modules() if isinstance(m, torch.nn.Linear)]
    assert layers and all(type(m) is Linear for m in layers)


def test_a_whole_model_in_bfloat16(model, z):
    exact = model.log_x_theta(model.hidden(z, T))
    rough = model.bfloat16().log_x_theta(model.hidden(z, T))
    kept = said(model)
    assert rough.dtype == torch.float32 and rough.isfinite().all() and (rough.exp()[:, ~kept] == 0).all()
    torch.testing.assert_close(rough[:, kept], exact[:, kept], atol=0.3, rtol=0)


def test_a_row_longer_than_the_model_is_refused(model):
    assert model.config.backbone.length == 24
    model.hidden(torch.full((1, 24), MASK), torch.ones(1))
    with pytest.raises(ValueError, match="length 25 is beyond the model's 24"):
        model.hidden(torch.full((1, 25), MASK), torch.ones(1))


@pytest.mark.parametrize("kind", [kind for kind, family in FAMILIES.items() if not family.causal], indirect=True)
def test_features_are_the_states_of_the_library_and_later_blocks_do_not_run(model, theirs, z):
    """Each position's own states, in its own place also where the outputs are shifted."""
    family = FAMILIES[theirs.kind]
    theirs_ran, ran = [], []
    blocks = theirs.network.get_submodule(f"{family.body}.{family.layers}")
    hooks = [b.register_forward_hook(lambda module, args, out: theirs_ran.append(out)) for b in blocks]
    try:
        with torch.no_grad():
            theirs.logits(z)
    finally:
        for hook in hooks:
            hook.remove()
    expected = [out[0] if isinstance(out, tuple) else out for out in theirs_ran]
    for block in model.backbone.shardable_layers():
        block.register_forward_hook(lambda module, args, out: ran.append(out))
    with torch.no_grad():
        before = model.hidden(z, T)
        for layer in (1, 2):
            ran.clear()
            torch.testing.assert_close(model.features(z, layer), expected[layer - 1], atol=1e-5, rtol=1e-5)
            assert len(ran) == layer
        assert torch.equal(model.hidden(z, T), before) and model.depth == 2
