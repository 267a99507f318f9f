"""Commands on folders of Hugging Face: distilled, gone on with, sampled; refused with the mend."""

import json

import pytest
import torch
from safetensors.torch import load_file

from mcd.checkpoints.folder import from_pretrained, save_pretrained
from mcd.cli.main import main
from mcd.data.tokenizer import load_tokenizer
from mcd.objective.ltd import LTD

pytest.importorskip("lightning_fabric")


FEW = ["--rounds", "2", "--steps-per-round", "2", "--batch-size", "4", "--length", "16", "--threads", "1"]


def distil(method, teacher, text, out, *more):
    argv = ["distill", method, "--teacher", str(teacher), "--data", str(text), "--out", str(out)]
    return main([*argv, *FEW, "--valid-every", "2", *more])


@pytest.mark.heavy
@pytest.mark.parametrize("method, kind", [("mcd", "bert"), ("sdtt", "dream"), ("cd4lm", "llada")])
def test_a_folder_is_distilled_and_the_student_sampled(published, text, tmp_path, method, kind, capsys):
    teacher, out = published(kind).folder, tmp_path / "student"
    assert distil(method, teacher, text, out) == 0
    assert "bits per byte are of the decoded text" in capsys.readouterr().err  # words without their spaces
    rows = [json.loads(line) for line in (out / "stats.jsonl").read_text().splitlines()]
    assert rows[-1]["step"] == 4 and rows[-1]["loss"] > 0 and 1.0 < rows[-1]["valid_nelbo"] < 30.0
    assert 0.1 < rows[-1]["valid_bpb"] < 60.0
    student = from_pretrained(str(out))
    assert student.config == from_pretrained(str(teacher)).config
    assert load_file(out / "model.safetensors").keys() == load_file(teacher / "model.safetensors").keys()
    drawn = tmp_path / "samples.jsonl"
    assert main(["sample", str(out), "--num", "2", "--steps", "4", "--out", str(drawn), "--threads", "1"]) == 0
    ids = [json.loads(line)["ids"] for line in drawn.read_text().splitlines()]
    assert len(ids) == 2 and all(not set(row) & set(student.config.forbidden) for row in ids)


@pytest.mark.heavy
@pytest.mark.parametrize("more", [[], ["--lora-rank", "2"]], ids=" ".join)
def test_a_student_of_locked_noise_keeps_its_table_beside_the_network(published, text, tmp_path, more):
    """What `transformers` knows has its own names; ours are left over for it, and read back by us."""
    teacher, out = published("bert").folder, tmp_path / "student"
    assert distil("ltd", teacher, text, out, "--trajectory-steps", "4", "--lr", "0.01", *more) == 0
    rows = [json.loads(line) for line in (out / "stats.jsonl").read_text().splitlines()]
    assert rows[-1]["step"] == 4 and rows[-1]["loss"] > 0 and "valid_nelbo" not in rows[-1]
    student = from_pretrained(str(out))
    assert student.config.locked == LTD.shown and student.locked.table.abs().max() > 0
    ours = load_file(out / "model.safetensors").keys() - load_file(teacher / "model.safetensors").keys()
    assert ours == {"locked.table", "locked.map", "locked.waves", "locked.prior"}
    assert main(["sample", str(out), "--num", "2", "--steps", "2", "--length", "16", "--threads", "1"]) == 0
    assert distil("ltd", out, text, tmp_path / "second", "--trajectory-steps", "4") == 0


@pytest.mark.heavy
def test_lora_from_the_command_line(published, tiny_denoiser, text, tmp_path, capsys):
    teacher, out = published("bert").folder, tmp_path / "student"
    lora = ["--lora-rank", "2", "--lora-targets", "query", "value"]
    assert distil("mcd", teacher, text, out, *lora) == 0
    before, after = from_pretrained(str(teacher)).state_dict(), from_pretrained(str(out), "raw").state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all(name.endswith(("query.weight", "value.weight")) for name in changed)
    assert (out / "adapter" / "adapter_model.safetensors").is_file()
    assert json.loads((out / "run.json").read_text())["config"]["lora"]["lora_rank"] == 2
    assert distil("mcd", teacher, text, tmp_path / "other", "--lora-rank", "2", "--lora-targets", "nose") == 2
    assert "--lora-targets nose: is no linear layer" in capsys.readouterr().err
    assert distil("mcd", teacher, text, tmp_path / "other", "--lora-alpha", "2") == 2
    assert "--lora-alpha: without --lora-rank" in capsys.readouterr().err
    tokenizer = load_tokenizer(teacher)
    save_pretrained(tiny_denoiser(V=tokenizer.get_vocab_size()), tmp_path / "ours", tokenizer.to_str())
    assert distil("mcd", tmp_path / "ours", text, tmp_path / "other", "--lora-rank", "2") == 2
    assert "--lora-rank 2: is for networks of Hugging Face" in capsys.readouterr().err


