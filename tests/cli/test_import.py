"""mcd import, export and push on the command line, with no network."""

import contextlib
import hashlib
import json
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models

from mcd.checkpoints.folder import from_pretrained
from mcd.cli.import_ import fitted
from mcd.cli.main import main
from mcd.data.tokenizer import tokenizer_of_model
from mcd.report.model_card import model_card

FIXTURES = Path(__file__).parents[1] / "checkpoints" / "fixtures"


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(name):
        raise OSError(f"no network for {name}")

    monkeypatch.setattr(Tokenizer, "from_pretrained", staticmethod(refuse))


def refused(capsys, argv, *words, status=2):
    assert main([str(word) for word in argv]) == status
    error = capsys.readouterr().err
    assert error.startswith("mcd: ") and error.count("\n") == 1
    for word in words:
        assert word in error, (word, error)


@pytest.mark.heavy
@pytest.mark.parametrize(("name", "V"), [("mdlm.ckpt", 66), ("duo.ckpt", 67)])
def test_a_lightning_checkpoint_brings_its_tokenizer(name, V, tmp_path, capsys):
    """GPT-2's of MDLM without the [PAD] that has the mask's number; of Duo, which counts it, with it."""
    out = tmp_path / "model"
    assert main(["import", str(FIXTURES / name), "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "weights: ema (of ema, raw), in float32; tokenizer: the checkpoint" in shown and f"{V} tokens" in shown
    tokenizer = tokenizer_of_model(out, V)
    assert (tokenizer.token_to_id("[PAD]") == 66) == (V == 67) and tokenizer.token_to_id("<|endoftext|>") == 65
    assert {path.name for path in out.iterdir()} == {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "origin.json",
    }
    origin = json.loads((out / "origin.json").read_text())
    digest = hashlib.sha256((FIXTURES / name).read_bytes()).hexdigest()
    assert origin["source"] == name and origin["files"] == {name: digest} and origin["tokenizer"] == "the checkpoint"
    rows = tmp_path / "rows.jsonl"
    argv = ["sample", str(out), "--steps", "2", "--num", "2", "--threads", "1", "--out", str(rows)]
    assert main(argv) == 0 and len(rows.read_text().splitlines()) == 2


def test_what_was_assumed_of_sdtts_own_file_is_printed_and_recorded(tmp_path, capsys):
    source, out = str(FIXTURES / "sdtt.ckpt"), tmp_path / "model"
    assert main(["import", source, "--length", "16", "--tokenizer", "none", "--out", str(out)]) == 0
    shown = capsys.readouterr()
    assumed = json.loads((out / "origin.json").read_text())["assumed"]
    assert [line.split()[0] for line in assumed] == ["layout", "dropout", "time_conditioned", "eps"]
    assert all(f"assumed: {line}\n" in shown.out for line in assumed)
    assert "reads the time; taken: time_conditioned True: " in shown.err and shown.err.count("\n") == 1
    for option, conditioned in (("--time-conditioned", True), ("--no-time-conditioned", False)):
        said = ["--length", "16", "--tokenizer", "none", option, "--eps", "0.01", "--out", str(tmp_path / option)]
        assert main(["import", source, *said]) == 0
        assert capsys.readouterr().err == ""
        config = from_pretrained(str(tmp_path / option)).config
        assert config.time_conditioned == conditioned and config.schedule.eps == 0.01
        assumed = json.loads((tmp_path / option / "origin.json").read_text())["assumed"]
        assert [line.split()[0] for line in assumed] == ["layout", "dropout"]
    refused(capsys, ["import", source, "--eps", "1", "--out", tmp_path / "x"], "--eps 1", "[0, 1)")


def test_a_tokenizer_that_no_configuration_names_is_an_assumption(tmp_path, monkeypatch):
    monkeypatch.setattr("mcd.data.tokenizer.load_tokenizer", lambda name: words(66))
    argv = ["import", str(FIXTURES / "sdtt.ckpt"), "--length", "16", "--out", str(tmp_path / "model")]
    assert main(argv) == 0
    origin = json.loads((tmp_path / "model" / "origin.json").read_text())
    assert origin["tokenizer"] == "gpt2" and "tokenizer gpt2: of the published checkpoints" in origin["assumed"]


def test_networks_beside_the_student_are_named_once(tmp_path, capsys):
    folder = tmp_path / "idlm"
    shutil.copytree(FIXTURES / "mdlm-hub", folder)
    tensors = load_file(folder / "model.safetensors")
    others = {n.replace("backbone.", f"{o}."): v + 1 for n, v in tensors.items() for o in ("teacher", "fake_model")}
    save_file(tensors | others, folder / "model.safetensors")
    assert main(["import", str(folder), "--tokenizer", "none", "--out", str(tmp_path / "model")]) == 0
    n = len(tensors)
    shown = capsys.readouterr().out
    assert f"left out: fake_model.* ({n} tensors), teacher.* ({n} tensors), backbone.rotary_emb.inv_freq\n" in shown


def test_a_folder_of_one_ckpt_needs_no_configuration(tmp_path):
    (tmp_path / "folder").mkdir()
    shutil.copy(FIXTURES / "mdlm.ckpt", tmp_path / "folder" / "model.ckpt")
    assert main(["import", str(tmp_path / "folder"), "--out", str(tmp_path / "model")]) == 0
    assert from_pretrained(str(tmp_path / "model")).config.vocab_size == 66


def test_both_sets_of_weights(tmp_path):
    out = tmp_path / "model"
    assert main(["import", str(FIXTURES / "mdlm.ckpt"), "--weights", "both", "--out", str(out)]) == 0
    ema, raw = (from_pretrained(str(out), kind).backbone.embedding for kind in ("ema", "raw"))
    assert not torch.equal(ema, raw)


def test_a_tokenizer_that_is_not_to_be_had_is_told_before_anything_is_written(tmp_path, capsys):
    out = tmp_path / "model"
    source = str(FIXTURES / "mdlm-hub")
    refused(capsys, ["import", source, "--out", out], "gpt2", "--tokenizer", "tokenizer.json", "none")
    assert not list(tmp_path.iterdir())
    assert main(["import", source, "--tokenizer", "none", "--out", str(out)]) == 0
    assert not (out / "tokenizer.json").exists()
    assert json.loads((out / "origin.json").read_text())["tokenizer"] is None
    refused(capsys, ["sample", out], "no tokenizer.json")


def words(n):
    return Tokenizer(models.WordLevel({f"w{i}": i for i in range(n)}))


def test_tokenizers_are_fitted_or_refused(tmp_path, capsys):
    duo = Tokenizer.from_str(fitted(words(66), 67, "x"))
    assert duo.token_to_id("[PAD]") == 66 and duo.get_vocab_size() == 67
    words(60).save(str(tmp_path / "small.json"))
    words(66).save(str(tmp_path / "tokenizer.json"))
    argv = ["import", FIXTURES / "mdlm-hub", "--out", tmp_path / "model", "--tokenizer"]
    refused(capsys, [*argv, tmp_path / "small.json"], "small.json", "60", "66")
    refused(capsys, [*argv, tmp_path / "no.json"], "no.json", "no such file")
    assert main([str(word) for word in [*argv, tmp_path]]) == 0
    assert tokenizer_of_model(tmp_path / "model", 66).token_to_id("w65") == 65


@pytest.mark.heavy
def test_requests_that_make_no_sense(tmp_path, capsys):
    out, ckpt = tmp_path / "model", FIXTURES / "mdlm.ckpt"
    refused(capsys, ["import", tmp_path / "no.ckpt", "--out", out], "no.ckpt", "no such file")
    refused(capsys, ["import", "models/last.ckpt", "--out", out], "models/last.ckpt", "no such file")
    refused(capsys, ["import", tmp_path, "--out", out], "no config.json")
    refused(capsys, ["import", ckpt, "--revision", "main", "--out", out], "--revision main", "only the hub")
    refused(capsys, ["import", ckpt, "--heads", "0", "--out", out], "--heads 0")
    refused(capsys, ["import", ckpt, "--heads", "3", "--out", out], "--heads says 3", "configuration says 2")
    refused(capsys, ["import", FIXTURES / "mdlm-hub", "--weights", "ema", "--out", out], "--weights ema", "one set")
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine").write_text("x")
    for command in (["import", ckpt], ["export", "demo"]):
        refused(capsys, [*command, "--out", full], f"--out {full}", "not empty")
    refused(capsys, ["push", "demo", full], "not empty")
    for hub_id in ("justaname", "a/b/c", "a/..", "owner/na me"):
        refused(capsys, ["push", "demo", hub_id], hub_id, "OWNER/NAME")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full"] and (full / "mine").read_text() == "x"


def test_a_hostile_checkpoint_is_read_and_not_run(tmp_path, capsys):
    """The fixture with a call in place of its configuration: imported all the same once told what is missing."""
    marker, path = tmp_path / "marker", tmp_path / "evil.ckpt"
    text = f"touch {marker}".encode()
    call = b"cposix\nsystem\n(X" + len(text).to_bytes(4, "little") + text + b"tR"
    with zipfile.ZipFile(FIXTURES / "mdlm.ckpt") as whole, zipfile.ZipFile(path, "w") as evil:
        for entry in whole.infolist():
            data = whole.read(entry)
            if entry.filename.endswith("/data.pkl"):
                assert data.count(b"X\x06\x00\x00\x00config") >= 1 and data[:3] == b"\x80\x02}"
                data = data[:2] + call + b"0" + data[2:]  # runs, and is forgotten
            evil.writestr(entry, data)
    assert main(["import", str(path), "--out", str(tmp_path / "model")]) == 0
    assert not marker.exists()
    with contextlib.suppress(Exception):  # what else is pickled in it is not installed here
        torch.load(path, weights_only=False)
    assert marker.exists()


def test_a_stopped_import_is_done_again(tmp_path, monkeypatch):
    out = tmp_path / "model"
    partial = tmp_path / "model.partial"
    partial.mkdir()
    (partial / "model.safetensors").write_bytes(b"half")
    out.mkdir()
    assert main(["import", str(FIXTURES / "duo.ckpt"), "--out", str(out)]) == 0
    assert not partial.exists() and from_pretrained(str(out)).config.mask_id is None


def test_a_full_disk_leaves_nothing(ours, tmp_path, monkeypatch, capsys):
    import errno
    import os

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    refused(capsys, ["import", FIXTURES / "duo.ckpt", "--out", tmp_path / "model"], "no space left", status=1)
    refused(capsys, ["export", ours, "--out", tmp_path / "model"], "no space left", status=1)
    assert not list(tmp_path.iterdir())


def test_what_stands_beside_a_model_goes_out_and_comes_back(ours, tmp_path):
    shutil.copytree(ours, tmp_path / "model")
    beside = ("chat_template.jinja", "generation_config.json", "tokenizer_config.json")
    for name in beside:
        (tmp_path / "model" / name).write_text('{"a": "{{ messages }}"}')
    mdlm, again, other = (tmp_path / name for name in ("mdlm", "again", "other"))
    assert main(["export", str(tmp_path / "model"), "--out", str(mdlm)]) == 0
    assert main(["import", str(mdlm), "--out", str(again)]) == 0
    (mdlm / "tokenizer_config.json").unlink()
    (tmp_path / "model" / "LICENSE").write_text("of the tokenizer")
    assert main(["import", str(mdlm), "--tokenizer", str(tmp_path / "model"), "--out", str(other)]) == 0
    for folder in (mdlm, again, other):
        assert all((folder / name).is_file() for name in beside if (folder, name) != (mdlm, beside[2]))
    assert not (other / "LICENSE").exists()


def test_a_model_goes_out_and_comes_back(ours, tmp_path):
    assert main(["export", str(ours), "--out", str(tmp_path / "mdlm")]) == 0
    assert main(["import", str(tmp_path / "mdlm"), "--out", str(tmp_path / "again")]) == 0
    model, again = (from_pretrained(str(folder)) for folder in (ours, tmp_path / "again"))
    assert model.config == again.config
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))
    tokens = (tokenizer_of_model(one.folder, 2048).to_str() for one in (model, again))
    assert len(set(tokens)) == 1


