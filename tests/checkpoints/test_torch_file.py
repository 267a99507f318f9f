"""Files of torch.save read without unpickling: the same tensors as torch reads, and lies refused."""

import collections
import io
import os
import pickle
import struct
import zipfile
from pathlib import Path

import pytest
import torch

from mcd.checkpoints.source import open_source
from mcd.checkpoints.torch_file import TorchFile, View
from mcd.errors import ModelError

FIXTURES = Path(__file__).parent / "fixtures"


def strange_tensors():
    """Views that share storages, turned, cut, of one element and of none, in every kind of weight."""
    base = torch.arange(60, dtype=torch.float32).view(5, 12)
    yield "base", base
    yield "turned", base.T
    yield "cut", base[1:4, 2:9:3]
    yield "one", base[2, 3]
    yield "none", base[:0]
    yield "apart", torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0)).permute(2, 0, 1)
    for dtype in (torch.float64, torch.float16, torch.bfloat16):
        yield str(dtype), torch.linspace(-3, 3, 7).to(dtype)
    yield "parameter", torch.nn.Parameter(torch.ones(2, 2))


def test_tensors_are_those_that_torch_reads(tmp_path):
    path = tmp_path / "a.pt"
    torch.save(dict(strange_tensors()), path)
    expected = torch.load(path, weights_only=True)
    file = TorchFile(path)
    tensors = file.tensors(file.root)
    assert list(tensors) == list(expected)
    for name, stored in tensors.items():
        tensor = stored.read()
        assert torch.equal(tensor, expected[name]) and tensor.dtype == expected[name].dtype, name


def test_what_is_no_weight_is_no_view(tmp_path):
    path = tmp_path / "a.pt"
    torch.save(
        {"w": torch.ones(2), "step": torch.tensor(3), "flags": torch.ones(2) > 0, "text": "x", 5: torch.ones(1)}, path
    )
    file = TorchFile(path)
    assert list(file.tensors(file.root)) == ["w"]


class Call:
    def __init__(self, function, *args):
        self.call = (function, args)

    def __reduce__(self):
        return self.call


def test_nothing_in_a_checkpoint_runs(tmp_path):
    marker, path = tmp_path / "marker", tmp_path / "evil.ckpt"
    call = Call(os.system, f"touch {marker}")
    torch.save(
        {
            "state_dict": {"backbone.w": torch.ones(2)},
            "hyper_parameters": {"config": call, "tokenizer": call},
            "x": call,
        },
        path,
    )
    found = open_source(path)
    assert torch.equal(found.tensors["backbone.w"].read(), torch.ones(2))
    assert found.config == {} and found.tokenizer is None and not marker.exists()
    torch.load(path, weights_only=False)
    assert marker.exists()  # what torch would have done


def zipped(path, data, entries, method=zipfile.ZIP_STORED):
    """A zip file as torch writes it, with the pickle `data`."""
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("a/data.pkl", data)
        for name, content in entries.items():
            archive.writestr(f"a/{name}", content)
    return path


def tensor_pickle(elements=6, offset=0, shape=(2, 3), stride=(3, 1), key="0", kind="FloatStorage"):
    """The pickle of {"w": a tensor}, as torch writes it, with the numbers given."""

    class Storage:
        pass

    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            return ("storage", KINDS[kind], key, "cpu", elements) if isinstance(value, Storage) else None

    class Tensor:
        def __reduce__(self):
            rebuild = torch._utils._rebuild_tensor_v2
            return rebuild, (Storage(), offset, shape, stride, False, collections.OrderedDict())

    out = io.BytesIO()
    Pickler(out, 2).dump({"w": Tensor()})
    return out.getvalue()


KINDS = {name: getattr(torch, name) for name in ("FloatStorage", "HalfStorage", "LongStorage")}
SIX = struct.pack("<6f", *range(6))


def test_the_builder_of_lies_tells_the_truth(tmp_path):
    file = TorchFile(zipped(tmp_path / "a.pt", tensor_pickle(), {"data/0": SIX}))
    assert file.view(file.root["w"]) == View("0", torch.float32, 6, 0, (2, 3), (3, 1))
    (stored,) = file.tensors(file.root).values()
    assert torch.equal(stored.read(), torch.arange(6.0).view(2, 3))


@pytest.mark.parametrize(
    "lie",
    [
        {"offset": 1},
        {"offset": -1},
        {"shape": (3, 3)},
        {"stride": (4, 1)},
        {"stride": (-3, 1)},
        {"shape": (-2, 3)},
        {"shape": (2,)},
        {"shape": [2, 3]},
        {"stride": 3},
        {"shape": (2, "3")},
        {"shape": (True, 3)},
        {"shape": (1 << 40, 1), "stride": (0, 1)},
        {"shape": (1 << 62, 1 << 62), "stride": (0, 0)},
        {"shape": (1,) * 60, "stride": (1,) * 60},
        {"elements": -6},
        {"offset": 1 << 70},
        {"elements": 2.0},
    ],
    ids=str,
)
def test_sizes_strides_and_offsets_that_lie_are_refused(lie, tmp_path):
    file = TorchFile(zipped(tmp_path / "a.pt", tensor_pickle(**lie), {"data/0": SIX}))
    with pytest.raises(ModelError, match=r"a\.pt: a tensor"):
        file.tensors(file.root)