@pytest.mark.heavy
def test_training_goes_on_from_a_folder(published, text, tmp_path):
    argv = ["train", "--init", str(published("modernbert").folder), "--data", str(text), "--out", str(tmp_path / "run")]
    budget = ["--steps", "2", "--batch-size", "2", "--length", "40", "--optimizer", "adamw", "--threads", "1"]
    assert main([*argv, *budget]) == 0
    assert from_pretrained(str(tmp_path / "run")).config.backbone.length == 40  # positions are rotary


def test_text_that_names_the_mask_is_refused(published, text, tmp_path, capsys):
    text.write_text(text.read_text() + "\n\nw1 [MASK] w2 w3\n")
    assert distil("mcd", published("bert").folder, text, tmp_path / "student") == 2
    assert "holds [MASK], which the model never says" in capsys.readouterr().err


def test_data_of_another_tokenizer_is_refused(published, tiny_data, tmp_path, capsys):
    assert distil("mcd", published("bert").folder, tiny_data, tmp_path / "student") == 2
    assert "prepared with another tokenizer than the model's" in capsys.readouterr().err


def test_unknown_networks_are_refused_with_the_list(published, tmp_path, text, capsys):
    (tmp_path / "config.json").write_text('{"model_type": "t5"}')
    assert distil("mcd", tmp_path, text, tmp_path / "student") == 2
    said = capsys.readouterr().err
    assert "model_type 't5' is not known here; known are bert, roberta" in said and len(said.splitlines()) == 1


def test_without_data_the_mend_is_told(published, tmp_path, capsys):
    argv = ["distill", "mcd", "--teacher", str(published("bert").folder), "--out", str(tmp_path / "student")]
    assert main(argv) == 2
    assert "does not say what it was trained on; give --data" in capsys.readouterr().err


@pytest.mark.heavy
@pytest.mark.parametrize("kind", ["bert", "roberta"])  # 24 learnt positions; roberta's first stands before them
@pytest.mark.parametrize("said", [True, False])
def test_rows_longer_than_learnt_positions_are_refused_except_by_windows(published, text, tmp_path, capsys, kind, said):
    folder, data, out = published(kind).folder, tmp_path / "data", tmp_path / "out"
    argv = ["prepare", "--data", str(text), "--tokenizer", str(folder), "--length", "25", "--out", str(data)]
    assert main(argv) == 0
    capsys.readouterr()
    length = ["--length", "25"] if said else []
    more = ["--steps", "1", "--batch-size", "2", "--threads", "1"]
    assert main(["train", "--init", str(folder), "--data", str(data), "--out", str(out), *more, *length]) == 2
    error = capsys.readouterr().err
    assert error.startswith("mcd: --length 25") and f"--init {folder}" in error and "1 to 24" in error
    assert (str(data) in error) != said and error.count("\n") == 1 and not out.exists()
    if said:
        assert main(["sample", str(folder), "--steps", "1", "--threads", "1", *length]) == 0  # in windows
        capsys.readouterr()
        commands = [["eval", str(folder), "--out", str(out)]]
        commands += [["eval", str(folder), "--likelihood", str(data), "--out", str(out)]]
        commands += [["distill", "mcd", "--teacher", str(folder), "--data", str(data), "--out", str(out)]]
        for command in commands:
            assert main([*command, "--threads", "1", *length]) == 2, command
            error = capsys.readouterr().err
            assert error.startswith("mcd: --length 25: ") and "1 to 24" in error, (command, error)


def test_a_plan_of_a_network_of_hugging_face(copied, capsys):
    folder = str(copied("bert"))
    own = sum(p.numel() for p in from_pretrained(folder).parameters())
    assert main(["plan", "--size", folder, "--batch-size", "8", "--dry-run"]) == 0
    assert json.loads(capsys.readouterr().out)["parameters"] == own
    for options, said in (
        ("--dropout 0.2", "--dropout: does nothing here"),
        ("--length 5000 --no-teacher", "its learnt positions"),
    ):
        assert main(["plan", "--size", folder, *options.split()]) == 2
        assert said in capsys.readouterr().err


def test_a_mask_among_the_tokens_cannot_be_taken_away(published, text, tmp_path, capsys):
    argv = ["train", "--method", "duo", "--init", str(published("bert").folder), "--data", str(text)]
    assert main([*argv, "--out", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert "has no mask, and this model cannot lose its own" in said and "leave --init out" in said
    assert not (tmp_path / "run").exists()