RUN = {
    "command": "mcd distill mcd --teacher /home/someone/teacher",
    "config": {
        "command": "distill",
        "teacher": "/home/someone/teacher",
        "weights": "ema",
        "data": "/home/someone/corpus.jsonl",
        "objective": {"name": "mcd", "delta0": 0.001953125},
        "train": {"lr": 6e-05, "steps": 10, "rounds": 5, "batch_size": 8},
    },
}
PROTOCOL = {
    "scorer": "gpt2-large",
    "sampler": "ancestral",
    "precision": "fp64",
    "samples": 64,
    "digest": "abc",
    "tail": None,
}
ROW = {"model": "/home/someone/run", "round": 5, "steps": 8, "nfe": 8.0, "gen_ppl": 118.1, "gen_ppl_lo": 110.0}
ROW |= {"gen_ppl_hi": 126.0, "entropy": 5.321, "protocol": PROTOCOL}


@pytest.fixture
def run(ours, tmp_path):
    shutil.copytree(ours, tmp_path / "run")
    (tmp_path / "run" / "run.json").write_text(json.dumps(RUN))
    rows = [ROW, ROW | {"steps": 16, "gen_ppl": 77.7, "entropy": None}, ROW | {"gen_ppl": 66.6, "protocol": None}]
    (tmp_path / "run" / "metrics.json").write_text(json.dumps({"rows": [*rows, {"valid_nelbo": 3.0}, 5]}))
    return tmp_path / "run"


