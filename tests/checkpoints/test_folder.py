"""Model folders: what is written is read back, and what does not fit is named."""

import errno
import json
import pickle

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from mcd.checkpoints import weights
from mcd.checkpoints.config import config_of_json, config_to_json
from mcd.checkpoints.folder import from_pretrained, lengthened
from mcd.checkpoints.folder import save_pretrained as save
from mcd.errors import ModelError
from mcd.process.schedule import Cosine, Linear, LogLinear

V = 23


@pytest.fixture
def model(tiny_denoiser):
    return tiny_denoiser()


@pytest.fixture
def folder(model, tmp_path):
    save(model, tmp_path / "model", '{"a": 1}')
    return tmp_path / "model"


def fail_with(error):
    def fail(*_, **__):
        raise error

    return fail


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_round_trip_of_both_weight_sets(model, tiny_denoiser, tmp_path, seeded):
    raw = tiny_denoiser(seed=1)
    save(model, tmp_path / "model", '{"a": 1}', raw=raw.state_dict())
    files = {path.name for path in (tmp_path / "model").iterdir()}
    assert files == {"config.json", "model.safetensors", "model.raw.safetensors", "tokenizer.json"}
    assert (tmp_path / "model" / "tokenizer.json").read_text() == '{"a": 1}'
    name = str(tmp_path / "model")
    ema, again = from_pretrained(name), from_pretrained(name, "raw")
    assert same(ema, model) and same(again, raw) and not same(ema, again)
    assert ema.config == model.config and ema.folder == tmp_path / "model" and not ema.training
    z = torch.randint(0, V + 1, (2, 16), generator=seeded(0))
    assert torch.equal(ema.hidden(z, torch.ones(2)), model.hidden(z, torch.ones(2)))


def test_locked_noise_is_read_back_and_older_folders_have_none(model, folder, tiny_denoiser, tmp_path, seeded):
    assert (
        "locked" not in json.loads((folder / "config.json").read_text()) and from_pretrained(str(folder)).locked is None
    )
    shown = tiny_denoiser(process="locked")
    save(shown, tmp_path / "shown", '{"a": 1}')
    again, longer = from_pretrained(str(tmp_path / "shown")), lengthened(shown, 20)
    assert same(again, shown) and again.config == shown.config and same(longer, shown)
    v = torch.rand(2, 16, generator=seeded(0))
    assert torch.equal(again.locked.first_drafts(v), shown.locked.first_drafts(v))
    config = json.loads((tmp_path / "shown" / "config.json").read_text())
    for wrong in ({"locked": ["nose"]}, {"locked": 3}, {"locked": ["draft", "draft"]}):
        with pytest.raises(ModelError, match=r"config\.json is damaged"):
            config_of_json(config | wrong)


def test_no_random_weights_are_made_to_be_overwritten(model, folder):
    before = torch.get_rng_state()
    longer = lengthened(from_pretrained(str(folder)), 20)
    assert same(longer, model) and torch.equal(torch.get_rng_state(), before)
    type(model)(model.config)  # the next one made is filled again
    assert not torch.equal(torch.get_rng_state(), before)


def test_what_is_given_replaces_what_stood_beside_a_model(model, folder, tmp_path):
    for name in ("chat_template.jinja", "tokenizer_config.json"):
        (folder / name).write_text(name)
    model.folder = folder
    save(model, tmp_path / "saved", '{"a": 1}', beside={"chat_template.jinja": "another"})
    texts = {path.name: path.read_text() for path in (tmp_path / "saved").iterdir() if path.suffix != ".safetensors"}
    assert texts.pop("config.json")
    beside = {"chat_template.jinja": "another", "tokenizer_config.json": "tokenizer_config.json"}
    assert texts == {"tokenizer.json": '{"a": 1}', **beside}


def test_stored_in_half_the_bytes_and_read_as_float32(model, folder, tmp_path):
    save(model, tmp_path / "half", dtype=torch.bfloat16)
    assert load_file(tmp_path / "half" / "model.safetensors")["backbone.embedding"].dtype == torch.bfloat16
    again = from_pretrained(str(tmp_path / "half"))
    assert again.backbone.embedding.dtype == torch.float32
    assert torch.equal(again.backbone.embedding, model.backbone.embedding.bfloat16().float())


@pytest.mark.parametrize("schedule", [LogLinear(0.01), Linear(), Cosine()], ids=repr)
@pytest.mark.parametrize("mask", [True, False])
def test_configurations_go_through_json(tiny_denoiser, schedule, mask):
    config = tiny_denoiser(schedule=schedule, process="masked" if mask else "uniform", time_conditioned=True).config
    assert config_of_json(json.loads(json.dumps(config_to_json(config)))) == config


