"""`mcd export --layout transformers`: the same logits from `transformers`, in a process that has no mcd."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mcd.api.model import load
from mcd.checkpoints.folder import from_pretrained, save_pretrained
from mcd.cli.main import main

TOKENIZER = (Path(__file__).parents[1] / "data" / "bpe_2048.json").read_text(encoding="utf-8")
V, L = 2048, 12
THERE = """
import sys
sys.modules["mcd"] = None
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForMaskedLM, AutoTokenizer
folder, given, out = sys.argv[1:]
model, info = AutoModelForMaskedLM.from_pretrained(folder, trust_remote_code=True, output_loading_info=True)
assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
given, found = load_file(given), {}
model.eval()
with torch.no_grad():
    found["logits"] = model(**given).logits
if model.config.mask_token_id is not None and not model.config.time_conditioned:
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)  # without it, it asks on a terminal
    assert tokenizer.mask_token_id == model.config.mask_token_id
    z = tokenizer("Fellow citizens, [MASK][MASK][MASK] peace", return_tensors="pt").input_ids
    found["asked"], found["filled"] = z, model.fill(z, steps=3, seed=1)
save_file(found, out)
"""


def there(folder, given, tmp_path):
    """What a process without mcd makes of an export and some inputs."""
    save_file(given, tmp_path / "given.safetensors")
    environment = {**os.environ, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"}
    argv = [sys.executable, "-c", THERE, str(folder), *(str(tmp_path / f"{n}.safetensors") for n in ("given", "found"))]
    done = subprocess.run(argv, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return load_file(tmp_path / "found.safetensors")


@pytest.mark.heavy
@pytest.mark.parametrize("kind", ["masked", "conditioned", "uniform"])
def test_the_logits_are_ours(kind, tiny_denoiser, tmp_path):
    more = {"time_conditioned": True} if kind == "conditioned" else {"process": kind}
    model = tiny_denoiser(V=V, length=L, **more)
    save_pretrained(model, tmp_path / "ours", TOKENIZER)
    out = tmp_path / "out"
    assert main(["export", str(tmp_path / "ours"), "--layout", "transformers", "--out", str(out)]) == 0
    z = torch.randint(model.config.backbone.rows, (3, L))
    t = torch.tensor([0.2, 0.5, 1.0])
    given = {"input_ids": z, "attention_mask": torch.ones_like(z)}
    if model.config.time_conditioned:
        given["sigma"] = -model.config.schedule.alpha(t).log().float()
    found = there(out, given, tmp_path)
    with torch.no_grad():
        expected = model.logits(model.hidden(z, t)).view(3, L, V)
    torch.testing.assert_close(found["logits"][..., :V], expected, atol=1e-5, rtol=1e-5)
    if kind == "masked":
        assert (found["logits"][..., V] < -1e30).all()
        asked, filled = found["asked"], found["filled"]
        assert (asked == V).sum() == 3 and (filled < V).all() and torch.equal(filled[asked < V], asked[asked < V])


BERT_THERE = """
import sys
sys.modules["mcd"] = None
import torch
from safetensors.torch import save_file
from transformers import AutoModelForMaskedLM, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
ids = tokenizer("Fellow citizens,[MASK][MASK] peace", return_tensors="pt").input_ids
with torch.no_grad():
    save_file({"ids": ids, "logits": AutoModelForMaskedLM.from_pretrained(sys.argv[1]).eval()(ids).logits}, sys.argv[2])
"""


@pytest.mark.heavy
def test_the_bundled_teacher_and_its_tokenizer_are_read_there(tmp_path):
    """Its students have its files, and the README exports one. `BertTokenizer`, as of its network, cannot read them."""
    assert main(["export", "demo", "--to", "transformers", "--out", str(tmp_path / "out")]) == 0
    argv = [sys.executable, "-c", BERT_THERE, str(tmp_path / "out"), str(tmp_path / "found")]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(argv, cwd=tmp_path, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    found, model = load_file(tmp_path / "found"), load("demo", device="cpu")
    before, after = (model.tokenizer.encode(text).ids for text in ("Fellow citizens,", " peace"))
    assert found["ids"].tolist() == [[*before, model.denoiser.mask_id, model.denoiser.mask_id, *after]]
    with torch.no_grad():
        expected = model.denoiser.logits(model.denoiser.hidden(found["ids"], torch.ones(1)))
    text = found["logits"][0, :, : model.tokenizer.get_vocab_size() - 1]
    torch.testing.assert_close(text, expected[:, : text.shape[1]], atol=1e-4, rtol=1e-4)


def test_what_is_not_exported(tiny_denoiser, tmp_path, capsys):
    save_pretrained(tiny_denoiser(V=V, process="autoregressive"), tmp_path / "ar", TOKENIZER)
    assert main(["export", str(tmp_path / "ar"), "--layout", "transformers", "--out", str(tmp_path / "out")]) == 2
    assert "autoregressive kind; only masked and uniform" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_configuration_names_the_code(tiny_denoiser, tmp_path):
    save_pretrained(tiny_denoiser(V=V), tmp_path / "ours", TOKENIZER)
    assert main(["export", str(tmp_path / "ours"), "--layout", "transformers", "--out", str(tmp_path / "out")]) == 0
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["auto_map"]["AutoModelForMaskedLM"] == "modeling_mcd.MCDForMaskedLM"
    assert from_pretrained(str(tmp_path / "ours")).mask_id == config["mask_token_id"] == V