def test_the_card_says_how_it_was_made_and_measured(run):
    card = model_card(run, "me/student", "apache-2.0")
    assert card.startswith("---\n") and "license: apache-2.0" in card and "# student" in card
    assert '```python\nimport mcd\n\nmodel = mcd.from_pretrained("me/student")\n```' in card
    for words in (
        "Method: mcd (delta0 0.001953125)",
        "Teacher: teacher",
        "corpus.jsonl",
        "lr 6e-05",
        "arXiv:2602.00792",
    ):
        assert words in card
    assert "| run | 5 | 8 | 8.0 | 118.1 (110.0 to 126.0) | 5.321 | [1] |" in card
    assert "[1] scorer gpt2-large, sampler ancestral, precision fp64, samples 64" in card
    assert "77.7" not in card and "66.6" not in card  # a Gen PPL without entropy, and one without its protocol
    assert 'mcd.from_pretrained("me/student")' in card and "/home/someone" not in card


def test_the_card_shows_likelihoods_per_token_and_per_byte(run):
    bound = {"model": "/home/someone/run", "text": "sotu", "valid_nelbo": 3.8071, "valid_ppl": 45.01, "exact": False}
    bound |= {"valid_bpb": 1.5374, "valid_bpb_lo": 1.4, "valid_bpb_hi": 1.7, "protocol": {"samples": 32}}
    causal = bound | {"model": "smollm2", "exact": True, "bytes_of": "less", "protocol": {"scorer": "smollm2"}}
    words = bound | {"text": "hmm", "valid_bpb": None}
    (run / "metrics.json").write_text(json.dumps({"rows": [ROW, bound, causal, words, {"valid_nelbo": 3.0}]}))
    card = model_card(run, "me/student")
    assert "| run | sotu | 3.807 | 45.0 | 1.537 (1.400 to 1.700) | bound | [2] |" in card
    assert "| smollm2 | sotu | 3.807 | 45.0 | 1.537 (1.400 to 1.700) of the decoded text | exact | [3] |" in card
    assert "| run | hmm | 3.807 | 45.0 |  | bound | [2] |" in card and "/home/someone" not in card
    assert "[2] samples 32" in card and "118.1" in card and "[3] scorer smollm2" in card


