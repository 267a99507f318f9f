"""Public checkpoints of three layouts: imported, they say what the public code said; what does not fit is named."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mcd.checkpoints.export import export_mdlm
from mcd.checkpoints.folder import from_pretrained, save_pretrained
from mcd.checkpoints.import_ import origin_of, understand, write_import
from mcd.checkpoints.public_layout import Sizes, own_name, rotary_buffer, sizes_of, unwrapped
from mcd.checkpoints.source import open_source
from mcd.checkpoints.weights import WEIGHTS
from mcd.errors import ModelError
from mcd.process.schedule import Cosine, LogLinear

FIXTURES = Path(__file__).parent / "fixtures"
CLOSE = 1e-4
CASES = [
    ("mdlm.ckpt", None, "mdlm", "logits_ema"),
    ("mdlm.ckpt", "ema", "mdlm", "logits_ema"),
    ("mdlm.ckpt", "raw", "mdlm", "logits"),
    ("mdlm-hub", None, "mdlm", "logits"),
    ("duo.ckpt", "ema", "duo", "logits_ema"),
    ("duo.ckpt", "raw", "duo", "logits"),
    ("duo-hub", None, "duo", "logits"),
    ("sdtt.ckpt", None, "sdtt", "logits_ema"),
    ("sdtt.ckpt", "raw", "sdtt", "logits"),
    ("sdtt-hub", None, "sdtt-hub", "logits"),
    ("sdtt-hub-teacher", None, "sdtt-hub-teacher", "logits"),
]


def imported(source, folder, **options):
    """Import a file or folder into a new folder; returns what was understood."""
    found = understand(open_source(source), **options)
    write_import(found, folder, None, origin_of(found))
    return found


def logits_of(model, expected):
    """All K rows of logits, as the public network gives them, (B, L, K)."""
    hidden = model.hidden(expected["ids"], expected["t"])
    with torch.no_grad():
        return model.backbone.head.linear(hidden).view(*expected["ids"].shape, -1)


@pytest.mark.parametrize(("source", "weights", "expected", "which"), CASES)
def test_logits_are_those_of_the_public_code(source, weights, expected, which, tmp_path):
    found = imported(FIXTURES / source, tmp_path / "model", weights=weights, length=16)
    model = from_pretrained(str(tmp_path / "model"))
    expected = load_file(FIXTURES / f"{expected}.expected.safetensors")
    got = logits_of(model, expected)
    assert (got - expected[which]).abs().max() < CLOSE
    assert expected[which].std() > 0.5  # and there was something to get wrong
    for other in {"logits", "logits_ema"} & expected.keys() - {which}:
        assert (got - expected[other]).abs().max() > 0.1
    assert model.config.process == ("uniform" if source.startswith("duo") else "masked")
    assert model.config.time_conditioned == (source.startswith("duo") or source == "sdtt.ckpt")
    if model.config.time_conditioned:
        sigma = -model.config.schedule.alpha(expected["t"]).log()
        assert torch.allclose(sigma, expected["sigma"]) and sigma[0] != sigma[1]
    assert json.loads((tmp_path / "model" / "origin.json").read_text())["weights"] == found.chosen


@pytest.mark.heavy
def test_sets_of_weights_are_chosen_and_recorded(tmp_path):
    def choose(source, weights):
        found = understand(open_source(FIXTURES / source), weights)
        return found.chosen, list(found.available), list(found.sets)

    assert choose("mdlm.ckpt", None) == ("ema", ["ema", "raw"], ["ema"])
    assert choose("mdlm.ckpt", "raw") == ("raw", ["ema", "raw"], ["ema"])
    assert choose("mdlm.ckpt", "both") == ("ema and raw", ["ema", "raw"], ["raw", "ema"])
    assert choose("mdlm-hub", None) == ("published", ["published"], ["ema"])
    assert choose("sdtt-hub", "raw") == ("raw", ["raw"], ["ema"])
    for source in ("mdlm-hub", "sdtt-hub", "duo-hub"):
        with pytest.raises(ModelError, match=r"--weights ema: .* one set"):
            choose(source, "ema")
    imported(FIXTURES / "duo.ckpt", tmp_path / "both", weights="both")
    expected = load_file(FIXTURES / "duo.expected.safetensors")
    for kind, which in (("ema", "logits_ema"), ("raw", "logits")):
        got = logits_of(from_pretrained(str(tmp_path / "both"), kind), expected)
        assert (got - expected[which]).abs().max() < CLOSE


def test_the_origin_says_what_was_taken(tmp_path):
    imported(FIXTURES / "duo.ckpt", tmp_path / "duo")
    origin = json.loads((tmp_path / "duo" / "origin.json").read_text())
    assert (origin["layout"], origin["weights"], origin["steps"], origin["ema_decay"]) == (
        "duo-lightning",
        "ema",
        2,
        0.5,
    )
    assert origin["ignored_keys"] == ["backbone.rotary_emb.inv_freq"] and "optimizer_states" in origin["unused_parts"]
    assert origin["config"]["algo"]["name"] == "duo_base" and origin["config"]["model"]["n_blocks"] == 2
    assert origin["assumed"] == [] and origin["licence"] == "apache-2.0" and "bfloat16" in origin["precision"]


def test_the_names_are_a_bijection(tiny_denoiser):
    """Public names and shapes, in their order, against our own state_dict."""
    model = tiny_denoiser(V=22, hidden=16, layers=3)
    shapes = Sizes(23, 16, 3, 8).shapes()
    own = {name: tuple(p.shape) for name, p in model.state_dict().items()}
    assert {own_name(name): shape for name, shape in shapes.items()} == own


def test_the_public_order_is_that_of_the_fixtures():
    """The averages are lists: their order is that of the public `parameters()`, which the state_dict shows."""
    for source in ("mdlm.ckpt", "duo.ckpt"):
        names = list(unwrapped(open_source(FIXTURES / source).tensors, source)[0])
        names.remove("rotary_emb.inv_freq")
        assert names == list(Sizes(67, 12, 2, 8).shapes())


@pytest.fixture
def hub(tmp_path):
    """A copy of the MDLM of the hub, to be spoilt."""
    shutil.copytree(FIXTURES / "mdlm-hub", tmp_path / "hub")
    return tmp_path / "hub"


def changed(folder, change, **config):
    """Rewrite the weights (a function of the dict) and fields of the configuration."""
    tensors = load_file(folder / "model.safetensors")
    tensors = {name: value.clone() for name, value in tensors.items()}
    save_file(change(tensors) or tensors, folder / "model.safetensors")
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    return folder


@pytest.mark.parametrize(
    "prefix", ["", "backbone.", "backbone.backbone.", "module.backbone.", "backbone._orig_mod.backbone."]
)
def test_wrappers_come_off(prefix, hub, tmp_path):
    changed(hub, lambda t: {name.replace("backbone.", prefix): value for name, value in t.items()})
    imported(hub, tmp_path / "model")
    expected = load_file(FIXTURES / "mdlm.expected.safetensors")
    assert (logits_of(from_pretrained(str(tmp_path / "model")), expected) - expected["logits"]).abs().max() < CLOSE


def test_a_teachers_weights_are_left_out_and_said_so(hub):
    changed(hub, lambda t: t | {name.replace("backbone.", "teacher."): value + 1 for name, value in t.items()})
    found = understand(open_source(hub))
    assert sum(name.startswith("teacher.") for name in found.ignored) == len(found.sets["ema"]) + 1


def test_every_key_is_accounted_for_or_listed(hub):
    def spoil(t):
        del t["backbone.blocks.1.norm2.weight"], t["backbone.output_layer.linear.bias"]
        t["backbone.blocks.0.extra"] = torch.zeros(1)
        t["backbone.blocks.0.mlp.0.bias"] = torch.zeros(47)
        t["noise.sigma"] = torch.zeros(1)

    changed(hub, spoil)
    with pytest.raises(ModelError) as error:
        understand(open_source(hub))
    for words in (
        "missing blocks.1.norm2.weight",
        "missing output_layer.linear.bias",
        "unexpected blocks.0.extra",
        "unexpected noise.sigma",
        "blocks.0.mlp.0.bias has shape (47,), not (48,)",
    ):
        assert words in str(error.value)


def spoilt(name, value):
    return lambda t: t.update({name: value})


ROTARY = "backbone.rotary_emb.inv_freq"


@pytest.mark.parametrize(
    ("change", "config", "words"),
    [
        (lambda t: {"bert.embeddings": torch.ones(2, 2)}, {}, "not the diffusion transformer .*bert.embeddings"),
        (lambda t: {n: v for n, v in t.items() if ".blocks." not in n}, {}, "no blocks"),
        (spoilt("vocab_embed.embedding", torch.ones(67, 12)), {}, "name the same parameter"),
        (spoilt("backbone.blocks.999999999.norm1.weight", torch.ones(12)), {}, "unexpected blocks.999999999"),
        (spoilt("backbone.step", torch.ones(1, dtype=torch.int64)), {}, "backbone.step hold no weights"),
        (spoilt(ROTARY, torch.ones(3)), {}, "base 10,000"),
        (spoilt(ROTARY, torch.ones(5)), {}, "no number of heads"),
        (spoilt(ROTARY, rotary_buffer(12, 6)), {}, "rotary buffer says 6.*configuration says 2.*heads"),
        (lambda t: None, {"n_heads": 3}, "says 3"),
        (lambda t: None, {"n_heads": "2"}, "n_heads '2'"),
        (lambda t: None, {"n_heads": 1 << 40}, "n_heads"),
        (lambda t: None, {"dropout": 2}, "dropout 2"),
        (lambda t: None, {"time_conditioning": "no"}, "time_conditioning"),
        (lambda t: None, {"causal": True}, "causal"),
        (lambda t: None, {"model_type": "bert"}, "says it is 'bert'.*--layout"),
        (lambda t: None, {"model_type": "", "format": "mcd-model-1"}, "already an mcd model"),
        (lambda t: None, {"mcd": {"format": "mcd-model-1"}}, "damaged"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(change, config, words, hub):
    changed(hub, change, **config)
    with pytest.raises(ModelError, match=words):
        understand(open_source(hub))


@pytest.mark.parametrize(
    ("source", "path", "value", "words"),
    [
        ("mdlm.ckpt", "noise.type", "cosine", "noise schedule 'cosine'"),
        ("mdlm.ckpt", "parameterization", "sedd", "parameterization 'sedd'"),
        ("mdlm.ckpt", "backbone", "dimamba", "backbone 'dimamba'"),
        ("mdlm.ckpt", "data.tokenizer_name_or_path", "bert-base-uncased", "mask among its own tokens"),
        ("sdtt-hub", "parameterization.name", "ar", "parameterization 'ar'"),
        ("sdtt-hub", "noise.type", None, "noise schedule None"),
        ("sdtt-hub", "tokenizer.name", "text8", "mask among its own tokens"),
        ("duo.ckpt", "algo.name", "sedd", "algo 'sedd'"),
        ("duo.ckpt", "algo.causal_attention", True, "algo"),
        ("duo.ckpt", "algo.backbone", "unet", "backbone 'unet'"),
        ("duo.ckpt", "noise.type", "cosine", "noise schedule 'cosine'"),
        ("duo.ckpt", "noise.eps", "x", "noise.eps 'x'"),
    ],
)
def test_configurations_of_other_models_are_refused(source, path, value, words):
    opened = open_source(FIXTURES / source)
    *parents, last = path.split(".")
    node = opened.config
    for key in parents:
        node = node[key]
    assert last in node
    understand(opened)  # and nothing is refused as it is
    node[last] = value
    with pytest.raises(ModelError, match=words):
        understand(opened)


def test_mdlm_of_duos_repository_is_masked():
    opened = open_source(FIXTURES / "duo.ckpt")
    opened.config["algo"] |= {"name": "mdlm", "parameterization": "subs", "time_conditioning": False}
    opened.config["noise"]["eps"] = 0.01
    found = understand(opened)
    assert found.layout == "mdlm-lightning" and found.config.mask_id == 66 and not found.config.time_conditioned
    assert found.config.schedule == LogLinear(0.01)


def test_weights_that_are_not_finite_are_named_and_nothing_is_left(hub, tmp_path):
    def spoil(t):
        t["backbone.blocks.1.attn_out.weight"][3, 4] = float("nan")

    changed(hub, spoil)
    with pytest.raises(ModelError, match=r"NaN or infinity in .*attn_out\.weight"):
        imported(hub, tmp_path / "model")
    assert list((tmp_path / "model").iterdir()) == []


def test_an_average_that_does_not_match_is_refused(tmp_path):
    whole = open_source(FIXTURES / "mdlm.ckpt")
    fields = dict(whole.__dict__)
    short = type(whole)(**(fields | {"ema": whole.ema[:-1]}))
    swapped = type(whole)(**(fields | {"tensors": dict(sorted(whole.tensors.items()))}))
    for opened in (short, swapped):
        with pytest.raises(ModelError, match="take --weights raw"):
            understand(opened)
        assert understand(opened, "raw").chosen == "raw"


def test_bare_weights_need_to_be_told_what_they_are(tmp_path):
    path = tmp_path / "weights.safetensors"
    tensors = load_file(FIXTURES / "mdlm-hub" / "model.safetensors")
    del tensors[ROTARY]
    save_file(tensors, path)
    with pytest.raises(ModelError, match="give --layout"):
        understand(open_source(path))
    with pytest.raises(ModelError, match="give --heads"):
        understand(open_source(path), family="mdlm")
    with pytest.raises(ModelError, match="give --length"):
        understand(open_source(path), family="mdlm", heads=2)
    found = imported(path, tmp_path / "model", family="mdlm", heads=2, length=16)
    assert found.layout == "mdlm-bare" and named(found.assumed) == ["dropout", "time_conditioned", "eps"]
    expected = load_file(FIXTURES / "mdlm.expected.safetensors")
    assert (logits_of(from_pretrained(str(tmp_path / "model")), expected) - expected["logits"]).abs().max() < CLOSE
    torch.save(tensors, tmp_path / "weights.pt")
    assert understand(open_source(tmp_path / "weights.pt"), None, "duo", 2, 16).config.mask_id is None
    with pytest.raises(ModelError, match="--layout duo"):
        understand(open_source(FIXTURES / "mdlm-hub"), family="duo")


def named(assumed):
    """The first word of each assumption: what it is of."""
    return [line.split()[0] for line in assumed]


@pytest.fixture
def sdtt(tmp_path):
    """A function that writes the .ckpt of SDTT's own module with its parts changed, and opens it."""

    def write(**parts):
        path = tmp_path / "changed.ckpt"
        whole = torch.load(FIXTURES / "sdtt.ckpt", weights_only=True)
        torch.save({name: value for name, value in (whole | parts).items() if value is not None}, path)
        return open_source(path)

    return write


