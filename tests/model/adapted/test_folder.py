"""Folders of Hugging Face: read as they are, written so that the library reads them, refused with the mend."""

import json
import pickle
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from mcd.checkpoints import hub
from mcd.checkpoints.config import config_of_json, config_to_json
from mcd.checkpoints.folder import from_pretrained, lengthened, save_pretrained
from mcd.data.special_tokens import end_of_text
from mcd.data.tokenizer import load_tokenizer, tokenizer_of_model
from mcd.errors import ModelError
from mcd.model.adapted.config import AdaptedConfig, ids_of_ranges, ranges_of_ids
from mcd.model.adapted.families import FAMILIES
from mcd.model.denoiser import Denoiser, DenoiserConfig
from mcd.objective.base import Clock
from mcd.objective.duo import Duo
from mcd.process.draws import Draws
from mcd.process.schedule import Cosine
from mcd.sampler import sample
from mcd.sampler.uniform import Uniform

K, MASK, FORBIDDEN = 41, 4, (0, 4, 5, 39, 40)


def change(folder, **changes):
    path = folder / "config.json"
    settings = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in settings.items() if value is not ...}))


def same(a, b):
    own, other = a.state_dict(), b.state_dict()
    return own.keys() == other.keys() and all(torch.equal(own[name], other[name]) for name in own)


def test_what_a_folder_says(theirs, kind):
    model = from_pretrained(str(theirs.folder))
    assert model.mask_id == model.blank_id == MASK and model.config.process == "masked"
    # LLaDA's padding ends documents too, so it is said
    assert model.config.forbidden == (FORBIDDEN[1:] if kind == "llada" else FORBIDDEN)
    assert (model.config.vocab_size, model.config.tokens, model.config.backbone.length) == (41, 39, 24)
    assert not model.training and model.folder == theirs.folder
    tokenizer = tokenizer_of_model(model.folder, model.config.tokens)
    assert end_of_text(tokenizer).id == 3


def test_nothing_random_is_made_to_be_overwritten(theirs):
    before = torch.get_rng_state()
    from_pretrained(str(theirs.folder))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_saved_model_is_read_back(theirs, tmp_path, z):
    model = from_pretrained(str(theirs.folder))
    model.config = replace(model.config, schedule=Cosine())
    raw = {name: value + 1 for name, value in model.state_dict().items()}
    save_pretrained(model, tmp_path / "saved", '{"a": 1}', raw=raw)
    ema, again = from_pretrained(str(tmp_path / "saved")), from_pretrained(str(tmp_path / "saved"), "raw")
    assert same(ema, model) and ema.config == model.config
    assert all(torch.equal(value, raw[name]) for name, value in again.state_dict().items())
    assert torch.equal(ema.hidden(z, torch.ones(3)), model.hidden(z, torch.ones(3)))


def test_a_saved_model_has_the_names_it_came_with(theirs, tmp_path):
    """And a tied projection is stored once."""
    save_pretrained(from_pretrained(str(theirs.folder)), tmp_path / "saved")
    stored, published = load_file(tmp_path / "saved" / "model.safetensors"), theirs.stored()
    assert stored.keys() == published.keys()
    assert all(torch.equal(stored[name], published[name]) for name in stored)
    settings = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert settings.pop("mcd").keys() == {"format", "mask_id", "schedule", "length", "tokens", "forbidden"}
    dtypes = {"dtype": "float32", "torch_dtype": "float32"}
    assert settings == json.loads((theirs.folder / "config.json").read_text()) | dtypes


@pytest.mark.parametrize("key", ["dtype", "torch_dtype"])
def test_the_library_does_not_round_what_was_trained(copied, key, tmp_path):
    """The dtype in config.json is that of the stored weights, whatever the folder was that they began from."""
    from transformers import AutoModelForMaskedLM

    folder = copied("bert")
    change(folder, dtype=..., torch_dtype=...)
    change(folder, **{key: "bfloat16"})
    model = from_pretrained(str(folder))
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(1 + 1e-4)  # less than a step of bfloat16
    for dtype in (torch.float32, torch.bfloat16):
        save_pretrained(model, tmp_path / "saved", dtype=dtype)
        network = AutoModelForMaskedLM.from_pretrained(tmp_path / "saved")
        stored = load_file(tmp_path / "saved" / "model.safetensors")
        assert {value.dtype for value in stored.values()} == {dtype}
        assert all(network.get_parameter(name).equal(value) for name, value in stored.items())


