"""`mcd adapt` from the command line, and what the other commands make of its runs."""

import json
import re

import pytest
import torch
from safetensors.torch import load_file

from mcd.checkpoints.folder import from_pretrained
from mcd.checkpoints.hub import published, write_published
from mcd.checkpoints.locate import locate
from mcd.checkpoints.smollm import NAME
from mcd.cli.main import main
from mcd.errors import ModelError
from mcd.files import read_json
from mcd.report.model_card import model_card

pytest.importorskip("lightning_fabric")
SPARE, LORA = 4, ["--lora-rank", "2"]


@pytest.fixture
def base(request, tmp_path, causal_folder):
    """The folder of a tiny autoregressive model."""
    return causal_folder(getattr(request, "param", "llama"), tmp_path / "base")


@pytest.fixture
def adapt(base, text, tmp_path):
    def run(out, *more, steps=4):
        few = ["--steps", str(steps), "--batch-size", "4", "--length", "16", "--threads", "1", "--lr-decay", "0"]
        return main(["adapt", str(base), "--data", str(text), "--out", str(tmp_path / out), *few, *more])

    return run


def stats(run):
    return [json.loads(line) for line in (run / "stats.jsonl").read_text().splitlines()]


@pytest.mark.heavy
@pytest.mark.parametrize("base", ["llama", "gpt2"], indirect=True)
def test_adapted_sampled_measured_distilled_and_pushed(base, text, adapt, tmp_path, capsys):
    """Factors alone, of a base that is named; every command reads them."""
    run, student = tmp_path / "run", tmp_path / "student"
    assert adapt("run", *LORA, "--valid-every", "2", "--log-every", "1", "--align", "0.5") == 0
    assert "the mask is <|reserved_0|> (4: a token that nothing uses" in (said := capsys.readouterr().err)
    assert f"{base} has {read_json(run / 'base.json')['valid_bpb']:.3f} bits per byte on the validation rows" in said
    assert "start of text is <|begin|>" in said and "adapter_model.safetensors (EMA)" in said
    rows = stats(run)
    assert [row["step"] for row in rows] == [1, 2, 3, 4] and rows[-1]["valid_nelbo"] > 0 and rows[0]["alignment"] > 0
    assert (run / "samples" / "step-00000004.txt").is_file() and not (run / "model.safetensors").exists()
    section = json.loads((run / "config.json").read_text())["mcd"]
    assert section["base"]["name"] == str(base) and len(section["base"]["sha256"]) == 64 and section["start"] == 0
    assert json.loads((run / "tokenizer_config.json").read_text())["mask_token"] == "<|reserved_0|>"

    drawn = tmp_path / "drawn.jsonl"
    assert main(["sample", str(run), "--num", "2", "--steps", "4", "--length", "16", "--out", str(drawn)]) == 0
    first = json.loads(drawn.read_text().splitlines()[0])
    assert SPARE not in first["ids"] and len(first["protocol"]) > 0
    fill = ["--template", "w1 [MASK:3] w2", "--length", "8", "--steps", "3"]
    assert main(["sample", str(run), *fill, "--out", str(tmp_path / "filled.jsonl")]) == 0
    ids = json.loads((tmp_path / "filled.jsonl").read_text())["ids"]
    assert ids[0] == 6 and ids[4] == 7 and SPARE not in ids  # w0 is 5
    likelihood = ["--likelihood", str(text), "--num", "4", "--length", "16", "--out", str(tmp_path / "m.json")]
    assert main(["eval", str(run), *likelihood]) == 0

    assert main(["report", str(run), "--out", str(tmp_path / "page.html")]) == 0
    assert "alignment" in (tmp_path / "page.html").read_text()

    few = ["--rounds", "1", "--steps-per-round", "2", "--batch-size", "4", "--length", "16", "--threads", "1"]
    assert main(["distill", "mcd", "--teacher", str(run), "--out", str(student), *few]) == 0  # its data are known
    assert (student / "model.safetensors").is_file() and "base" not in json.loads(
        (student / "config.json").read_text()
    )["mcd"]
    config = from_pretrained(str(run)).config
    assert from_pretrained(str(student)).config == config

    with pytest.raises(ModelError, match="a folder that nobody else has; `mcd adapt` a hub id"):
        published(run, "card")
    assert main(["push", str(student), str(tmp_path / "pushed")]) == 0
    assert from_pretrained(str(tmp_path / "pushed")).config == config