def test_sdtts_own_file_is_recognised_and_what_it_does_not_say_is_listed():
    opened = open_source(FIXTURES / "sdtt.ckpt")
    assert opened.config == {} and "hyper_parameters" not in opened.unused
    found = understand(opened, length=16)
    assert found.layout == "sdtt-lightning" and (found.chosen, found.available) == ("ema", ["ema", "raw"])
    assert named(found.assumed) == ["layout", "dropout", "time_conditioned", "eps"]
    assert origin_of(found)["assumed"] == found.assumed
    assert "--no-time-conditioned" in found.warning and found.config.mask_id == 66
    assert found.config.time_conditioned and found.config.schedule == LogLinear(1e-3)
    with pytest.raises(ModelError, match="give --length"):
        understand(opened)


def test_what_the_user_says_is_not_assumed():
    opened = open_source(FIXTURES / "sdtt.ckpt")
    found = understand(opened, family="sdtt", length=16, time_conditioned=False, eps=0.01)
    assert named(found.assumed) == ["dropout"] and found.warning is None
    assert not found.config.time_conditioned and found.config.schedule == LogLinear(0.01)


@pytest.mark.parametrize(
    ("source", "said", "words"),
    [
        ("mdlm-hub", {"time_conditioned": True}, "--time-conditioned says True, its configuration says False"),
        ("duo.ckpt", {"time_conditioned": False}, "--no-time-conditioned: .* Duo"),
        ("duo.ckpt", {"eps": 0.5}, "--eps says 0.5, its configuration says 0.001"),
    ],
)
def test_the_user_does_not_overrule_a_configuration(source, said, words):
    with pytest.raises(ModelError, match=words):
        understand(open_source(FIXTURES / source), **said)