def test_what_stands_beside_a_model_is_kept(copied, tmp_path):
    """By a saved model and what is published of it; code only where config.json names it, and it is never run."""
    folder = copied("llada")
    beside = {
        "chat_template.jinja": "{{ messages }}",
        "additional_chat_templates/tools.jinja": "{{ tools }}",
        "generation_config.json": "{}",
        "special_tokens_map.json": "{}",
        "spiece.model": b"\x00\xff",
        "LICENSE": "yours",
        "modeling_llada.py": "raise SystemExit",
    }
    (folder / "additional_chat_templates").mkdir()
    for name, content in beside.items():
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    (folder / "run.json").write_text("{}")
    (folder / "notes.txt").write_text("mine")
    kept = {*beside, "tokenizer_config.json"}
    for code in (True, False):
        if not code:
            change(folder, auto_map=...)
            kept.remove("modeling_llada.py")
        saved = tmp_path / f"saved-{code}"
        save_pretrained(from_pretrained(str(folder)), saved)
        found = {path.relative_to(saved).as_posix() for path in saved.rglob("*") if path.is_file()}
        assert found == kept | {"config.json", "model.safetensors"}
        assert all((saved / name).read_bytes() == (folder / name).read_bytes() for name in kept)
        assert set(hub.published(saved, "")) == found | {"README.md"}


@pytest.mark.parametrize("kind", ["bert", "roberta", "modernbert", "distilbert", "electra"])
def test_the_library_reads_what_was_saved(published, kind, tmp_path, z):
    from transformers import AutoModelForMaskedLM

    model = from_pretrained(str(published(kind).folder))
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(1.1)
    save_pretrained(model, tmp_path / "saved")
    network = AutoModelForMaskedLM.from_pretrained(tmp_path / "saved").eval()
    logits = model.logits(model.hidden(z, torch.ones(3))).view(3, 16, -1)
    torch.testing.assert_close(network(input_ids=z).logits[..., 6:39], logits[..., 6:39], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["bert", "roberta", "modernbert", "distilbert", "electra"])
def test_a_head_that_is_not_tied_goes_both_ways(untied, kind, tmp_path, z):
    """transformers 5 stores two biases of BERT's and RoBERTa's, and reads the projection's own; 4 stored the other."""
    from transformers import AutoModelForMaskedLM

    theirs = untied(kind)
    model = from_pretrained(str(theirs.folder))

    def close(logits):
        ours = model.logits(model.hidden(z, torch.ones(3))).view(3, 16, -1)
        torch.testing.assert_close(ours[..., 6:39], logits[..., 6:39], atol=1e-5, rtol=1e-5)

    close(theirs.logits(z))
    save_pretrained(model, tmp_path / "ours")
    assert same(from_pretrained(str(tmp_path / "ours")), model)
    close(AutoModelForMaskedLM.from_pretrained(tmp_path / "ours").eval()(input_ids=z).logits)
    if kind in ("bert", "roberta"):
        path = theirs.folder / "model.safetensors"
        tensors = load_file(path)
        (own,) = [name for name in tensors if name.endswith("decoder.bias")]
        other = own.replace("decoder.", "")
        assert not torch.equal(tensors[own], tensors[other])
        save_file({name: value for name, value in tensors.items() if name != own} | {other: tensors[own]}, path)
        assert same(from_pretrained(str(path.parent)), model)


def test_configurations_go_through_json(theirs):
    config = from_pretrained(str(theirs.folder)).config
    assert config_of_json(json.loads(json.dumps(config_to_json(config)))) == config


def test_half_the_bytes_in_memory(theirs, z):
    model = from_pretrained(str(theirs.folder), dtype=torch.bfloat16)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16} and torch.get_default_dtype() == torch.float32
    exact = from_pretrained(str(theirs.folder))
    expected = exact.hidden(z, torch.ones(3))
    torch.testing.assert_close(model.hidden(z, torch.ones(3)).float(), expected, atol=0.15, rtol=0.05)
    assert same(model, exact.bfloat16())


def test_a_new_model_has_weights_of_its_own(theirs):
    config = from_pretrained(str(theirs.folder)).config
    torch.manual_seed(0)
    model = Denoiser(config)
    assert model.backbone.table().std() > 0.005  # filled, as the library fills it
    assert not same(model, Denoiser(config))


