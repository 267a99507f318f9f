"""Autoregressive networks made masked: the numbers of the library under full attention, and under its own."""

import json

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from mcd.checkpoints.autoregressive import adapted, open_autoregressive
from mcd.checkpoints.folder import from_pretrained, lengthened, save_pretrained
from mcd.errors import ModelError
from mcd.eval.likelihood import causal_nll
from mcd.model.lora import LoRA

BEGIN, END, SPARE, K, L = 0, 1, 4, 41, 16
T = torch.ones(3)


@pytest.fixture
def made(causal):
    return adapted(open_autoregressive(str(causal.folder)))


@pytest.fixture
def rows(seeded):
    """Rows (3, 16) of words, half of them masked."""
    tokens = torch.randint(5, 39, (3, L), generator=seeded(5))
    return tokens.masked_fill(torch.rand(tokens.shape, generator=seeded(6)) < 0.5, SPARE)


def begun(z):
    return torch.cat((torch.full((len(z), 1), BEGIN), z), dim=1)


def library_logits(network, model, z, full=True):
    """(B, L, K): the library's logits at the start of text and at all tokens but the last, with the mask's own row."""
    table = network.get_input_embeddings().weight
    with torch.no_grad():
        table[SPARE] = model.backbone.table()[SPARE]
    ids = begun(z)
    everything = torch.zeros(len(ids), 1, ids.shape[1], ids.shape[1]) if full else None
    return network(input_ids=ids, attention_mask=everything, use_cache=False).logits[:, :-1]


def test_predictions_are_the_library_s_with_a_mask_that_hides_nothing(causal, made, rows):
    model = made.model
    with torch.no_grad():
        found = model.logits(model.hidden(rows, T)).view(3, L, K)
        expected = library_logits(causal.network, model, rows)
    said = [i for i in range(K) if i not in (SPARE, 39, 40)]
    torch.testing.assert_close(found[..., said], expected[..., said], atol=1e-5, rtol=1e-5)
    assert model.config.forbidden == (SPARE, 39, 40)
    p = model.log_x_theta(model.hidden(rows, T)).exp()
    assert (p[:, list(model.config.forbidden)] == 0).all()


def test_rows_are_the_full_result_indexed(made, rows):
    with torch.no_grad():
        full = made.model.hidden(rows, T)
        some = torch.tensor([47, 0, 15, 16, 31, 32])
        torch.testing.assert_close(made.model.hidden(rows, T, rows=some), full[some])


def test_the_causal_switch_gives_back_the_published_network(causal, made, rows):
    """Within it each token is predicted from those before it, to the library's own numbers; and behind it no more."""
    model, x0 = made.model, rows.masked_fill(rows == SPARE, 7)
    with torch.no_grad():
        full = model.hidden(x0, T)
        with model.backbone.causally():
            found = model.logits(model.hidden(x0, T)).view(3, L, K)
        expected = library_logits(causal.network, model, x0, full=False)
        said = [i for i in range(K) if i not in model.config.forbidden]
        torch.testing.assert_close(found[..., said], expected[..., said], atol=1e-5, rtol=1e-5)
        assert torch.equal(model.hidden(x0, T), full)


def test_the_likelihood_of_the_published_network_is_its_own(causal, made, rows):
    """The exact nats of rows behind the start of text; the mask and rows without a token have no probability."""
    model, x0 = made.model, rows.masked_fill(rows == SPARE, 7)
    logits = library_logits(causal.network, model, x0, full=False).clone()
    logits[..., list(model.config.forbidden)] = -torch.inf
    expected = F.cross_entropy(logits.transpose(1, 2), x0, reduction="none").mean(1)
    torch.testing.assert_close(causal_nll(model.eval(), x0), expected, atol=1e-5, rtol=1e-5)


def test_the_states_of_all_blocks_are_recorded(causal, made, rows):
    model, x0 = made.model, rows.masked_fill(rows == SPARE, 7)
    with torch.no_grad(), model.backbone.causally(), model.backbone.recorded() as states:
        model.hidden(x0, T)
    expected = causal.network(input_ids=begun(x0), output_hidden_states=True).hidden_states
    assert len(states) == len(expected) - 1 == 2
    torch.testing.assert_close(states[0], expected[1], atol=1e-5, rtol=1e-5)  # the library's last one is normed
    model.hidden(x0, T)
    assert len(states) == 2


def test_the_mask_begins_as_the_mean_of_all_tokens(causal, made):
    tables = [causal.network.get_input_embeddings().weight, causal.network.get_output_embeddings().weight]
    ours = [made.model.backbone.table(), made.model.backbone.projection()[0]]
    others = [i for i in range(39) if i != SPARE]
    for theirs, own in zip(tables, ours, strict=True):
        torch.testing.assert_close(own[SPARE], theirs[others].mean(0), atol=1e-6, rtol=1e-5)
        kept = [i for i in range(K) if i != SPARE]
        assert torch.equal(own[kept], theirs[kept])