def test_a_file_of_lightning_with_a_sampler_is_not_taken_for_sdtts(sdtt):
    with pytest.raises(ModelError, match="give --layout"):
        understand(sdtt(sampler={"random_state": None}), length=16)


def test_weights_and_average_tell_whether_there_was_a_time_input(sdtt):
    """The sines of sigma = 0 are 0, so that what reads them is never trained in a network without the time."""
    whole = torch.load(FIXTURES / "sdtt.ckpt", weights_only=True)
    name = "backbone.backbone.sigma_map.mlp.0.weight"
    index = [key for key in whole["state_dict"] if key != "backbone.backbone.rotary_emb.inv_freq"].index(name)
    shadow = whole["ema"]["shadow_params"]
    assert not torch.equal(shadow[index][:, 128:], whole["state_dict"][name][:, 128:])
    shadow[index][:, 128:] = whole["state_dict"][name][:, 128:]
    found = understand(sdtt(ema=whole["ema"]), length=16)
    assert not found.config.time_conditioned and "to the bit" in found.warning
    found = understand(sdtt(ema=None), length=16)
    assert not found.config.time_conditioned and "nothing in the file says it" in found.warning
    for source, trained in (("mdlm.ckpt", False), ("duo.ckpt", True)):  # by the public code, without the time and with
        opened = open_source(FIXTURES / source)
        opened.config.clear()
        assert understand(opened, family="mdlm", heads=2, length=16).config.time_conditioned == trained


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("marks", "chosen"),
    [
        ({}, "raw"),
        ({"checkpoint_weights": "ema"}, "ema"),  # dlm-mmd's MMDCheckpointIO
        ({"checkpoint_weights": "raw"}, "raw"),
        ({"current_model_state": {}, "averaging_state": {}}, "ema"),  # Lightning's WeightAveraging
    ],
)
def test_weights_that_say_they_are_an_average_are_labelled_so(marks, chosen, sdtt):
    found = understand(sdtt(ema=None, **marks), length=16)
    assert (found.chosen, found.available, list(found.sets)) == (chosen, [chosen], ["ema"])
    other = {"ema": "raw", "raw": "ema"}[chosen]
    with pytest.raises(ModelError, match=f"--weights {other}: .* one set"):
        understand(sdtt(ema=None, **marks), other, length=16)


