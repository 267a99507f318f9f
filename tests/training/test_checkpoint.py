"""Checkpoints: whole or not at all."""

import errno
import json

import pytest
import torch

from mcd.errors import CheckpointError
from mcd.model.ema import EMA
from mcd.training import checkpoint
from mcd.training.checkpoint import load_checkpoint, newest, save_checkpoint
from mcd.training.config import TrainConfig
from mcd.training.optimizer import make_optimizers
from mcd.training.state import Counters, TrainState, teacher_of


def state_of(model, optimizers=(), teacher=False, **counters):
    copy = teacher_of(model, shared=True) if teacher else None
    return TrainState(model, copy, EMA(model, 0.9), list(optimizers), Counters(**counters))


@pytest.fixture
def save(tiny_denoiser):
    """Saves a model whose every weight is the number of the step."""

    def at(folder, *steps):
        for step in steps:
            model = tiny_denoiser()
            for p in model.parameters():
                p.data.fill_(float(step))
            save_checkpoint(folder, state_of(model, step=step))

    return at


@pytest.fixture
def load(tiny_denoiser):
    """The counters of the checkpoint that is found, and the one number that its weights are."""

    def found(folder):
        state = state_of(tiny_denoiser())
        if not load_checkpoint(folder, state):
            return None
        (number,) = {float(x) for p in state.tensors().values() for x in p.unique()}
        return state.counters.step, number

    return found


def test_the_newest_is_read_and_the_last_two_are_kept(tmp_path, save, load):
    assert load(tmp_path / "none") is None
    save(tmp_path, 1, 5, 20, 100)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000020", "step-00000100"]
    assert load(tmp_path) == (100, 100.0)


def test_what_is_loaded_can_be_changed_in_place_without_touching_the_file(tmp_path, save, tiny_denoiser):
    save(tmp_path, 1)
    before = (tmp_path / "step-00000001" / "state.safetensors").read_bytes()
    state = state_of(tiny_denoiser())
    load_checkpoint(tmp_path, state)
    for p in state.student.parameters():
        p.data.zero_()
    assert (tmp_path / "step-00000001" / "state.safetensors").read_bytes() == before


@pytest.mark.parametrize("file", ["state.safetensors", "state.json"])
@pytest.mark.parametrize("damage", ["truncate", "empty", "remove", "garbage", "flip"])
def test_damage_to_the_newest_falls_back(tmp_path, save, load, file, damage):
    save(tmp_path, 1, 2)
    path = tmp_path / "step-00000002" / file
    content = path.read_bytes()
    path.unlink()
    if damage != "remove":
        flipped = content[:-3] + bytes([content[-3] ^ 1]) + content[-2:]
        damaged = {"truncate": content[:-4], "empty": b"", "garbage": b"\xff\xfe" * 50, "flip": flipped}
        path.write_bytes(damaged[damage])
    assert load(tmp_path) == (1, 1.0)


def test_a_counter_that_changed_is_damage(tmp_path, save, load):
    save(tmp_path, 1, 2)
    path = tmp_path / "step-00000002" / "state.json"
    path.write_text(path.read_text().replace('"step": 2', '"step": 3'))
    assert load(tmp_path) == (1, 1.0)


def test_all_damaged_names_each(tmp_path, save):
    save(tmp_path, 1, 2)
    for path in tmp_path.glob("step-*"):
        (path / "state.safetensors").write_bytes(b"x")
    with pytest.raises(CheckpointError, match=r"no readable checkpoint.*step-00000002.*step-00000001"):
        newest(tmp_path)


def test_partial_folders_are_ignored_and_cleared(tmp_path, save, load):
    save(tmp_path, 1)
    (tmp_path / "partial-00000009").mkdir()
    (tmp_path / "partial-00000009" / "state.json").write_text('{"step": 9}')
    assert load(tmp_path) == (1, 1.0)
    save(tmp_path, 2)
    assert not (tmp_path / "partial-00000009").exists()


@pytest.mark.parametrize("call", ["write_tensors", "write_json"])
def test_a_full_disk_leaves_the_checkpoints_there_were(tmp_path, save, load, monkeypatch, call):
    save(tmp_path, 1, 2)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, call, full)
        with pytest.raises(OSError):
            save(tmp_path, 3)
    assert before.items() <= {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}.items()
    assert load(tmp_path) == (2, 2.0)
    save(tmp_path, 3)
    assert load(tmp_path) == (3, 3.0)


def test_saving_the_same_step_again_replaces_it(tmp_path, save, tiny_denoiser):
    save(tmp_path, 1)
    save_checkpoint(tmp_path, state_of(tiny_denoiser(), step=1, skipped=7))
    assert newest(tmp_path)[1]["skipped"] == 7


def test_another_model_is_told_from_damage(tmp_path, save, tiny_denoiser):
    save(tmp_path, 1)
    for other in (tiny_denoiser(layers=1), tiny_denoiser(hidden=8)):
        with pytest.raises(CheckpointError, match=r"step-00000001: is of another model or another version of mcd"):
            load_checkpoint(tmp_path, state_of(other))


def test_frozen_weights_are_shared_and_not_saved(tmp_path, tiny_denoiser):
    model = tiny_denoiser()
    model.requires_grad_(False)
    model.backbone.head.requires_grad_(True)
    state = state_of(model, teacher=True, step=3)
    assert state.teacher is not None and state.teacher.backbone.embedding is model.backbone.embedding
    assert state.teacher.backbone.head.linear.weight is not model.backbone.head.linear.weight
    assert {name.split(".", 1)[1] for name in state.tensors()} == {
        name for name, _ in model.named_parameters() if ".head." in name
    }
    save_checkpoint(tmp_path, state)
    fresh = tiny_denoiser(seed=1).requires_grad_(False)
    fresh.backbone.head.requires_grad_(True)
    kept = fresh.backbone.embedding.clone()
    assert load_checkpoint(tmp_path, state_of(fresh, teacher=True))
    assert torch.equal(fresh.backbone.head.linear.weight, model.backbone.head.linear.weight)
    assert torch.equal(fresh.backbone.embedding, kept)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_optimisers_go_on_from_their_tensors(tiny_denoiser, name, tmp_path):
    """Two steps, saved, restored into new optimisers, and one more: as three in a row."""

    def step(model, optimizers, seed):
        generator = torch.Generator().manual_seed(seed)
        for p in model.parameters():
            p.grad = torch.randn(p.shape, generator=generator)
        for optimizer in optimizers:
            optimizer.step()

    config = TrainConfig(optimizer=name, lr=1e-2, betas=(0.9, 0.98), weight_decay=0.1)
    models = [tiny_denoiser(), tiny_denoiser()]
    straight, stopped = (make_optimizers(model, config) for model in models)
    for seed in range(2):
        step(models[0], straight, seed)
        step(models[1], stopped, seed)
    save_checkpoint(tmp_path, state_of(models[1], stopped, step=2))
    again = tiny_denoiser(seed=9)
    fresh = make_optimizers(again, config)
    assert load_checkpoint(tmp_path, state_of(again, fresh))
    step(models[0], straight, 2)
    step(again, fresh, 2)
    for a, b in zip(models[0].parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)


def test_nothing_is_pickled(tmp_path, save):
    save(tmp_path, 1)
    assert {path.suffix for path in tmp_path.rglob("*") if path.is_file()} == {".safetensors", ".json"}
    json.loads((tmp_path / "step-00000001" / "state.json").read_text())
