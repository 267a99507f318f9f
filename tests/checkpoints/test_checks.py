"""Files that lie: refused with the fault named, before anything runs and before memory is taken."""

import json
import os
import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file

from mcd.checkpoints.folder import from_pretrained
from mcd.checkpoints.folder import save_pretrained as save
from mcd.errors import ModelError
from mcd.model.denoiser import Denoiser, DenoiserConfig
from mcd.model.dit import DiTConfig


@pytest.fixture
def folder(tiny_denoiser, tmp_path):
    save(tiny_denoiser(), tmp_path / "model")
    return tmp_path / "model"


class Harm:
    """Runs a command when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def harmful(path, marker, kind):
    if kind == "zip":
        torch.save({"state_dict": Harm(marker)}, path)
    else:
        path.write_bytes(pickle.dumps(Harm(marker), protocol=kind))
    with path.open("rb") as file:
        if kind != "zip":
            pickle.load(file)  # it does run
            marker.rmdir()


@pytest.mark.parametrize("kind", ["zip", 1, 2, 5])
@pytest.mark.parametrize("name", ["model.ckpt", "pytorch_model.bin", "weights"])
def test_a_pickle_in_place_of_a_model_is_refused_and_does_not_run(tmp_path, kind, name):
    harmful(tmp_path / name, tmp_path / "ran", kind)
    said = "pickle, which can run code.*`mcd import" if kind != 1 or "." in name else "is a file"
    with pytest.raises(ModelError, match=said):
        from_pretrained(str(tmp_path / name))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("kind", ["zip", 1, 2, 5])
def test_a_pickle_named_safetensors_is_refused_and_does_not_run(folder, tmp_path, kind):
    harmful(folder / "model.safetensors", tmp_path / "ran", kind)
    with pytest.raises(ModelError, match="not a safetensors file"):
        from_pretrained(str(folder))
    assert not (tmp_path / "ran").exists()


def test_a_pickle_beside_a_missing_file_is_named(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"model\.safetensors: missing; pytorch_model\.bin is a pickle.*mcd import"):
        from_pretrained(str(folder))


def test_a_safetensors_file_in_place_of_a_model_is_told_from_a_pickle(folder):
    with pytest.raises(ModelError, match=r"is a file; a model is a folder.*mcd import"):
        from_pretrained(str(folder / "model.safetensors"))


def header_of(path):
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def write(path, header, tensors):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + tensors)


NAME = "backbone.embedding"


@pytest.mark.parametrize(
    "lie",
    [
        lambda h: h[NAME].update(data_offsets=[0, 10**15]),
        lambda h: h[NAME].update(data_offsets=[16, 0]),
        lambda h: h[NAME].update(data_offsets=[-4, 0]),
        lambda h: h[NAME].update(data_offsets=h["backbone.head.norm.weight"]["data_offsets"]),
        lambda h: h[NAME].update(shape=[2**62, 2**62]),
        lambda h: h[NAME].update(shape=[24, 17]),
        lambda h: h[NAME].update(shape="24"),
        lambda h: h[NAME].update(dtype="F1024"),
        lambda h: h[NAME].update(dtype="F64"),
        lambda h: h.pop(NAME),
        lambda h: h.update({NAME: 3}),
        lambda h: h.update(__metadata__=[1]),
    ],
)
def test_headers_that_lie_are_refused(folder, lie):
    path = folder / "model.safetensors"
    header, tensors = header_of(path)
    lie(header)
    write(path, header, tensors)
    with pytest.raises(ModelError, match=r"model\.safetensors: (truncated or not a safetensors file|does not fit)"):
        from_pretrained(str(folder))


@pytest.mark.parametrize("length", [0, 1, 10**8, 2**63, 2**64 - 1])
def test_a_header_of_another_length_is_refused(folder, length):
    path = folder / "model.safetensors"
    path.write_bytes(length.to_bytes(8, "little") + path.read_bytes()[8:])
    with pytest.raises(ModelError, match="truncated or not a safetensors file"):
        from_pretrained(str(folder))


def test_a_header_of_100_megabytes_is_not_read(folder):
    path = folder / "model.safetensors"
    with path.open("wb") as file:
        file.write((10**8).to_bytes(8, "little") + b"{")
        file.truncate(10**8 + 8)  # sparse
    with pytest.raises(ModelError, match="its header claims 100,000,000 bytes"):
        from_pretrained(str(folder))


def test_a_name_twice_in_the_header_is_refused(folder):
    path = folder / "model.safetensors"
    header, tensors = header_of(path)
    text = json.dumps(header)
    write(path, (text[:-1] + f', "{NAME}": {json.dumps(header[NAME])}}}').encode(), tensors)
    with pytest.raises(ModelError, match=f"the key '{NAME}' occurs twice"):
        from_pretrained(str(folder))


@pytest.mark.parametrize(
    "change",
    [
        {"hidden": 10**12},
        {"hidden": 2**16, "heads": 2},
        {"layers": 10**9},
        {"layers": 0},
        {"layers": 4000},
        {"heads": 3},
        {"heads": 0},
        {"length": 10**12},
        {"rows": 10**9},
        {"cond_dim": 2**16, "layers": 4096},
    ],
    ids=str,
)
def test_absurd_sizes_are_refused_before_memory_is_taken(folder, change, monkeypatch):
    monkeypatch.setattr("mcd.checkpoints.folder.Denoiser", lambda config: pytest.fail("a network was made"))
    config = json.loads((folder / "config.json").read_text())
    config["backbone"] |= change
    config["mask_id"] = config["backbone"]["rows"] - 1
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"config\.json"):
        from_pretrained(str(folder))


@pytest.mark.parametrize(
    "text, why",
    [
        ("[" * 10_000 + "]" * 10_000, "nested deeper"),
        ('{"format": "mcd-model-1", "format": "mcd-model-1"}', "twice"),
        ('{"format": ' + "1" * 10**6 + "}", "1,000,000 digits"),
        ('{"format": NaN}', "NaN"),
        ('{"format": 1e999}', "beyond float64"),
        (" " * (16 << 20) + "{}", "at most"),
    ],
)
def test_bombs_of_json_are_refused(folder, text, why):
    (folder / "config.json").write_text(text)
    with pytest.raises(ModelError, match=rf"config\.json: cannot be read.*{why}"):
        from_pretrained(str(folder))


@pytest.mark.parametrize("change", [{"time_conditioned": "no"}, {"schedule": {"name": "log-linear", "eps": 2.0}}])
def test_values_that_no_network_computes_with_are_refused(folder, change):
    config = json.loads((folder / "config.json").read_text()) | change
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"config\.json is damaged"):
        from_pretrained(str(folder))


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_weights_that_are_not_finite_are_named(folder, value, dtype):
    path = folder / "model.safetensors"
    tensors = {name: tensor.to(dtype) for name, tensor in load_file(path).items()}
    tensors[NAME][3, 4] = tensors["backbone.head.linear.bias"][0] = value
    save_file(tensors, path)
    with pytest.raises(ModelError, match=rf"NaN or infinity in {NAME} \(1 of 384\), backbone.head.linear.bias \(1 of"):
        from_pretrained(str(folder))


def test_large_weights_whose_sum_overflows_are_finite(folder):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    tensors[NAME] = torch.full_like(tensors[NAME], 3e38)
    save_file(tensors, path)
    assert from_pretrained(str(folder)).backbone.embedding.max() == torch.tensor(3e38)


@pytest.mark.parametrize("sizes", [(7, 4, 1, 1, 3), (24, 16, 2, 2, 8), (5, 12, 3, 3, 16)])
def test_the_count_of_parameters_is_the_networks(sizes):
    rows, hidden, layers, heads, cond_dim = sizes
    config = DiTConfig(rows, hidden, layers, heads, 16, cond_dim)
    model = Denoiser(DenoiserConfig(config, rows - 1))
    assert config.parameters == sum(p.numel() for p in model.parameters())


def test_a_vocabulary_of_one_works_and_one_of_none_is_refused(tiny_denoiser, tmp_path, seeded):
    model = tiny_denoiser(V=1)
    save(model, tmp_path)
    again = from_pretrained(str(tmp_path))
    assert again.config.vocab_size == 1
    assert again.log_x_theta(again.hidden(torch.ones(1, 4, dtype=torch.int64), torch.ones(1))).tolist() == [[0.0]] * 4
    config = json.loads((tmp_path / "config.json").read_text())
    config["backbone"]["rows"], config["mask_id"] = 1, 0
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="no token besides the mask"):
        from_pretrained(str(tmp_path))