@pytest.mark.parametrize("where", ["hub", "lightning"])
def test_of_idlms_networks_the_student_is_taken(where, hub, sdtt, tmp_path):
    """Its files hold the student as `backbone`, its teacher, and `fake_model`, a model of what the student writes."""
    if where == "hub":
        others = ("teacher.", "fake_model.")
        changed(hub, lambda t: t | {n.replace("backbone.", o): v + 1 for n, v in t.items() for o in others})
        opened, expected, which = open_source(hub), "mdlm", "logits"
    else:
        state = torch.load(FIXTURES / "sdtt.ckpt", weights_only=True)["state_dict"]
        inside = {n.removeprefix("backbone."): v + 1 for n, v in state.items()}
        both = {f"{other}.{n}": v for n, v in inside.items() for other in ("teacher", "fake_model")}
        opened, expected, which = sdtt(state_dict=state | both), "sdtt", "logits_ema"
    found = understand(opened, length=16)
    assert sum(name.startswith("fake_model.") for name in found.ignored) == len(found.sets["ema"]) + 1
    write_import(found, tmp_path / "model", None, origin_of(found))
    expected = load_file(FIXTURES / f"{expected}.expected.safetensors")
    assert (logits_of(from_pretrained(str(tmp_path / "model")), expected) - expected[which]).abs().max() < CLOSE
    ignored = json.loads((tmp_path / "model" / "origin.json").read_text())["ignored_keys"]
    assert sum(name.startswith("fake_model.") for name in ignored) == len(found.sets["ema"]) + 1