def test_old_names_other_heads_and_second_copies(copied):
    """What the published files of BERT hold beside the network, and by what names."""
    folder = copied("bert")
    expected = from_pretrained(str(folder))
    tensors = {name: value.clone() for name, value in load_file(folder / "model.safetensors").items()}
    for name in list(tensors):
        if "LayerNorm.weight" in name or "LayerNorm.bias" in name:
            old = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
            tensors[old] = tensors.pop(name)
    tensors["cls.predictions.decoder.weight"] = tensors["bert.embeddings.word_embeddings.weight"].clone()
    tensors["cls.predictions.decoder.bias"] = tensors.pop("cls.predictions.bias")
    tensors |= {"bert.pooler.dense.weight": torch.ones(2), "cls.seq_relationship.bias": torch.ones(2)}
    tensors["bert.embeddings.position_ids"] = torch.arange(24)[None]
    save_file(tensors, folder / "model.safetensors")
    assert same(from_pretrained(str(folder)), expected)
    tensors["cls.predictions.decoder.weight"] += 1
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ModelError, match=r"decoder\.weight differs from bert\.embeddings\.word_emb"):
        from_pretrained(str(folder))


@pytest.mark.parametrize("kind", ["bert", "llada"])
def test_every_key_is_accounted_for(copied, kind):
    folder = copied(kind)
    tensors = {name: value.clone() for name, value in load_file(folder / "model.safetensors").items()}
    missing = next(name for name in tensors if ".1." in name)
    wrong = next(name for name in tensors if ".0." in name)
    tensors["bert.extra"] = tensors.pop(missing)
    tensors[wrong] = torch.zeros(3, 3)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ModelError) as error:
        from_pretrained(str(folder))
    for fault in (f"missing {missing}", "unexpected bert.extra", f"{wrong} has shape (3, 3)"):
        assert fault in str(error.value)


def test_weights_in_several_files(copied):
    folder = copied("llada")
    expected = from_pretrained(str(folder))
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = {name: f"model-0000{i % 2 + 1}-of-00002.safetensors" for i, name in enumerate(tensors)}
    for file in set(names.values()):
        save_file({name: tensors[name].clone() for name in names if names[name] == file}, folder / file)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": names}))
    assert same(from_pretrained(str(folder)), expected)
    (folder / "model-00001-of-00002.safetensors").unlink()
    with pytest.raises(ModelError, match=r"model-00001-of-00002.safetensors: missing"):
        from_pretrained(str(folder))
    for wrong in ({"a": "../x.safetensors"}, {"a": "x.bin"}, {}, [], {"a": 3}):
        index.write_text(json.dumps({"weight_map": wrong}))
        with pytest.raises(ModelError, match=r"index.json: cannot be read"):
            from_pretrained(str(folder))


def test_pickled_weights_and_code_are_never_run(copied, tmp_path):
    class Bomb:
        def __reduce__(self):
            return (tmp_path.joinpath("gone off").touch, ())

    folder = copied("llada")
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb()))
    (folder / "modeling_llada.py").write_text(f"import pathlib; pathlib.Path({str(tmp_path)!r}, 'gone off').touch()")
    with pytest.raises(ModelError, match=r"model.safetensors: missing"):
        from_pretrained(str(folder))
    assert not (tmp_path / "gone off").exists()


@pytest.mark.parametrize(
    "kind, changes, match",
    [
        ("bert", {"model_type": "t5"}, f"model_type 't5' is not known here; known are {', '.join(FAMILIES)}"),
        ("bert", {"model_type": 3}, "model_type 3 is not known"),
        ("bert", {"is_decoder": True}, "is_decoder is set"),
        ("bert", {"quantization_config": {"bits": 4}}, "quantization_config is set"),
        ("bert", {"vocab_size": ...}, "vocab_size None: must be a whole number"),
        ("bert", {"vocab_size": 10**12}, "vocab_size 1000000000000: must be a whole number"),
        ("roberta", {"pad_token_id": "none"}, "a setting is missing or of another kind"),
        ("bert", {"mask_token_id": -1}, "forbidden ids must be whole numbers from 0 to 40"),
        ("bert", {"vocab_size": 38}, "a tokenizer of 39 tokens: the network has rows for 1 to 38"),
        ("bert", {"hidden_size": "wide"}, "hidden_size 'wide': must be a whole number"),
        ("bert", {"hidden_act": "none"}, "transformers refuses the settings"),
        ("bert", {"num_attention_heads": 3}, "transformers refuses the settings"),
        ("llada", {"block_type": "sequential"}, "block_type is 'sequential'"),
        ("llada", {"alibi": True}, "alibi is True"),
        ("llada", {"rope_theta": ...}, "a setting is missing or of another kind ('rope_theta')"),
        ("dream", {"use_sliding_window": True}, "use_sliding_window is True"),
        ("bert", {"mcd": {"format": "other"}}, 'no "format": "mcd-model-1" in its section "mcd"'),
        ("bert", {"mcd": {"format": "mcd-model-1"}}, "config.json is damaged"),
        ("bert", {"mcd": 3}, "config.json is not of an mcd model"),
    ],
)
def test_networks_that_are_not_known(copied, kind, changes, match):
    folder = copied(kind)
    change(folder, **changes)
    with pytest.raises(ModelError) as error:
        from_pretrained(str(folder))
    assert match in str(error.value) and str(folder) in str(error.value)


