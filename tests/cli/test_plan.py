"""`mcd plan`: what it prints agrees with what it writes, and what cannot be is refused."""

import json

import pytest

from mcd.checkpoints.config import read_config
from mcd.checkpoints.folder import from_pretrained
from mcd.cli.main import main


def test_the_tables_and_the_file_agree(tmp_path, capsys):
    out = tmp_path / "plan.json"
    assert main(["plan", "--size", "large", "--device", "h100", "--gpus", "8", "--json", str(out)]) == 0
    shown, estimate = capsys.readouterr().out, json.loads(out.read_text())
    assert "863M parameters" in shown and "fits" in shown and max(map(len, shown.splitlines())) <= 80
    assert f"{estimate['memory_bytes']['peak'] / 1e9:,.2f} GB" in shown
    assert estimate["tokens_per_second"] == pytest.approx(128 * 1024 / estimate["seconds"]["step"])


def test_drawing_is_estimated_for_the_share_of_a_device(tmp_path, capsys):
    out = tmp_path / "plan.json"
    assert main(["plan", "--device", "h200", "--gpus", "4", "--rows", "1000", "--json", str(out)]) == 0
    shown, found = capsys.readouterr().out, json.loads(out.read_text())["roofline"]
    assert found["rows"] == 250 and [row["steps"] for row in found["drawing"]] == [8, 32, 1024]
    for row in (*found["drawing"], found["mcd_step"]):
        assert all(f"{row[way]:,.2f} s" in shown for way in ("ours", "in_cpu_shapes", "peers"))


def test_what_does_not_fit_is_reported_with_a_fix(capsys):
    assert main(["plan", "--size", "8b", "--device", "l40s"]) == 0
    assert "does not fit" in (shown := capsys.readouterr().out) and "--strategy fsdp" in shown
    assert main(["plan", "--batch-size", "1024"]) == 0
    assert "try --checkpoint-activations" in capsys.readouterr().out


@pytest.mark.heavy
def test_this_machine_and_the_bundled_model(capsys):
    argv = ["plan", "--size", "demo", "--device", "cpu", "--batch-size", "16", "--length", "128"]
    assert main([*argv, "--precision", "32-true"]) == 0
    own = sum(p.numel() for p in from_pretrained("demo").parameters())
    assert "this CPU" in (shown := capsys.readouterr().out) and f"{own / 1e6:,.0f}M parameters" in shown


@pytest.mark.parametrize(
    "options, said",
    [
        (["--size", "huge"], "--size huge: known are tiny, duo-tiny, small, medium, large, 8b, demo"),
        (["--gpus", "3"], "--batch-size 128: must be a multiple of 3"),
        (["--gpus", "0"], "--gpus 0: must be at least 1"),
        (["--utilisation", "1.5"], "--utilisation 1.5: must be in (0, 1]"),
        (["--length", "0"], "--length 0"),
        (["--dropout", "1"], "--dropout 1"),
        (["--steps", "0"], "--steps 0"),
    ],
)
def test_what_cannot_be_is_refused(options, said, capsys):
    assert main(["plan", *options]) == 2
    assert said in capsys.readouterr().err


def test_an_unknown_device_is_refused(capsys):
    assert main(["plan", "--device", "abacus"]) == 2
    assert "--device abacus: must be a100, h100, h200, l40s, rtx4090 or cpu" in capsys.readouterr().err


def test_a_teacher_has_its_length(capsys, ours):
    longest = read_config(ours).backbone.length
    assert main(["plan", "--size", str(ours), "--length", "500"]) == 2
    said = f"--length 500: a teacher of --size {ours} takes 1 to {longest} tokens"
    assert said in capsys.readouterr().err
    for options, length in (("", longest), ("--length 4", 4), ("--length 500 --no-teacher", 500)):
        assert main(["plan", "--size", str(ours), *options.split(), "--dry-run"]) == 0
        assert json.loads(capsys.readouterr().out)["length"] == length


def test_a_dry_run_is_json(capsys):
    assert main(["plan", "--dry-run"]) == 0
    assert json.loads(capsys.readouterr().out)["parameters"] == 169_627_218