def mmd_config(**algo):
    """Of the configuration that dlm-mmd's files hold (configs/ at 068eba4), what is read."""
    algo = {"name": "mmd", "backbone": "hf_dit", "parameterization": "subs", "time_conditioning": False} | algo
    model = {"n_heads": 2, "length": 16, "dropout": 0.1}
    return {"algo": algo, "model": model, "noise": {"type": "log-linear", "eps": 0.01}, "data": {}}


def test_a_folder_of_dlm_mmd_is_its_average(tmp_path, sdtt):
    """As its MMDCheckpointIO writes it for evaluation: the average as state_dict, marked so, and the configuration."""
    sdtt(ema=None, checkpoint_weights="ema", hyper_parameters={"config": mmd_config()})
    (tmp_path / "folder").mkdir()
    (tmp_path / "changed.ckpt").rename(tmp_path / "folder" / "model.ckpt")
    found = imported(tmp_path / "folder", tmp_path / "model")
    assert (found.layout, found.chosen, found.warning) == ("mdlm-lightning", "ema", None)
    assert found.assumed == [] and found.config.mask_id == 66
    assert found.config.schedule == LogLinear(1e-3)  # its code passes over noise.eps
    assert json.loads((tmp_path / "model" / "origin.json").read_text())["licence"] == "mit"
    with pytest.raises(ModelError, match="algo 'sedd'"):
        understand(sdtt(hyper_parameters={"config": mmd_config(name="sedd")}))