def test_all_weights_are_saved_and_read_again_also_by_the_library(causal, made, rows, tmp_path):
    from transformers import AutoModelForCausalLM

    save_pretrained(made.model, tmp_path / "saved", made.tokenizer.to_str())
    again = from_pretrained(str(tmp_path / "saved"))
    assert again.config == made.model.config and again.base is None
    with torch.no_grad():
        assert torch.equal(again.hidden(rows, T), made.model.hidden(rows, T))
        theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")  # its config.json says is_causal: false
        found = theirs(input_ids=begun(rows), use_cache=False).logits[:, :-1]
        expected = made.model.logits(made.model.hidden(rows, T)).view(3, L, K)
    torch.testing.assert_close(found[..., 5:39], expected[..., 5:39], atol=1e-5, rtol=1e-5)
    assert load_file(tmp_path / "saved" / "model.safetensors").keys() >= set(dict(causal.network.named_parameters()))


def learn(model):
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.add_(0.2 * torch.randn(p.shape, generator=generator))


@pytest.mark.parametrize("dtype, close", [("float32", 1e-5), ("bfloat16", 0.2)])
def test_a_model_with_lora_is_a_folder_of_factors_that_names_its_base(causal, made, rows, tmp_path, dtype, close):
    pytest.importorskip("peft")
    model = made.model
    model.add_lora(LoRA(lora_rank=2, lora_alpha=3.0, lora_dtype=dtype))
    learn(model)
    expected = model.logits(model.hidden(rows, T))
    save_pretrained(model, tmp_path / "saved", made.tokenizer.to_str(), raw=model.state_dict())
    names = {path.name for path in (tmp_path / "saved").iterdir()}
    assert {"adapter_model.safetensors", "adapter_model.raw.safetensors", "adapter_config.json"} <= names
    assert "model.safetensors" not in names and "adapter" not in names
    stored = load_file(tmp_path / "saved" / "adapter_model.safetensors")
    assert {value.dtype for value in stored.values()} == {getattr(torch, dtype)}
    for kind in ("ema", "raw"):
        again = from_pretrained(str(tmp_path / "saved"), kind)
        assert again.lora is None and again.base is None and again.config == model.config
        said = [i for i in range(K) if i not in model.config.forbidden]
        found = again.logits(again.hidden(rows, T))
        torch.testing.assert_close(found[:, said], expected[:, said], atol=close, rtol=close)
    save_pretrained(again, tmp_path / "merged", made.tokenizer.to_str())
    assert (tmp_path / "merged" / "model.safetensors").is_file()


def test_another_base_is_refused(causal, made, tmp_path):
    pytest.importorskip("peft")
    made.model.add_lora(LoRA(lora_rank=1))
    save_pretrained(made.model, tmp_path / "saved", made.tokenizer.to_str())
    file = causal.folder / "model.safetensors"
    tensors = load_file(file)
    next(iter(tensors.values())).view(-1)[0] += 1.0
    save_file(tensors, file)
    with pytest.raises(ModelError, match="its factors belong to other weights of"):
        from_pretrained(str(tmp_path / "saved"))
    (causal.folder / "config.json").unlink()
    with pytest.raises(ModelError, match="needs the network that its factors are added to"):
        from_pretrained(str(tmp_path / "saved"))


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # PEFT calls it
def test_peft_reads_the_factors_next_to_the_published_network(causal, made, rows, tmp_path):
    peft = pytest.importorskip("peft")
    from transformers import AutoModelForCausalLM

    x0 = rows.masked_fill(rows == SPARE, 7)
    made.model.add_lora(LoRA(lora_rank=2))
    learn(made.model)
    save_pretrained(made.model, tmp_path / "saved", made.tokenizer.to_str())
    network = AutoModelForCausalLM.from_pretrained(causal.folder)
    network = peft.PeftModel.from_pretrained(network, tmp_path / "saved").eval()
    with torch.no_grad(), made.model.backbone.causally():
        expected = made.model.logits(made.model.hidden(x0, T)).view(3, L, K)
    found = network(input_ids=begun(x0)).logits[:, :-1]
    torch.testing.assert_close(found[..., 5:39], expected[..., 5:39], atol=1e-4, rtol=1e-4)


def test_learnt_positions_leave_one_to_the_start_of_text(causal, made):
    assert made.model.config.backbone.length == 23
    if causal.kind == "gpt2":
        with pytest.raises(ValueError, match="learnt positions"):
            lengthened(made.model, 24)
    else:
        assert lengthened(made.model, 40).config.backbone.length == 40


def test_an_unadapted_folder_is_refused_with_the_command(causal):
    with pytest.raises(ModelError, match="is autoregressive: `mcd adapt` makes a masked model out of it"):
        from_pretrained(str(causal.folder))
    settings = json.loads((causal.folder / "config.json").read_text())
    assert "mcd" not in settings


