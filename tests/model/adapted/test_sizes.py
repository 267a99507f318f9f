"""Sizes counted without weights, against a network with weights, its operations and what it keeps."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from mcd.checkpoints.autoregressive import adapted, open_autoregressive
from mcd.checkpoints.folder import from_pretrained
from mcd.model import linear
from mcd.model.adapted.config import AdaptedConfig
from mcd.model.adapted.network import Adapted
from mcd.model.sizes import sizes_of
from mcd.training.estimate import Setup, kept_per_token


def compare(model, monkeypatch):
    monkeypatch.setattr(linear, "ONEDNN", False)  # whose products torch does not count
    config, blocks = model.config.backbone, model.backbone.shardable_layers()
    sizes = sizes_of(config)
    assert sizes.parameters == sum(p.numel() for p in model.parameters())
    assert sizes.block_parameters == sum(p.numel() for p in blocks[0].parameters())
    assert (sizes.layers, sizes.rows, sizes.head) == (len(blocks), *model.backbone.table().shape)

    B, L = 2, 16
    z, rows = torch.randint(config.tokens, (B, L)), torch.arange(B * L)[::2]
    with (
        FlopCounterMode(display=False) as counted,
        torch.no_grad(),
        sdpa_kernel(SDPBackend.MATH),
    ):  # others are not counted
        model.hidden(z, torch.zeros(B), rows=rows)
    positions = B * (L + (config.start is not None))  # a start of text is a position of its own
    assert positions * sizes.forward_flops(L, 0.5) == pytest.approx(counted.get_total_flops(), rel=0.08)


def test_masked_networks(theirs, monkeypatch):
    compare(from_pretrained(str(theirs.folder)), monkeypatch)


def test_causal_networks(causal, monkeypatch):
    compare(adapted(open_autoregressive(str(causal.folder)), None).model, monkeypatch)


def saved_bytes(config, B, L):
    """Bytes of the distinct storages that the forward pass keeps for the backward, beside the weights."""
    network = Adapted(config).train()
    own, kept = {p.untyped_storage().data_ptr() for p in network.parameters()}, {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        network(network.table()[torch.randint(config.tokens, (B, L))], torch.zeros(B))
    return sum(kept.values())


@pytest.mark.parametrize(("kind", "least", "most"), [("bert", 0.7, 0.9), ("llama", 0.9, 1.1), ("gpt2", 1.2, 1.5)])
def test_what_a_block_keeps_is_about_what_is_estimated(kind, least, most):
    """The shares are those of docs/planning.md: GPT-2's GELU is made of many small operations."""
    sizes = {"hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 256, "max_position_embeddings": 520}
    if kind == "gpt2":
        sizes = {
            "n_embd": 64,
            "n_head": 4,
            "n_positions": 520,
            "resid_pdrop": 0.0,
            "embd_pdrop": 0.0,
            "attn_pdrop": 0.0,
        }
    if kind == "bert":
        sizes |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    depth = "n_layer" if kind == "gpt2" else "num_hidden_layers"
    settings = {"model_type": kind, "vocab_size": 100, "bos_token_id": 1, "eos_token_id": 1, "pad_token_id": 0, **sizes}
    two, three = (AdaptedConfig(settings | {depth: n}, (99,), 100, start=None if kind == "bert" else 1) for n in (2, 3))
    B, L = 2, 512
    setup = Setup(sizes_of(two), B, L)
    ratio = (saved_bytes(three, B, L) - saved_bytes(two, B, L)) / (kept_per_token(setup) * setup.tokens)
    assert least < ratio < most