def test_published_sizes_are_known():
    large = Sizes(50258, 1536, 24, 128)
    assert sum(torch.Size(shape).numel() for shape in large.shapes().values()) == 863_158_098
    assert sizes_of(large.shapes(), "x") == large


def test_shards_are_read_as_one(hub, tmp_path):
    tensors = load_file(hub / "model.safetensors")
    names = list(tensors)
    parts = {"model-00001-of-00002.safetensors": names[:9], "model-00002-of-00002.safetensors": names[9:]}
    for file, part in parts.items():
        save_file({name: tensors[name] for name in part}, hub / file)
    (hub / "model.safetensors").unlink()
    index = {"metadata": {}, "weight_map": {name: file for file, part in parts.items() for name in part}}
    (hub / "model.safetensors.index.json").write_text(json.dumps(index))
    imported(hub, tmp_path / "model")
    whole = imported(FIXTURES / "mdlm-hub", tmp_path / "whole")
    assert len(whole.source.files) == 1
    assert (tmp_path / "model" / WEIGHTS["ema"]).read_bytes() == (tmp_path / "whole" / WEIGHTS["ema"]).read_bytes()
    for value, words in (("../secret", "no file of its folder"), ("model-3.safetensors", "missing"), (3, "no file of")):
        bad = {"weight_map": index["weight_map"] | {"x": value}}
        (hub / "model.safetensors.index.json").write_text(json.dumps(bad))
        with pytest.raises(ModelError, match=words):
            open_source(hub)