@pytest.mark.parametrize(
    ("lie", "entries"),
    [
        ({"elements": 7}, {"data/0": SIX}),
        ({"elements": 1 << 50, "shape": (1 << 50,), "stride": (1,)}, {"data/0": SIX}),
        ({"kind": "HalfStorage"}, {"data/0": SIX}),
        ({"key": "1"}, {"data/0": SIX}),
        ({"key": "../data.pkl"}, {"data/0": SIX}),
        ({"key": "/etc/passwd"}, {"data/0": SIX}),
        ({}, {}),
    ],
    ids=str,
)
def test_storages_that_are_not_what_they_are_said_to_be(lie, entries, tmp_path):
    file = TorchFile(zipped(tmp_path / "a.pt", tensor_pickle(**lie), entries))
    with pytest.raises(ModelError, match=r"a\.pt: "):
        for stored in file.tensors(file.root).values():
            stored.read()


def test_archives_that_are_not_torchs(tmp_path):
    path = tmp_path / "a.ckpt"

    def refused(words):
        with pytest.raises(ModelError, match=words):
            TorchFile(path)

    path.write_bytes(b"")
    refused("not a file of torch.save")
    path.write_bytes(b"PK\x03\x04nonsense")
    refused("truncated or damaged")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("word/document.xml", "x")
    refused("no data.pkl")
    zipped(path, tensor_pickle(), {"data/0": SIX}, zipfile.ZIP_DEFLATED)
    refused("compressed")
    zipped(path, tensor_pickle(), {"byteorder": b"big"})
    refused("big-endian")
    zipped(path, b"\x80\x02garbage", {})
    refused(r"a\.ckpt: a damaged pickle|takes from an empty stack")
    torch.save({"w": torch.ones(2)}, path, _use_new_zipfile_serialization=False)
    refused("old format")


def test_truncation_and_flipped_bits_are_seen(tmp_path):
    whole = (FIXTURES / "mdlm.ckpt").read_bytes()
    path = tmp_path / "a.ckpt"
    for keep in (30, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:keep])
        with pytest.raises(ModelError, match="truncated or damaged"):
            open_source(path)
    found = open_source(FIXTURES / "mdlm.ckpt")
    raw = found.tensors["backbone.vocab_embed.embedding"].read().contiguous().numpy().tobytes()
    flipped = bytearray(whole)
    flipped[whole.index(raw) + 100] ^= 4
    path.write_bytes(flipped)
    damaged = open_source(path)
    with pytest.raises(ModelError, match=r"a\.ckpt: truncated or damaged \(Bad CRC"):
        damaged.tensors["backbone.vocab_embed.embedding"].read()


def test_what_is_no_checkpoint_is_told(tmp_path):
    path = tmp_path / "a.pt"
    for value, words in (
        ([1, 2], "no dictionary"),
        ({"epoch": 3}, "no weights"),
        ({"state_dict": 3}, "no mapping"),
        ({"state_dict": {"w": torch.ones(1)}, "ema": {"shadow_params": [torch.ones(1), 3]}}, "--weights raw"),
    ):
        torch.save(value, path)
        with pytest.raises(ModelError, match=words):
            open_source(path)


def test_the_parts_of_lightnings_own_file():
    found = open_source(FIXTURES / "mdlm.ckpt")
    assert found.steps == 2 and found.ema_decay == 0.5 and found.others == ()
    assert found.config["model"]["n_heads"] == 2 and found.config["parameterization"] == "subs"
    assert found.config["model"] == {**found.config["model"], "hidden_size": 12, "cond_dim": 8, "length": 16}
    assert {"optimizer_states", "lr_schedulers", "callbacks", "loops"} <= set(found.unused)
    whole = torch.load(FIXTURES / "duo.ckpt", weights_only=False, pickle_module=_Lenient)
    found = open_source(FIXTURES / "duo.ckpt")
    assert list(found.tensors) == list(whole["state_dict"])
    for name, stored in found.tensors.items():
        assert torch.equal(stored.read(), whole["state_dict"][name])
    assert found.ema is not None and len(found.ema) == len(whole["ema"]["shadow_params"])
    for stored, expected in zip(found.ema, whole["ema"]["shadow_params"], strict=True):
        assert torch.equal(stored.read(), expected)


class _Lenient:
    """A pickle module for torch.load in which classes that are not installed are empty: the slow twin."""

    class Unpickler(pickle.Unpickler):
        def find_class(self, module, name):
            if module.split(".")[0] in ("torch", "collections", "builtins", "__builtin__"):
                return super().find_class(module, name)
            return type(name, (), {"__init__": lambda self, *a, **k: None, "__setstate__": lambda self, state: None})