@pytest.mark.heavy
def test_factors_of_a_base_on_the_hub_are_pushed(base, adapt, tmp_path, monkeypatch):
    assert adapt("run", *LORA, steps=1) == 0
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    config["mcd"]["base"]["name"] = "them/base"
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    card = model_card(tmp_path / "run", "me/adapted")
    assert "LoRA of rank 2: only its factors are here" in card and "2410.17891" in card
    assert re.search(
        r"Base: base, autoregressive \(weights, SHA-256 \w{64}\); \d+\.\d{3} bits per byte on the val", card
    )
    files = published(tmp_path / "run", card)
    assert {"adapter_config.json", "adapter_model.safetensors", "adapter_model.raw.safetensors"} <= files.keys()
    write_published(files, tmp_path / "hub")
    find = locate
    monkeypatch.setattr(
        "mcd.checkpoints.autoregressive.locate",
        lambda name, **more: base if name == "them/base" else find(name, **more),
    )
    assert from_pretrained(str(tmp_path / "hub")).mask_id == SPARE


@pytest.mark.heavy
@pytest.mark.parametrize("base", ["qwen3"], indirect=True)
@pytest.mark.parametrize("frozen", [False, True])
def test_all_weights_are_trained_or_all_but_the_vocabulary(base, adapt, text, tmp_path, frozen, capsys):
    assert adapt("run", *(["--freeze-embeddings"] if frozen else []), "--weights", "bound", steps=2) == 0
    before, after = load_file(base / "model.safetensors"), load_file(tmp_path / "run" / "model.raw.safetensors")
    for name, value in after.items():
        equal = torch.equal(value[:4], before[name][:4])
        assert equal == (frozen and name == "model.embed_tokens.weight"), name
    assert not (tmp_path / "run" / "adapter_config.json").exists()
    assert main(["sample", str(tmp_path / "run"), "--steps", "2", "--length", "8"]) == 0
    more = ["--steps", "1", "--batch-size", "2", "--length", "16", "--threads", "1", "--method", "adapt"]
    goes_on = ["train", "--init", str(tmp_path / "run"), "--data", str(text), "--out", str(tmp_path / "on"), *more]
    assert main([*goes_on, "--align", "1"]) == 2
    assert "--align: does nothing here, since only `mcd adapt`" in capsys.readouterr().err
    assert main(goes_on) == 0 and from_pretrained(str(tmp_path / "on")).config.backbone.start == 0
    assert main(["adapt", str(tmp_path / "run"), "--out", str(tmp_path / "again")]) == 2
    assert f"`mcd train --init {tmp_path / 'run'}` trains it" in capsys.readouterr().err


@pytest.mark.heavy
@pytest.mark.parametrize("options", [LORA, ["--align", "1"], ["--freeze-embeddings", "--align", "1"]])
def test_a_run_that_was_stopped_ends_with_the_same_bits(adapt, tmp_path, monkeypatch, options):
    """Stopped by a fault between two checkpoints, by its budget, and not at all."""
    from mcd.training import loop

    assert adapt("whole", *options) == 0
    assert adapt("longer", *options, steps=2) == 0 and adapt("longer", *options) == 0
    update, calls = loop.update, []

    def failing(*args):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return update(*args)

    monkeypatch.setattr(loop, "update", failing)
    assert adapt("killed", *options, "--checkpoint-every", "2") == 1
    monkeypatch.setattr(loop, "update", update)
    assert adapt("killed", *options, "--checkpoint-every", "2") == 0
    names = sorted(path.name for path in (tmp_path / "whole").glob("*model*.safetensors"))
    assert len(names) == 2
    for name in names:
        whole = (tmp_path / "whole" / name).read_bytes()
        assert (tmp_path / "longer" / name).read_bytes() == whole == (tmp_path / "killed" / name).read_bytes()


@pytest.mark.heavy
def test_another_base_does_not_resume_a_run(base, adapt, tmp_path, capsys):
    assert adapt("run", *LORA, steps=1) == 0
    tensors = load_file(base / "model.safetensors")
    tensors["model.norm.weight"][0] += 1.0
    from safetensors.torch import save_file

    save_file(tensors, base / "model.safetensors", {"format": "pt"})
    assert adapt("run", *LORA, steps=2) == 2
    assert "it differs in base_sha256" in capsys.readouterr().err