@pytest.mark.parametrize("keep", [0, 7, 100, -1])
def test_truncated_safetensors_are_named(keep, hub):
    path = hub / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ModelError, match=r"model\.safetensors: truncated or not"):
        open_source(hub)


def test_folders_that_are_incomplete(hub, tmp_path):
    (hub / "config.json").write_text("[" * 100_000)
    with pytest.raises(ModelError, match=r"config\.json: cannot be read"):
        open_source(hub)
    (hub / "config.json").write_text("[1]")
    with pytest.raises(ModelError, match="no JSON object"):
        open_source(hub)
    (hub / "config.json").unlink()
    with pytest.raises(ModelError, match=r"config\.json: missing"):
        open_source(hub)
    with pytest.raises(ModelError, match="no such file or folder"):
        open_source(tmp_path / "no")
    (hub / "config.json").write_text("{}")
    (hub / "model.safetensors").unlink()
    for name in ("first.ckpt", "last.ckpt"):
        shutil.copy(FIXTURES / "mdlm.ckpt", hub / name)
    with pytest.raises(ModelError, match=r"name one of its files \(first\.ckpt, last\.ckpt\)"):
        open_source(hub)
    (hub / "first.ckpt").unlink()
    assert understand(open_source(hub)).layout == "mdlm-lightning"  # and needs no config.json


@pytest.mark.parametrize("schedule", [LogLinear(), Cosine()], ids=repr)
def test_export_then_import_is_the_identity(schedule, tiny_denoiser, tmp_path):
    model = tiny_denoiser(schedule=schedule, dropout=0.2)
    save_pretrained(model, tmp_path / "model", '{"a": 1}')
    export_mdlm(tmp_path / "model", tmp_path / "mdlm")
    assert (tmp_path / "mdlm" / "tokenizer.json").read_text() == '{"a": 1}'
    found = imported(tmp_path / "mdlm", tmp_path / "again")
    again = from_pretrained(str(tmp_path / "again"))
    assert again.config == model.config and found.layout == "mdlm-hub" and found.assumed == []
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))


def test_import_then_export_is_the_identity(tmp_path):
    """Down to the keys, shapes and bits of what the public code saved, and the fields its class reads."""
    imported(FIXTURES / "mdlm-hub", tmp_path / "model")
    export_mdlm(tmp_path / "model", tmp_path / "mdlm")
    before, after = (load_file(folder / "model.safetensors") for folder in (FIXTURES / "mdlm-hub", tmp_path / "mdlm"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    old, new = (
        json.loads((folder / "config.json").read_text()) for folder in (FIXTURES / "mdlm-hub", tmp_path / "mdlm")
    )
    del old["transformers_version"], old["auto_map"], new["auto_map"], new["mcd"]
    assert old == new


def test_models_without_such_a_layout_are_not_exported(tiny_denoiser, tmp_path):
    for i, (options, words) in enumerate(
        [
            ({"process": "uniform", "time_conditioned": True}, "uniform kind"),
            ({"process": "autoregressive"}, "autoregressive kind"),
            ({"time_conditioned": True, "schedule": Cosine()}, "conditioned on time"),
        ]
    ):
        save_pretrained(tiny_denoiser(**options), tmp_path / f"{i}")
        with pytest.raises(ModelError, match=words):
            export_mdlm(tmp_path / f"{i}", tmp_path / "out")
    save_pretrained(tiny_denoiser(), tmp_path / "model")
    with pytest.raises(ModelError, match=r"model\.raw\.safetensors: missing"):
        export_mdlm(tmp_path / "model", tmp_path / "out", "raw")
    tensors = load_file(tmp_path / "model" / "model.safetensors")
    save_file(
        {name: value for name, value in tensors.items() if "norm" not in name}, tmp_path / "model" / "model.safetensors"
    )
    with pytest.raises(ModelError, match=r"does not fit its config\.json \(backbone\.blocks\.0\.norm1"):
        export_mdlm(tmp_path / "model", tmp_path / "out")
    assert not (tmp_path / "out").exists()
