"""The estimate against what really happens: saved tensors are counted, operations are counted, shards are added up."""

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from mcd.model import linear
from mcd.model.denoiser import Denoiser, DenoiserConfig
from mcd.model.dit import SIZES, DiTConfig
from mcd.model.sizes import sizes_of
from mcd.objective.base import Clock
from mcd.objective.mcd import MCD
from mcd.process.draws import Draws
from mcd.training.estimate import DEVICES, Setup, communication, flops, kept_per_token, memory, seconds

SMALL = Setup(sizes_of(DiTConfig(50_258, **SIZES["small"])), batch_size=8, length=1024)


def saved_bytes(config, B, half):
    """Bytes of the distinct storages that the forward pass keeps for the backward, beside the weights."""
    torch.manual_seed(0)
    model = Denoiser(DenoiserConfig(config, config.rows - 1)).train()
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    z = torch.randint(config.rows, (B, config.length))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x), torch.autocast("cpu", enabled=half):
        model.hidden(z, torch.rand(B))
    return sum(kept.values())


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("length", [32, 128, 192, 512])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_what_a_block_keeps_is_what_autograd_saves(precision, length, dropout):
    B, half = 4, precision == "bf16-mixed"
    config = DiTConfig(41, 64, 2, 4, length, cond_dim=8, dropout=dropout, gate_init=1.0)
    one_more = saved_bytes(replace(config, layers=3), B, half) - saved_bytes(config, B, half)
    setup = Setup(sizes_of(config), B, length, precision=precision, on_cpu=True)
    expected = kept_per_token(setup) * setup.tokens + (2 * config.block_parameters if half else 0)
    assert expected == pytest.approx(one_more, rel=0.03)


def test_operations_are_those_that_are_made(monkeypatch):
    """Those of a backbone with half of the positions asked for; torch counts them."""
    monkeypatch.setattr(linear, "ONEDNN", False)  # whose products torch does not count
    config = DiTConfig(41, 64, 3, 4, 128, cond_dim=8)
    model, B = Denoiser(DenoiserConfig(config, 40)), 2
    z, rows = torch.randint(41, (B, 128)), torch.arange(B * 128)[::2]
    expected = flops(Setup(sizes_of(config), B, 128, distils=False))
    with FlopCounterMode(display=False) as counted, torch.no_grad():
        model.hidden(z, torch.zeros(B), rows=rows)
    assert expected["student, forward"] == pytest.approx(counted.get_total_flops(), rel=0.02)
    with FlopCounterMode(display=False) as counted:
        model.hidden(z, torch.zeros(B), rows=rows).sum().backward()
    both = expected["student, forward"] + expected["student, backward"]
    assert both == pytest.approx(counted.get_total_flops(), rel=0.03)


@pytest.mark.heavy
@pytest.mark.parametrize("checkpointing", [False, True])
def test_operations_of_a_whole_step(monkeypatch, checkpointing):
    monkeypatch.setattr(linear, "ONEDNN", False)
    config, B = DiTConfig(301, 64, 3, 4, 32, cond_dim=8), 128
    student, teacher = (Denoiser(DenoiserConfig(config, 300)) for _ in range(2))
    student.train().backbone.checkpointing = checkpointing
    x0 = torch.randint(300, (B, 32))
    setup = Setup(sizes_of(config), B, 32, checkpointing=checkpointing)
    with FlopCounterMode(display=False) as counted:
        MCD(delta0=1e-3).loss(
            student, teacher.eval(), x0, Clock(), Draws(torch.Generator().manual_seed(0), B, 32)
        ).total.backward()
    assert sum(flops(setup).values()) == pytest.approx(counted.get_total_flops(), rel=0.04)


def test_shards_hold_what_one_device_held():
    one, eight = (memory(replace(SMALL, devices=n, strategy="fsdp")) for n in (1, 8))
    for name in ("weights", "optimiser (AdamW)", "EMA", "teacher", "gradients"):
        assert 8 * eight[name] == one[name]
    assert 8 * eight["activations"] == one["activations"]
    assert memory(replace(SMALL, devices=8))["weights"] == one["weights"]


def test_parts_and_recomputation_lower_the_peak_and_cost_what_they_cost():
    plain, parts = memory(SMALL), memory(replace(SMALL, accumulate=4))
    assert parts["activations"] == plain["activations"] / 4 and parts["peak"] < plain["peak"]
    again = replace(SMALL, checkpointing=True)
    assert memory(again)["peak"] < plain["peak"]
    added = sum(flops(again).values()) - sum(flops(SMALL).values())
    assert added == flops(SMALL)["student, forward"]
    assert sum(flops(replace(SMALL, accumulate=4)).values()) == pytest.approx(sum(flops(SMALL).values()))


def test_rings_send_what_rings_send():
    """Ring all-reduce by hand: 2 (N - 1) messages of 1 / N of the gradient."""
    assert communication(SMALL) == {}
    sent = communication(replace(SMALL, devices=4))
    assert sent == {"all-reduce of gradients": pytest.approx(2 * 3 * 4 * SMALL.parameters / 4)}
    sharded = sum(communication(replace(SMALL, devices=4, strategy="fsdp", distils=False)).values())
    assert sharded == pytest.approx(1.5 * sent["all-reduce of gradients"])


def test_time_adds_up():
    time = seconds(replace(SMALL, devices=8, precision="bf16-mixed"), DEVICES["a100"], 0.5)
    assert time["step"] == max(time["products"], time["exchange"]) + time["update"] <= time["serial"]
    half = seconds(replace(SMALL, devices=8, precision="bf16-mixed"), DEVICES["a100"], 0.25)
    assert half["products"] == 2 * time["products"]
    across = seconds(replace(SMALL, batch_size=64, devices=64), DEVICES["a100"], 0.5)
    assert across["exchange"] > 10 * time["exchange"]


@pytest.mark.parametrize(
    "wrong, said",
    [
        ({"batch_size": 9, "devices": 2}, "--batch-size 9: must be a multiple of 2"),
        ({"length": 0}, "--length 0"),
        ({"accumulate": 3}, "multiple of 3"),
    ],
)
def test_setups_that_cannot_be_are_named(wrong, said):
    with pytest.raises(ValueError, match=said):
        replace(SMALL, **wrong)
