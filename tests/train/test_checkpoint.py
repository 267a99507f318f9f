"""Checkpoints: whole or not at all."""

import errno
import json

import pytest
import torch

from mcd.train import checkpoint
from mcd.train.checkpoint import (
    CheckpointError,
    load_latest,
    optimizer_tensors,
    restore_optimizers,
    save_checkpoint,
)
from mcd.train.optimizer import make_optimizers


def save(folder, *steps):
    for step in steps:
        save_checkpoint(folder, step, {"a": torch.full((3,), float(step))}, {"step": step})


def test_the_newest_is_read_and_the_last_two_are_kept(tmp_path):
    assert load_latest(tmp_path / "none") is None
    save(tmp_path, 1, 5, 20, 100)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000020", "step-00000100"]
    tensors, meta = load_latest(tmp_path)
    assert meta == {"step": 100} and tensors["a"].tolist() == [100.0] * 3


def test_a_loaded_checkpoint_can_be_changed_in_place_without_touching_the_file(tmp_path):
    save(tmp_path, 1)
    before = (tmp_path / "step-00000001" / "state.safetensors").read_bytes()
    tensors, _ = load_latest(tmp_path)
    tensors["a"].zero_()
    assert (tmp_path / "step-00000001" / "state.safetensors").read_bytes() == before


@pytest.mark.parametrize("file", ["state.safetensors", "state.json"])
@pytest.mark.parametrize("damage", ["truncate", "empty", "remove", "garbage", "flip"])
def test_damage_to_the_newest_falls_back(tmp_path, file, damage):
    save(tmp_path, 1, 2)
    path = tmp_path / "step-00000002" / file
    content = path.read_bytes()
    path.unlink()
    if damage != "remove":
        flipped = content[:-3] + bytes([content[-3] ^ 1]) + content[-2:]
        damaged = {"truncate": content[:-4], "empty": b"", "garbage": b"\xff\xfe" * 50, "flip": flipped}
        path.write_bytes(damaged[damage])
    _, meta = load_latest(tmp_path)
    assert meta == {"step": 1}


def test_all_damaged_names_each(tmp_path):
    save(tmp_path, 1, 2)
    for path in tmp_path.glob("step-*"):
        (path / "state.safetensors").write_bytes(b"x")
    with pytest.raises(CheckpointError, match=r"no readable checkpoint.*step-00000002.*step-00000001"):
        load_latest(tmp_path)


def test_partial_folders_are_ignored_and_cleared(tmp_path):
    save(tmp_path, 1)
    (tmp_path / "partial-00000009").mkdir()
    (tmp_path / "partial-00000009" / "state.json").write_text('{"step": 9}')
    _, meta = load_latest(tmp_path)
    assert meta == {"step": 1}
    save(tmp_path, 2)
    assert not (tmp_path / "partial-00000009").exists()


@pytest.mark.parametrize("call", ["write_tensors", "write_json"])
def test_a_full_disk_leaves_the_checkpoints_there_were(tmp_path, monkeypatch, call):
    save(tmp_path, 1, 2)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, call, full)
        with pytest.raises(OSError):
            save(tmp_path, 3)
    assert before.items() <= {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}.items()
    assert load_latest(tmp_path)[1] == {"step": 2}
    save(tmp_path, 3)
    assert load_latest(tmp_path)[1] == {"step": 3}


def test_saving_the_same_step_again_replaces_it(tmp_path):
    save(tmp_path, 1)
    save_checkpoint(tmp_path, 1, {"a": torch.zeros(1)}, {"step": 1, "again": True})
    assert load_latest(tmp_path)[1] == {"step": 1, "again": True}


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_optimisers_go_on_from_their_tensors(tiny_denoiser, name, tmp_path):
    """Two steps, saved, restored into new optimisers, and one more: as three in a row."""

    def step(model, optimizers, seed):
        generator = torch.Generator().manual_seed(seed)
        for p in model.parameters():
            p.grad = torch.randn(p.shape, generator=generator)
        for optimizer in optimizers:
            optimizer.step()

    models = [tiny_denoiser(), tiny_denoiser()]
    straight, stopped = (make_optimizers(name, model, 1e-2, (0.9, 0.98), 0.1) for model in models)
    for seed in range(2):
        step(models[0], straight, seed)
        step(models[1], stopped, seed)
    save_checkpoint(tmp_path, 2, optimizer_tensors(stopped), {})
    fresh = make_optimizers(name, models[1], 1e-2, (0.9, 0.98), 0.1)
    restore_optimizers(fresh, load_latest(tmp_path)[0])
    step(models[0], straight, 2)
    step(models[1], fresh, 2)
    for a, b in zip(*(model.parameters() for model in models), strict=True):
        assert torch.equal(a, b)
    assert all(group["base_lr"] == 1e-2 for optimizer in fresh for group in optimizer.param_groups)


def test_nothing_is_pickled(tmp_path):
    save(tmp_path, 1)
    assert {path.suffix for path in tmp_path.rglob("*") if path.is_file()} == {".safetensors", ".json"}
    json.loads((tmp_path / "step-00000001" / "state.json").read_text())