def test_missing_files_are_named(folder, tmp_path):
    with pytest.raises(ModelError, match=r"x: no such model folder \(File name too long\)"):
        from_pretrained("x" * 5000)
    with pytest.raises(ModelError, match=r"nowhere: no such model folder"):
        from_pretrained(str(tmp_path / "nowhere"))
    with pytest.raises(ModelError, match=r"no config\.json"):
        from_pretrained(str(tmp_path))
    with pytest.raises(ModelError, match=r"^--weights raw: .* has no model\.raw\.safetensors; only runs of"):
        from_pretrained(str(folder), "raw")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"model\.safetensors: missing"):
        from_pretrained(str(folder))


@pytest.mark.parametrize("keep", [0, 5, 200, -1])
def test_truncated_weights_are_named(folder, keep):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ModelError, match=r"model\.safetensors: truncated or not a safetensors file"):
        from_pretrained(str(folder))


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", '{"format": "other"}', '{"format": "mcd-model-1"}', "\x00\xff", "[" * 99_999]
)
def test_damaged_configurations_are_named(folder, text):
    (folder / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ModelError, match=r"config\.json"):
        from_pretrained(str(folder))


@pytest.mark.parametrize(
    "change",
    [
        {"schedule": {"name": "quadratic"}},
        {"schedule": {"name": "cosine", "eps": 1}},
        {"mask_id": 999},
        {"mask_id": 5},
        {"mask_id": 23.0},
        {"backbone": {"rows": 24, "hidden": 192.0}},
        {"backbone": {"rows": 24, "heads": 0}},
        {"backbone": {"rows": 24, "layers": -1}},
        {"backbone": {"rows": 24, "width": 16}},
        {"backbone": {"rows": 24, "hidden": 15, "heads": 2}},
        {"backbone": []},
    ],
    ids=str,
)
def test_impossible_configurations_are_named(folder, change):
    config = json.loads((folder / "config.json").read_text()) | change
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"config\.json is damaged"):
        from_pretrained(str(folder))


def test_keys_that_do_not_fit_are_all_named(folder):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    tensors = {name: value.clone() for name, value in tensors.items()}
    del tensors["backbone.time.mlp.0.bias"]
    tensors["backbone.extra"] = torch.zeros(1)
    tensors["backbone.embedding"] = torch.zeros(7, 16)
    save_file(tensors, path)
    with pytest.raises(ModelError) as error:
        from_pretrained(str(folder))
    message = str(error.value)
    assert str(path) in message
    assert "missing backbone.time.mlp.0.bias" in message
    assert "unexpected backbone.extra" in message
    assert "backbone.embedding has shape (7, 16), not (24, 16)" in message


def test_a_foreign_checkpoint_lists_a_few_keys_and_counts_the_rest(folder):
    save_file({"weight": torch.zeros(2)}, folder / "model.safetensors")
    with pytest.raises(ModelError, match=r"missing backbone\.embedding.*and \d+ more"):
        from_pretrained(str(folder))


def test_nothing_pickled_is_ever_read(folder, monkeypatch, tmp_path):
    class Bomb:
        def __reduce__(self):
            return (exec, (f"open({str(tmp_path / 'boom')!r}, 'w')",))

    def refuse(*_, **__):
        raise AssertionError("unpickled")

    for module, name in ((pickle, "load"), (pickle, "loads"), (torch, "load")):
        monkeypatch.setattr(module, name, refuse)
    with (folder / "model.safetensors").open("wb") as file:
        pickle.dump(Bomb(), file)
    with pytest.raises(ModelError, match="not a safetensors file"):
        from_pretrained(str(folder))
    assert not (tmp_path / "boom").exists()


def test_a_kill_while_saving_leaves_the_old_weights(model, folder, tiny_denoiser, monkeypatch):
    monkeypatch.setattr(weights, "save_file", fail_with(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        save(tiny_denoiser(seed=9), folder)
    assert same(from_pretrained(str(folder)), model)


def test_a_full_disk_keeps_its_number(tmp_path, monkeypatch):
    """safetensors hides it in a text; whoever explains the fault to the user needs it."""
    monkeypatch.setattr(weights, "save_file", fail_with(SafetensorError("I/O error: No space left (os error 28)")))
    with pytest.raises(OSError) as error:
        weights.write_tensors(tmp_path / "a.safetensors", {"a": torch.zeros(1)})
    assert error.value.errno == errno.ENOSPC and error.value.filename == str(tmp_path / "a.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_lengthened_keeps_weights_and_predictions(model, folder, seeded):
    model = from_pretrained(str(folder))
    longer = lengthened(model, 40)
    assert longer.config.backbone.length == 40 and longer.folder == folder and not longer.training
    assert same(longer, model)
    z = torch.randint(0, V + 1, (2, 16), generator=seeded(0))
    assert torch.equal(longer.hidden(z, torch.ones(2)), model.hidden(z, torch.ones(2)))
    assert longer.hidden(torch.zeros(1, 40, dtype=torch.int64), torch.ones(1)).shape == (40, 16)
