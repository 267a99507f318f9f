"""LoRA: only its factors learn, and what is saved is the model it makes."""

import copy
import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from mcd.checkpoints.folder import from_pretrained, save_pretrained
from mcd.checkpoints.hub import published as published_files
from mcd.checkpoints.hub import write_published
from mcd.errors import ModelError
from mcd.model.ema import EMA
from mcd.model.lora import LoRA, merged
from mcd.objective import Clock
from mcd.objective.mcd import MCD
from mcd.process.draws import Draws
from mcd.report.model_card import model_card
from mcd.training.config import TrainConfig
from mcd.training.optimizer import make_optimizers
from mcd.training.state import Skeleton

peft = pytest.importorskip("peft")
MASK, T = 4, torch.ones(3)


@pytest.fixture(params=["bert", "modernbert", "llada", "dream"])
def theirs(request, published):
    return published(request.param)


@pytest.fixture
def model(theirs):
    return from_pretrained(str(theirs.folder))


def learn(model, seed=0):
    """Give the factors some values, as training would."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.add_(0.2 * torch.randn(p.shape, generator=generator))


def test_nothing_is_said_otherwise_at_first(model, z):
    before = model.hidden(z, T)
    model.add_lora(LoRA(lora_rank=2))
    assert torch.equal(model.hidden(z, T), before)
    learn(model)
    assert not torch.allclose(model.hidden(z, T), before, atol=1e-3)


def test_only_factors_have_gradients_and_the_teacher_shares_the_rest(model, z):
    model.add_lora(LoRA(lora_rank=2))
    learn(model)
    frozen = {id(p): p for p in model.parameters() if not p.requires_grad}
    teacher = copy.deepcopy(model, dict(frozen)).requires_grad_(False)  # deepcopy leaves what its memo holds
    assert {id(p) for p in teacher.parameters()} & frozen.keys() == frozen.keys()
    learn(model, 1)
    x0 = torch.where(z == MASK, 7, z)
    loss = MCD(delta0=0.3).loss(model, teacher, x0, Clock(), Draws(torch.Generator().manual_seed(0), *x0.shape))
    assert loss.terms["distillation"].isfinite()
    loss.total.backward()
    for name, p in model.named_parameters():
        assert p.requires_grad == (".lora_" in name) == (p.grad is not None), name
        assert p.grad is None or p.grad.abs().sum() > 0, name
    assert all(p.grad is None for p in teacher.parameters())
    few, all_of_them = (sum(p.numel() for p in model.parameters() if p.requires_grad or i) for i in (0, 1))
    assert 0 < few < all_of_them / 2


def test_targets(model):
    model.add_lora(LoRA(lora_rank=1))
    everywhere = {name.split(".lora_A")[0] for name, _ in model.named_parameters() if ".lora_A" in name}
    layers = [m for layer in model.shardable_layers() for m in layer.modules()]
    assert len(everywhere) == sum(type(m).__name__ == "Linear" and hasattr(m, "base_layer") for m in layers) > 6
    other = from_pretrained(str(model.folder))
    name = sorted(everywhere)[0].rsplit(".", 1)[1]
    other.add_lora(LoRA(lora_rank=1, lora_targets=(name,)))
    some = {n.split(".lora_A")[0] for n, _ in other.named_parameters() if ".lora_A" in n}
    assert some == {n for n in everywhere if n.endswith("." + name)} and some < everywhere
    with pytest.raises(ValueError, match=f"--lora-targets nose: is no linear layer of the model; it has .*{name}"):
        from_pretrained(str(model.folder)).add_lora(LoRA(lora_rank=1, lora_targets=("nose",)))


def test_merged_weights_say_the_same(model, z, tmp_path):
    """By a product of their own, by PEFT, and read back from the saved folder."""
    lora = LoRA(lora_rank=3, lora_alpha=5.0)
    plain = {name: p.shape for name, p in model.state_dict().items()}
    model.add_lora(LoRA())  # rank 0 is no LoRA
    model.add_lora(lora)
    learn(model)
    expected = model.logits(model.hidden(z, T))
    state = merged(model.state_dict(), lora)
    assert {name: p.shape for name, p in state.items()} == plain
    save_pretrained(model, tmp_path / "saved")
    again = from_pretrained(str(tmp_path / "saved"))
    assert again.lora is None
    assert all(torch.equal(p, state[name]) for name, p in again.state_dict().items())
    torch.testing.assert_close(again.logits(again.hidden(z, T)), expected, atol=1e-4, rtol=1e-4)
    for module in model.modules():
        if isinstance(module, peft.tuners.lora.LoraLayer):
            module.merge()
    torch.testing.assert_close(model.logits(model.hidden(z, T)), expected, atol=1e-4, rtol=1e-4)
    for name, p in model.state_dict().items():
        if ".base_layer." in name:
            torch.testing.assert_close(p, state[name.replace(".base_layer", "")])


def test_both_weight_sets_are_merged(model, tmp_path):
    """As a run writes them: the average in a copy, and what was trained, by name alone."""
    lora = LoRA(lora_rank=2)
    model.add_lora(lora)
    ema = EMA(model, 0.5)
    learn(model)
    averaged = Skeleton(model).filled(model, ema.shadow)
    save_pretrained(averaged, tmp_path / "run", raw=model.state_dict())
    raw, published = (from_pretrained(str(tmp_path / "run"), kind) for kind in ("raw", "ema"))
    state, first = merged(model.state_dict(), lora), from_pretrained(str(model.folder)).state_dict()
    assert all(torch.equal(p, state[name]) for name, p in raw.state_dict().items())
    assert all(torch.equal(p, first[name]) for name, p in published.state_dict().items())


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # PEFT calls it
def test_peft_reads_the_adapter_beside_the_network_as_published(published, tmp_path, z):
    from transformers import AutoModelForMaskedLM

    folder = published("bert").folder
    model = from_pretrained(str(folder))
    model.add_lora(LoRA(lora_rank=2, lora_targets=("query", "value")))
    learn(model)
    save_pretrained(model, tmp_path / "saved")
    network = peft.PeftModel.from_pretrained(AutoModelForMaskedLM.from_pretrained(folder), tmp_path / "saved/adapter")
    logits = model.logits(model.hidden(z, T)).view(3, 16, -1)
    torch.testing.assert_close(network.eval()(input_ids=z).logits[..., 6:39], logits[..., 6:39], atol=1e-5, rtol=1e-4)


def test_names_of_an_adapter_of_llada_are_its_own(published, tmp_path):
    model = from_pretrained(str(published("llada").folder))
    model.add_lora(LoRA(lora_rank=1, lora_targets=("q_proj", "down_proj")))
    save_pretrained(model, tmp_path / "saved")
    stored = load_file(tmp_path / "saved" / "adapter" / "adapter_model.safetensors")
    assert "base_model.model.model.transformer.blocks.1.ff_out.lora_A.weight" in stored and len(stored) == 8
    settings = json.loads((tmp_path / "saved" / "adapter" / "adapter_config.json").read_text())
    assert "model.transformer.blocks.0.q_proj" in settings["target_modules"]


def test_the_frozen_weights_may_have_half_the_bytes(theirs, z):
    model = from_pretrained(str(theirs.folder), dtype=torch.bfloat16)
    model.add_lora(LoRA(lora_rank=2))
    learn(model)
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    assert {p.dtype for p in model.parameters() if not p.requires_grad} == {torch.bfloat16}
    exact = from_pretrained(str(theirs.folder))
    exact.add_lora(LoRA(lora_rank=2))
    learn(exact)
    rough = model.log_x_theta(model.hidden(z, T))
    kept = [i for i in range(41) if i not in model.config.forbidden]
    torch.testing.assert_close(rough[:, kept], exact.log_x_theta(exact.hidden(z, T))[:, kept], atol=0.5, rtol=0.1)
    state = merged(model.state_dict(), model.lora)
    assert {p.dtype for p in state.values()} == {torch.bfloat16}


def test_the_factors_are_a_function_of_the_seed(model):
    def factors(seed):
        other = from_pretrained(str(model.folder))
        torch.rand(3)
        other.add_lora(LoRA(lora_rank=2), seed)
        return torch.cat([p.flatten() for p in other.parameters() if p.requires_grad])

    before = torch.get_rng_state()
    first = factors(0)
    torch.set_rng_state(before)
    assert torch.equal(factors(0), first) and not torch.equal(factors(1), first)


@pytest.mark.parametrize(
    "options, match",
    [
        ({"lora_rank": -1}, "--lora-rank -1"),
        ({"lora_rank": 2, "lora_alpha": 0.0}, "--lora-alpha 0.0"),
        ({"lora_rank": 2, "lora_alpha": float("inf")}, "--lora-alpha inf"),
        ({"lora_rank": 2, "lora_dropout": 1.0}, "--lora-dropout 1.0"),
        ({"lora_alpha": 2.0}, "--lora-alpha: without --lora-rank there is no LoRA"),
        ({"lora_targets": ("query",)}, "--lora-targets: without --lora-rank there is no LoRA"),
    ],
)
def test_bad_options_are_named(options, match):
    with pytest.raises(ValueError, match=match):
        LoRA(**options)


def test_where_there_can_be_no_lora(model, tiny_denoiser, monkeypatch):
    with pytest.raises(ValueError, match="--lora-rank 2: is for networks of Hugging Face"):
        tiny_denoiser().add_lora(LoRA(lora_rank=2))
    model.add_lora(LoRA(lora_rank=2))
    with pytest.raises(ValueError, match="has LoRA already"):
        model.add_lora(LoRA(lora_rank=2))
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with pytest.raises(ImportError, match=r"pip install 'mcd-lm\[lora\]'"):
        from_pretrained(str(model.folder)).add_lora(LoRA(lora_rank=2))


def test_muon_takes_the_factors_of_the_blocks(model):
    model.add_lora(LoRA(lora_rank=2))
    (muon,) = make_optimizers(model, TrainConfig(optimizer="muon"))
    learnt = {id(p) for p in model.parameters() if p.requires_grad}
    assert {id(p) for group in muon.param_groups for p in group["params"]} == learnt


def test_a_pushed_model_brings_its_adapter_and_says_what_it_is(theirs, model, tmp_path):
    model.add_lora(LoRA(lora_rank=2))
    save_pretrained(model, tmp_path / "out", (theirs.folder / "tokenizer.json").read_text())
    names = ("tokenizer_config.json", "special_tokens_map.json")
    assert [(tmp_path / "out" / n).is_file() for n in names] == [(theirs.folder / n).is_file() for n in names]
    files = published_files(tmp_path / "out", card := model_card(tmp_path / "out", "me/model"))
    assert {"model.safetensors", "adapter/adapter_config.json", "adapter/adapter_model.safetensors"} <= files.keys()
    write_published(files, tmp_path / "hub")
    assert (tmp_path / "hub" / "adapter" / "adapter_config.json").is_file()
    assert "A masked diffusion language model (" in card and "model_type" in card
    assert from_pretrained(str(tmp_path / "hub")).mask_id == MASK


def test_what_is_not_finite_is_not_pushed(theirs, model, tmp_path):
    save_pretrained(model, tmp_path / "out")
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    next(iter(tensors.values())).view(-1)[3] = torch.nan
    save_file(tensors, tmp_path / "out" / "model.safetensors")
    with pytest.raises(ModelError, match=r"model\.safetensors: NaN or infinity in"):
        published_files(tmp_path / "out", "card")