def test_the_card_of_an_import_names_its_origin(tmp_path):
    assert main(["import", str(FIXTURES / "duo.ckpt"), "--out", str(tmp_path / "duo")]) == 0
    card = model_card(tmp_path / "duo", "me/duo")
    assert "uniform diffusion" in card and "duo-lightning; weights: ema" in card and "arXiv:2506.10892" in card
    assert "license: apache-2.0" in card and "None were published" in card and "2602.00792" not in card


@pytest.mark.parametrize("name", ["run.json", "metrics.json", "origin.json"])
@pytest.mark.parametrize(
    "text", ["", "[]", '{"rows": 3, "config": 3}', '{"config": {"objective": 3, "train": []}}', "[" * 99_999]
)
def test_a_card_is_made_whatever_the_records_hold(name, text, run):
    (run / name).write_text(text)
    assert "## Figures" in model_card(run, "me/x")


def test_a_folder_stands_in_for_the_hub(run, tmp_path, capsys):
    out = tmp_path / "pushed"
    assert main(["push", str(run), f"file://{out}", "--license", "mit"]) == 0
    names = {"config.json", "model.safetensors", "tokenizer.json", "README.md"}
    assert {path.name for path in out.iterdir()} == names  # and neither run.json nor metrics.json, which hold paths
    assert all((out / name).read_bytes() == (run / name).read_bytes() for name in names - {"README.md"})
    assert "license: mit" in (out / "README.md").read_text()
    assert load_file(out / "model.safetensors").keys() == from_pretrained(str(out)).state_dict().keys()
    (run / "model.safetensors").unlink()
    refused(capsys, ["push", run, tmp_path / "more"], "model.safetensors: missing")
    assert not (tmp_path / "more").exists()


@pytest.mark.parametrize(
    "argv", [["import", "owner/name", "--out", "x"], ["export", "demo", "--out", "x"], ["push", "demo", "a/b"]]
)
def test_dry_runs_do_nothing(argv, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([*argv, "--dry-run"]) == 0
    assert isinstance(json.loads(capsys.readouterr().out), dict) and not list(tmp_path.iterdir())
