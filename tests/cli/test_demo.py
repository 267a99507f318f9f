"""The demo end to end on a tiny teacher, without a scorer: every file it promises, and what a second run keeps."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from mcd.cli import demo_work
from mcd.cli.demo_options import FULL, DemoArgs
from mcd.cli.main import main
from mcd.model.dit import DiTConfig
from mcd.model.sizes import sizes_of

LETTERS = "\n\n".join(
    f"Letter {i}. The committee met and the members agreed on the report of the minister. " * 6 for i in range(40)
)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("demo")
    (folder / "letters.txt").write_text(LETTERS, encoding="utf-8")
    data, out = folder / "letters", folder / "teacher"
    prepare = ["--vocab-size", "270", "--length", "16", "--data", str(folder / "letters.txt")]
    assert main(["prepare", *prepare, "--out", str(data)]) == 0
    size = ["--hidden", "16", "--layers", "1", "--heads", "1", "--cond-dim", "8"]
    assert main(["train", "--data", str(data), "--out", str(out), "--steps", "3", "--batch-size", "4", *size]) == 0
    return out, data


@pytest.mark.heavy
def test_demo(teacher, tmp_path, capsys):
    model, data = teacher
    out = tmp_path / "demo"
    argv = ["demo", "--out", str(out), "--teacher", str(model), "--data", str(data), "--scorer", "none"]
    argv += ["--length", "16", "--num", "4", "--rounds", "2", "--steps-per-round", "2"]
    argv += ["--teacher-steps", "4", "8", "--student-steps", "2", "4", "--round-steps", "4", "--control-steps", "4"]
    argv += ["--order-steps", "4", "--tau-only", "--nonsense", "--batch-size", "4"]
    assert main(argv) == 0
    rows = json.loads((out / "metrics.json").read_text())["rows"]
    cells = [(row["model"], row["round"], row["steps"]) for row in rows]
    assert len(set(cells)) == len(cells)
    assert set(cells) == {
        *(("teacher", None, steps) for steps in (4, 8)),
        ("teacher-spread", None, 4),
        *(("student", 2, steps) for steps in (2, 4)),
        *((model, None, None) for model in ("text", "shuffled", "control-periodic", "control-topk")),
        ("student", 1, 4),
        ("tau-only", 2, 4),
        ("teacher-cooled", None, 4),
    }
    for row in rows:
        assert row["steps"] is None or row["nfe"] <= row["steps"]
        assert row["protocol"]["digest"]
    assert len((out / "samples_student_r2_s2.jsonl").read_text().splitlines()) == 4
    page = (out / "report.html").read_text()
    assert "<html" in page and "http-equiv" not in page
    lines = [json.loads(line) for line in (out / "trajectory.jsonl").read_text().splitlines()]
    for name in ("teacher", "student"):
        states = [line for line in lines if line["model"] == name]
        assert None not in states[-1]["tokens"] and all(token is None for token in states[0]["tokens"])
        assert sorted(i for line in states for i in line["new"]) == list(range(16))

    # A second run finds every cell there, and trains nothing.
    before = {path: path.read_bytes() for path in out.glob("*.json*")}
    weights = (out / "student" / "model.safetensors").read_bytes()
    capsys.readouterr()
    assert main(argv) == 0
    assert {path: path.read_bytes() for path in out.glob("*.json*")} == before
    assert (out / "student" / "model.safetensors").read_bytes() == weights

    # Other options are refused, and so is a damaged file; a trajectory cut short is made anew.
    for option, value in (("--num", "5"), ("--scorer", "smollm2"), ("--teacher-steps", "4")):
        assert main([*argv, option, value]) == 2
        assert f"differs in {option[2:].replace('-', '_')})" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in out.glob("*.json*")} == before
    trajectory = out / "trajectory.jsonl"
    trajectory.write_bytes(before[trajectory][:-30])
    assert main(argv) == 0
    assert trajectory.read_bytes() == before[trajectory]
    (out / "metrics.json").write_text('{"rows": [')
    assert main(argv) == 2
    assert "metrics.json" in capsys.readouterr().err
    (out / "demo.json").unlink()
    assert main(argv) == 2
    assert "but no demo.json" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--num", "0"),
        ("--rounds", "0"),
        ("--steps-per-round", "0"),
        ("--length", "3"),
        ("--length", "17"),
        ("--teacher-steps", "0"),
        ("--control-steps", "100000000000"),
        ("--student-steps", ""),
    ],
)
def test_demo_refuses_options_before_the_work(teacher, tmp_path, capsys, option, value):
    argv = ["demo", "--out", str(tmp_path / "demo"), "--teacher", str(teacher[0]), "--data", str(teacher[1])]
    assert main([*argv, "--scorer", "none", "--length", "16", option, *value.split()]) == 2
    assert option in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


def planned(capsys, *words: str) -> dict:
    assert main(["demo", *words, "--dry-run"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_dry_run_tells_the_work_and_writes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    short, full = planned(capsys), planned(capsys, "--full")
    assert short["out"] == "runs/demo" and short["work"]["sets"] == 10
    assert full["out"] == "runs/demo-full" and full["num"] == 64 and full["tau_only"] and full["nonsense"]
    assert 0.5 < short["work"]["minutes"] < full["work"]["minutes"]
    assert planned(capsys, "--full", "--num", "8")["num"] == 8
    assert planned(capsys, "--scorer", "none")["work"]["scoring_tflop"] == 0.0
    assert planned(capsys, "--teacher", "owner/name")["work"] is None  # it would have to be fetched
    assert not list(tmp_path.iterdir())


def test_the_default_set_takes_ten_minutes_on_a_slow_machine(tmp_path):
    """The promise of docs/demo.md, for a teacher of 15 million parameters on two cores of 65 GFLOP/s together."""
    teacher = sizes_of(DiTConfig(rows=8193, hidden=320, layers=8, heads=5, length=128, cond_dim=16))
    short, full = replace(DemoArgs(), out=tmp_path), replace(FULL, out=tmp_path)
    assert demo_work.minutes(short, demo_work.operations(short, teacher), 65e9) <= 10.0
    labels = {cell.label for cell in demo_work.cells_of(short)}
    assert labels == {"teacher", "teacher-spread", "student"} and demo_work.compared_steps(short)
    assert set(demo_work.cells_of(replace(short, num=64))) < set(demo_work.cells_of(full))
    assert any(16 * steps in short.teacher_steps for steps in short.student_steps)


@pytest.mark.parametrize(
    ("rounds", "every", "measured"), [(1, False, []), (2, False, [1]), (5, False, [3]), (4, True, [1, 2, 3])]
)
def test_earlier_rounds(tmp_path, rounds, every, measured):
    args = DemoArgs(out=tmp_path, rounds=rounds, every_round=every)
    students = [cell.round for cell in demo_work.cells_of(args) if cell.label == "student"]
    assert [round for round in students if round != rounds] == measured
