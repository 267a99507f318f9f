"""Experiments: plans hold together and can be typed; the laboratory does each thing once; the frontier's table."""

import importlib
import json
import pkgutil
import shlex
from pathlib import Path

import numpy as np
import pytest

import mcd.reproduce
from mcd.checkpoints.folder import save_pretrained
from mcd.cli.main import main
from mcd.cli.reproduce import ALONE, EXPERIMENTS
from mcd.data.languages.known import LANGUAGES
from mcd.data.tokenizer import word_tokenizer
from mcd.eval.equal_entropy import Point, ratio
from mcd.eval.laboratory.curves import Curve, matched_rows
from mcd.eval.laboratory.experiment import Cell, Training, sampler_options
from mcd.eval.laboratory.lab import Lab
from mcd.reproduce import table1
from mcd.reproduce.scales import CPU, METHODS, OWT, ROUNDS

FILES = (
    importlib.import_module(f"mcd.reproduce.{found.name}") for found in pkgutil.iter_modules(mcd.reproduce.__path__)
)
PLANNED = {module.__name__.split(".")[-1]: module for module in FILES if hasattr(module, "plan")}


@pytest.fixture
def hmm_model(tiny_denoiser, tmp_path_factory):
    """Folders of small untrained models that say they were trained on `hmm`."""

    def build(seed: int) -> Path:
        folder = tmp_path_factory.mktemp("models") / f"model{seed}"
        tokenizer = word_tokenizer(list(LANGUAGES["hmm"]().symbols))
        save_pretrained(tiny_denoiser(V=32, length=16, seed=seed), folder, tokenizer.to_str())
        (folder / "run.json").write_text(json.dumps({"config": {"data": "hmm"}}))
        return folder

    return build


def test_every_experiment_is_planned_or_stands_alone():
    assert PLANNED.keys() | ALONE == EXPERIMENTS.keys()


@pytest.mark.parametrize("name", PLANNED)
@pytest.mark.parametrize("scale", [CPU, OWT], ids=lambda scale: scale.name)
def test_a_plan_holds_together(name, scale):
    """Each run is there once, starts from runs that are there, and every cell is of a model that is there."""
    plan = PLANNED[name].plan(scale)
    runs = {}
    for run in plan.trainings:
        assert runs.setdefault(run.name, run) == run, f"{run.name} means two things"
    hub = set(scale.teachers.values())
    for run in plan.trainings:
        assert set(run.needs) <= runs.keys()
    for cell in plan.cells:
        assert cell.model in runs or cell.model in hub or cell.model.startswith("exact:"), cell
        assert (cell.scorer is None) != (cell.language is None)
        assert cell.num >= 64
        assert cell.scorer is None or scale.text[0] in runs  # the text whose held-out part it is compared with


def test_table_1_is_the_papers_grid():
    """Rounds 1 to 5 at 8 to 512 steps; on two cores the rounds between leave out what docs/reproducing.md names."""
    grid = {(round, n) for round in range(1, ROUNDS + 1) for n in (8, 16, 32, 64, 128, 256, 512)}
    for scale in (CPU, OWT):
        cells = table1.plan(scale).cells
        for method in ("mcd", "sdtt", "duo-dcd"):
            drawn = {(cell.round, cell.steps) for cell in cells if cell.label == method}
            left_out = grid - drawn
            assert drawn <= grid
            assert not left_out if scale is OWT else {(ROUNDS, n) for n in (8, 32)} <= drawn


@pytest.mark.heavy
@pytest.mark.parametrize("scale", [CPU, OWT], ids=lambda scale: scale.name)
def test_every_training_is_a_command_that_can_be_typed(scale, tmp_path, capsys):
    """Each resolves; at the papers' scale with the papers' settings."""
    runs = {run for module in PLANNED.values() for run in module.plan(scale).trainings}
    for run in runs:
        argv = run.argv(tmp_path)
        if argv[0] == "prepare" or ("--seed" in argv and not argv[-1].endswith("-s0")):
            continue  # seeds differ in nothing else
        assert main([*argv, "--dry-run"]) == 0, shlex.join(argv)
        config = json.loads(capsys.readouterr().out)
        if scale is OWT and run.name.split("/")[1] in METHODS:
            train = config["train"]
            assert (train["lr"], train["batch_size"], train["warmup_steps"], train["length"]) == (6e-5, 128, 500, 1024)
            assert train["steps"] == train["rounds"] * 10_000


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_dry_run_shows_the_plan_and_does_nothing(name, tmp_path, capsys):
    work = ["--work", str(tmp_path / "w")]
    if name in ALONE:
        assert main(["reproduce", name, *work, "--dry-run"]) == 2 and "--work" in capsys.readouterr().err
        work = []
    assert main(["reproduce", name, "--out", str(tmp_path / "r"), *work, "--dry-run"]) == 0
    assert json.loads(capsys.readouterr().out)["experiment"] == name
    assert not list(tmp_path.iterdir())


def test_unknown_experiments_are_refused(capsys):
    assert main(["reproduce", "table9"]) == 2
    assert "did you mean 'table" in capsys.readouterr().err
    assert main(["reproduce", "duality", "--scale", "owt"]) == 2
    assert "--scale owt" in capsys.readouterr().err