@pytest.mark.parametrize(
    "options, said",
    [
        (["--max-weight", "3"], "--max-weight: does nothing here, since --weights mean"),
        (["--teacher-ema", "0.9"], "--teacher-ema: does nothing here, since the autoregressive model stays"),
        ([*LORA, "--freeze-embeddings"], "--freeze-embeddings: does nothing here, since with --lora-rank"),
        (["--length", "24", "--steps", "1"], "--length 24: "),
        (["--mask-token", "<|end|>"], "--mask-token <|end|>: is in use"),
        (["--recipe", "cp"], "--recipe cp: is not known"),
        (["--align", "-1"], "--align -1.0: must be at least 0"),
        (["--lora-dtype", "bfloat16"], "--lora-dtype: without --lora-rank there is no LoRA"),
    ],
)
def test_refusals(base, text, tmp_path, capsys, options, said):
    assert main(["adapt", str(base), "--data", str(text), "--out", str(tmp_path / "run"), *options]) == 2
    assert said in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_what_is_no_autoregressive_model_is_refused_with_the_command(base, adapt, text, tmp_path, capsys):
    from mcd.checkpoints.locate import DEMO

    out = ["--data", str(text), "--out", str(tmp_path / "run")]
    for model, said in ((str(DEMO), f"`mcd train --init {DEMO}` trains it"), ("nowhere", "no such model folder")):
        assert main(["adapt", model, *out]) == 2
        assert said in capsys.readouterr().err
    for command in (["sample", str(base)], ["distill", "mcd", "--teacher", str(base), *out], ["sample", NAME]):
        assert main(command) == 2
        assert "is autoregressive: `mcd adapt" in capsys.readouterr().err


def test_text_with_the_mask_is_refused(base, text, adapt, capsys, tmp_path):
    data = tmp_path / "prepared"
    text.write_text(text.read_text() + "\n\nw1 <|reserved_0|> w2 w3\n")
    argv = ["prepare", "--data", str(text), "--tokenizer", str(base), "--special-tokens", "--length", "16"]
    assert main([*argv, "--out", str(data)]) == 0
    more = ["--steps", "1", "--batch-size", "2", "--threads", "1"]
    argv = ["adapt", str(base), "--data", str(data), "--out", str(tmp_path / "run")]
    assert main([*argv, *more]) == 2  # the recipe's length
    assert "takes rows of 1 to 23 tokens; give a smaller --length" in capsys.readouterr().err
    assert main([*argv, *more, "--length", "16"]) == 2
    assert "holds <|reserved_0|>, which the model never says" in capsys.readouterr().err


def test_dry_run_and_help(capsys):
    assert main(["adapt", NAME, "--out", "runs/x", "--lora-rank", "16", "--recipe", "gpu", "--dry-run"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["base"] == NAME and shown["train"]["precision"] == "bf16-mixed" and shown["lora"]["lora_rank"] == 16
    with pytest.raises(SystemExit):
        main(["adapt", "--help"])
    assert "mcd adapt smollm2 --lora-rank 16" in capsys.readouterr().out


@pytest.mark.slow
def test_smollm2_is_adapted_offline(tmp_path, text, capsys):
    """The real network: its causal predictions are those of the scorer's; one step; the factors are read again."""
    pytest.importorskip("gguf")
    from mcd.checkpoints.autoregressive import adapted, open_autoregressive
    from mcd.eval.causal_lm import bundled, quiet_transformers

    model = adapted(open_autoregressive(NAME)).model
    ids = torch.tensor([[504, 2365, 282, 260, 31]])
    with quiet_transformers(), torch.no_grad():
        network, _ = bundled()
        expected = network(input_ids=torch.cat((torch.zeros(1, 1, dtype=torch.int64), ids), 1)).logits[0, :-1]
        with model.backbone.causally():
            found = model.logits(model.hidden(ids, torch.ones(1)))
    kept = [i for i in range(49_152) if i != model.mask_id]
    torch.testing.assert_close(found[:, kept], expected[:, kept], atol=1e-3, rtol=1e-3)
    argv = ["adapt", NAME, "--data", str(text), "--lora-rank", "4", "--lora-dtype", "bfloat16", "--steps", "1"]
    few = ["--batch-size", "2", "--length", "16", "--valid-every", "0", "--threads", "1"]
    assert main([*argv, *few, "--out", str(tmp_path / "run")]) == 0
    assert (tmp_path / "run" / "adapter_model.safetensors").stat().st_size < 3e6
    assert from_pretrained(str(tmp_path / "run")).mask_id == 16
    assert main(["sample", str(tmp_path / "run"), "--length", "8", "--steps", "2"]) == 0