def test_a_tokenizer_that_is_missing_or_has_no_mask(copied):
    folder = copied("bert")
    (folder / "tokenizer_config.json").write_text("{}")
    assert from_pretrained(str(folder)).mask_id == MASK  # by its usual name
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    del tokenizer["model"]["vocab"]["[MASK]"]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(ModelError, match="names a mask token"):
        from_pretrained(str(folder))
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError, match=r"tokenizer.json: is no tokenizer"):
        from_pretrained(str(folder))
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match=r"no tokenizer.json; transformers makes one"):
        from_pretrained(str(folder))


@pytest.mark.parametrize("mask_id", [None, 7, 41])
def test_the_mask_is_forbidden(published, mask_id):
    config = from_pretrained(str(published("bert").folder)).config
    with pytest.raises(ValueError, match=r"mask_id null|must be an id that is forbidden"):
        replace(config, mask_id=mask_id)
    with pytest.raises(ValueError, match="no input of time"):
        replace(config, time_conditioned=True)


def test_a_network_of_uniform_diffusion(published, tmp_path):
    """Without a mask all rows are tokens, and none is forbidden: it trains, is saved, read back, and sampled."""
    settings = from_pretrained(str(published("bert").folder)).config.backbone.settings
    model = Denoiser(DenoiserConfig(AdaptedConfig(settings, (), K), None)).eval()
    assert (model.config.process, model.config.vocab_size) == ("uniform", K)
    save_pretrained(model, tmp_path / "uniform")
    read = from_pretrained(str(tmp_path / "uniform"))
    assert read.config == model.config
    x0 = torch.randint(K, (4, 12), generator=torch.Generator().manual_seed(0))
    loss = Duo().loss(model, None, x0, Clock(), Draws(torch.Generator().manual_seed(1), 4, 12)).total
    loss.backward()
    assert loss.isfinite() and model.backbone.table().grad.abs().sum() > 0
    ids, _ = sample(Uniform(4), read, 3, 12)
    assert ids.shape == (3, 12) and int(ids.max()) < K
    with pytest.raises(ValueError, match=r"mask_id null: .* each must be a token"):
        DenoiserConfig(AdaptedConfig(settings, (), 39), None)


def test_only_rotary_positions_grow(published, z):
    for kind in ("modernbert", "llada", "dream"):
        model = from_pretrained(str(published(kind).folder))
        longer = lengthened(model, 40)
        assert torch.equal(longer.hidden(z, torch.ones(3)), model.hidden(z, torch.ones(3)))
        assert longer.hidden(torch.full((1, 40), 7), torch.ones(1)).isfinite().all()
    with pytest.raises(ValueError, match="must be 1 to 24, its learnt positions"):
        lengthened(from_pretrained(str(published("roberta").folder)), 40)


def test_ranges(seeded):
    for seed in range(20):
        ids = tuple((torch.rand(30, generator=seeded(seed)) < seed / 20).nonzero()[:, 0].tolist())
        ranges = ranges_of_ids(ids)
        assert ids_of_ranges(ranges, 30) == ids
        assert all(b[0] > a[1] + 1 for a, b in pairwise(ranges))
    for wrong in ([[3, 2]], [[0, 1], [1, 2]], [[0, 30]], [[-1, 2]], [[0.0, 1]], [[True, 2]], [[0, 10**12]]):
        with pytest.raises(ValueError, match="is no range"):
            ids_of_ranges(wrong, 30)


def test_a_tokenizer_that_cuts_or_pads_does_neither_here(tmp_path, published):
    tokenizer = Tokenizer.from_file(str(published("bert").folder / "tokenizer.json"))
    text = "w1 w2 w3 w4 w5"
    tokenizer.enable_truncation(3)
    tokenizer.enable_padding(length=9)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert len(load_tokenizer(str(tmp_path)).encode(text).ids) == 5


def test_the_end_of_a_tokenizer_with_masks_is_its_separator(published):
    tokenizer = load_tokenizer(str(published("bert").folder))
    tokenizer.add_special_tokens(["<|endoftext|>"])  # as ModernBERT's, which never saw it
    assert end_of_text(tokenizer).id == tokenizer.token_to_id("[SEP]")


def test_pickled_weights_are_refused_and_the_message_does_not_name_the_import_of_other_layouts(copied):
    folder = copied("bert")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(
        ModelError, match=r"pytorch_model\.bin is a pickle, never loaded; get the model as safe"
    ) as error:
        from_pretrained(str(folder))
    assert "mcd import" not in str(error.value)