def test_settings_and_names_of_older_libraries(tmp_path, rows, causal_folder):
    """Llama 3's config.json of transformers 4, and GPT-2's own file: no prefix, and the causal mask as a tensor."""
    from transformers import AutoModelForCausalLM

    llama = causal_folder("llama", tmp_path / "llama")
    settings = json.loads((llama / "config.json").read_text())
    rope = settings.pop("rope_parameters")
    settings |= {"rope_theta": rope.pop("rope_theta"), "rope_scaling": rope, "torch_dtype": settings.pop("dtype")}
    settings |= {"pretraining_tp": 1, "attention_bias": False, "mlp_bias": False, "transformers_version": "4.43.0"}
    (llama / "config.json").write_text(json.dumps(settings))
    gpt2 = causal_folder("gpt2", tmp_path / "gpt2")
    tensors = load_file(gpt2 / "model.safetensors")
    old = {name.removeprefix("transformer."): value for name, value in tensors.items()}
    old |= {f"h.{i}.attn.bias": torch.ones(1, 1, 24, 24) for i in range(2)}
    save_file(old, gpt2 / "model.safetensors", {"format": "pt"})
    for folder in (llama, gpt2):
        model, network = adapted(open_autoregressive(str(folder))).model, AutoModelForCausalLM.from_pretrained(folder)
        with torch.no_grad():
            found = model.logits(model.hidden(rows, T)).view(3, L, K)
            expected = library_logits(network.eval(), model, rows)
        torch.testing.assert_close(found[..., 5:39], expected[..., 5:39], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "kind, settings, said",
    [
        ("qwen2", {"use_sliding_window": True}, "use_sliding_window is True"),
        ("qwen3", {"layer_types": ["full_attention", "sliding_attention"]}, "layer_types"),
        ("gpt2", {"add_cross_attention": True}, "add_cross_attention is True"),
        ("llama", {"quantization_config": {"bits": 4}}, "quantization_config is set"),
        ("llama", {"is_causal": False}, "is no autoregressive model of Hugging Face"),
        ("llama", {"model_type": "mamba"}, "model_type 'mamba' is not known here; known are"),
        ("llama", {"hidden_size": 1 << 20}, "does not fit its config.json|transformers refuses the settings"),
    ],
)
def test_other_networks_are_refused(tmp_path, causal_folder, kind, settings, said):
    folder = causal_folder(kind, tmp_path / kind)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | settings))
    with pytest.raises(ModelError, match=said):
        adapted(open_autoregressive(str(folder)))


@pytest.mark.parametrize("changed", ["cut", "missing", "nan", "rank", "peft", "other", "lacking", "empty", "no-base"])
def test_damaged_factors_are_refused(tmp_path, causal_folder, changed):
    pytest.importorskip("peft")
    folder, saved = causal_folder("llama", tmp_path / "base"), tmp_path / "saved"
    made = adapted(open_autoregressive(str(folder)))
    made.model.add_lora(LoRA(lora_rank=2, lora_targets=("q_proj",)))
    save_pretrained(made.model, saved, made.tokenizer.to_str())
    file, said = saved / "adapter_model.safetensors", "adapter_model.safetensors"
    factors, settings = load_file(file), json.loads((saved / "adapter_config.json").read_text())
    name = next(iter(factors))
    match changed:
        case "cut":
            file.write_bytes(file.read_bytes()[:-8])
        case "missing":
            file.unlink()
        case "nan":
            factors[name][0, 0] = torch.nan
        case "rank":
            settings["r"] = 3
        case "peft":
            settings["use_dora"], said = True, "use_dora"
        case "other":
            factors["base_model.model.lm_head.lora_A.weight"] = factors[name].clone()
        case "lacking":
            del factors[name]
        case "empty":
            factors = {}
        case "no-base":
            config = json.loads((saved / "config.json").read_text())
            config["mcd"]["base"], said = {"name": str(folder)}, "is no name and sha256 of a network"
            (saved / "config.json").write_text(json.dumps(config))
    if changed not in ("cut", "missing"):
        save_file(factors, file)
    (saved / "adapter_config.json").write_text(json.dumps(settings))
    with pytest.raises(ModelError, match=said):
        from_pretrained(str(saved))


def test_features_are_the_states_of_the_library_without_that_of_the_start(causal, made, rows):
    model, ran = made.model, []
    family = model.backbone.config.family
    block = causal.network.get_submodule(f"{family.body}.{family.layers}.0")
    hook = block.register_forward_hook(lambda module, args, out: ran.append(out))
    with torch.no_grad():
        library_logits(causal.network, model, rows)
        hook.remove()
        expected = ran[0][0] if isinstance(ran[0], tuple) else ran[0]
        torch.testing.assert_close(model.features(rows, 1), expected[:, 1:], atol=1e-5, rtol=1e-5)