@pytest.mark.slow
def test_the_laboratory_does_each_thing_once(tmp_path, tiny_data, hmm_model):
    """A training and one that starts from it; one that fails as it may, one that must not; cells cached and read."""
    tiny = "--hidden 16 --layers 1 --heads 1 --cond-dim 8 --threads 1 --steps 3 --batch-size 4 --valid-every 0".split()
    teacher = Training("a/teacher", ("train", "--data", str(tiny_data), *tiny))
    high = "--rounds 1 --steps-per-round 20 --batch-size 4 --log-every 1 --threads 1 --max-loss 1e-9".split()
    failing = ("distill", "mcd", "--teacher", "@a/teacher", "--delta0", "0.5", *high)
    lab = Lab(tmp_path, 1)
    lab.train([Training("b/failing", failing, may_fail=True), teacher], main)
    made = (tmp_path / "a/teacher/model.safetensors").stat().st_mtime_ns
    assert not (tmp_path / "b/failing/model.safetensors").exists()
    with pytest.raises(RuntimeError, match=r"max-loss.*b-strict\.log"):
        lab.train([teacher, Training("b/failing", failing, may_fail=True), Training("b/strict", failing)], main)
    assert (tmp_path / "a/teacher/model.safetensors").stat().st_mtime_ns == made

    cells = [
        Cell(str(hmm_model(0)), 4, 32, "ours", length=16, options=sampler_options(temperature=T), language="hmm")
        for T in (0.8, 1.0)
    ]
    first = lab.measure([*cells, cells[0]])
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "cells").iterdir()}
    assert len(files) == 4 and first[0].row == first[2].row
    again = lab.measure(cells)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cells").iterdir()} == files
    assert [one.row for one in again] == [one.row for one in first[:2]]
    row, ids = again[0].row, again[0].arrays["ids"]
    assert ids.shape == (32, 16) and row["model"] == "ours" and row["protocol"]["temperature"] == 0.8
    expected = -LANGUAGES["hmm"]().log_likelihood(__import__("torch").from_numpy(ids).long()).mean() / 16
    assert row["nll"] == pytest.approx(float(expected))


@pytest.mark.heavy
def test_frontier_of_models_of_a_language(tmp_path, hmm_model, capsys):
    models = [str(hmm_model(seed)) for seed in (0, 1)]
    out = tmp_path / "out"
    argv = ["frontier", *models, "--steps", "2", "--num", "24", "--temperatures", "0.7", "1.0", "--jobs", "1"]
    assert main([*argv, "--out", str(out)]) == 0
    assert "model1" in capsys.readouterr().out
    result = json.loads((out / "frontier.json").read_text())
    assert len(result["rows"]) == 4 and (out / "frontier.png").stat().st_size > 1000
    assert {(row["model"], row["teacher"], row["measure"]) for row in result["matched"]} == {
        ("model1", "model0", "nll"),
        ("model1", "model0", "tv_bigram"),
        ("model1", "model0", "tv_trigram"),
    }
    for changed, said in (
        ([*argv[:2], *argv[1:]], "MODEL: names "),
        ([*argv, "--top-p", "2"], "--top-p 2.0"),
        ([*argv, "--length", "99"], "--length 99"),
        ([*argv, "--temperatures", "nan", "1"], "--temperatures nan"),
        ([*argv, "--temperatures", "0.8", "0.9"], "add 1"),
        ([*argv[:2], "demo", *argv[3:]], "different languages"),
        ([*argv, "--sampler", "confident"], "--sampler confident: is not known (did you mean 'confidence'?)"),
        ([*argv, "--sampler", "uniform"], "--sampler uniform: is not known"),
        ([*argv, "--sampler", "remdm", "remdm"], "--sampler: names "),
        ([*argv, "--order", "best"], "--order best"),
        ([*argv, "--sampler", "remdm", "--order", "iid"], "order of its own"),
    ):
        assert main([*changed, "--out", str(out)]) == 2
        assert said in capsys.readouterr().err


@pytest.mark.heavy
def test_samplers_of_one_model_are_compared(tmp_path, hmm_model):
    """Each sampler adds a curve; the order is for those that have the option."""
    argv = f"frontier {hmm_model(0)} --sampler ancestral remdm --order stratified --steps 6 --num 16 --jobs 1".split()
    assert main([*argv, "--temperatures", "0.7", "1.0", "--out", str(tmp_path)]) == 0
    result = json.loads((tmp_path / "frontier.json").read_text())
    assert {(row["model"], row["teacher"]) for row in result["matched"]} == {("model0 remdm", "model0 ancestral")}
    assert {(row["protocol"]["sampler"], row["protocol"]["order"]) for row in result["rows"]} == {
        ("ancestral", "stratified"),
        ("remdm", "iid"),
    }


def test_students_are_read_where_their_teachers_are():
    """Two straight curves, one a constant better: the difference at equal entropy is that constant, at any target."""

    def curve(label, offset):
        entropies = [np.linspace(T - 0.1, T + 0.1, 50) for T in (0.6, 0.8, 1.0)]
        points = [
            Point(T, e, ratio(2.0 * e + offset, np.ones(50))) for T, e in zip((0.6, 0.8, 1.0), entropies, strict=True)
        ]
        return Curve(label, 4, "hmm", 0, {"nll": points})

    curves = [curve("other", 9.0), curve("mdlm", 0.0), curve("mcd", -0.25)]
    rows = matched_rows(curves, {"mcd": "mdlm"}, "mcd", [0.7])
    students = [row for row in rows if row["model"] == "mcd"]
    assert {row["entropy_of"] for row in students} == {"mcd at T = 1", "H = 0.7"}
    for row in students:
        assert row["teacher"] == "mdlm" and row["value"] == pytest.approx(row["teacher_value"] - 0.25)
    assert not [row for row in rows if row["model"] == "mdlm"]  # a teacher has none
    assert {row["teacher"] for row in matched_rows(curves)} == {"other"}
