"""The loop: what a run leaves behind, and that stopping it, however rudely, changes no bit of the outcome."""

import contextlib
import json
import math
import os
import re
import signal
import subprocess
import sys
import sysconfig
import textwrap
import time
from itertools import pairwise
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from safetensors.torch import load_file

from mcd.checkpoints.folder import from_pretrained
from mcd.errors import Diverged, MissingCompiler, RunConflict
from mcd.model.ema import EMA
from mcd.objective import Loss
from mcd.objective.cd4lm import CD4LM
from mcd.objective.idlm import IDLM
from mcd.objective.ltd import LTD
from mcd.objective.mcd import MCD
from mcd.objective.nelbo import NELBO
from mcd.training.config import Budget
from mcd.training.loop import Interrupted
from mcd.training.run_folder import read_stats

WEIGHTS = ("model.safetensors", "model.raw.safetensors")


def outcome(folder):
    """Everything a run leaves that must not depend on interruptions."""
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*.safetensors")}
    stats = [{k: v for k, v in row.items() if k != "elapsed_s"} for row in read_stats(folder)]
    return {name: (folder / name).read_bytes() for name in files if "checkpoints" not in name}, stats


def stop_at(step, how):
    def watch(progress):
        if progress.step == step:
            how()

    return watch


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)


def press_ctrl_c():
    os.kill(os.getpid(), signal.SIGINT)


class Killed(BaseException):
    pass


def kill():
    raise Killed


@pytest.mark.heavy
def test_what_a_run_leaves_behind(run_fit, tmp_path, tiny_denoiser):
    model = run_fit(tmp_path / "run")
    rows = read_stats(tmp_path / "run")
    assert [row["step"] for row in rows] == list(range(1, 13))
    assert [row["round"] for row in rows] == [1] * 4 + [2] * 4 + [3] * 4
    assert [row["lr"] for row in rows] == pytest.approx([1e-2 / 3, 2e-2 / 3] + [1e-2] * 10)
    for row in rows:
        assert row["loss"] == pytest.approx(row["distillation"] + row["reconstruction"], rel=1e-5)
        assert sum(row[f"tokens_{regime}"] for regime in ("distilled", "revealed", "visible")) == 64
        assert row["grad_norm"] > 0 and math.isfinite(row["grad_norm"])
    assert all(a["elapsed_s"] < b["elapsed_s"] for a, b in pairwise(rows))

    ema, raw = (from_pretrained(str(tmp_path / "run"), weights) for weights in ("ema", "raw"))
    first = tiny_denoiser(V=300, length=16)
    for name, p in ema.state_dict().items():
        assert torch.equal(p, model.state_dict()[name])
        trained = raw.state_dict()[name]
        assert not torch.equal(p, trained) and not torch.equal(trained, first.state_dict()[name])
    assert not model.training and model.folder == tmp_path / "run"
    for round in (1, 2, 3):
        assert {path.name for path in (tmp_path / "run" / "rounds" / str(round)).iterdir()} >= set(WEIGHTS)
    last = from_pretrained(str(tmp_path / "run" / "rounds" / "3"))
    assert all(torch.equal(p, ema.state_dict()[name]) for name, p in last.state_dict().items())
    kept = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert kept == ["step-00000010", "step-00000012"]


@pytest.mark.heavy
def test_training_learns_and_validates(run_fit, tmp_path):
    seen = []
    run_fit(
        tmp_path / "run",
        objective=NELBO(max_weight=1.0),
        budget=Budget(steps=60),
        validate=lambda model, step: seen.append((model, step)) or {"valid_nelbo": 1.5},
        valid_every=25,
        log_every=10,
        batch_size=16,
    )
    rows = read_stats(tmp_path / "run")
    assert [row["step"] for row in rows] == [10, 20, 25, 30, 40, 50, 60]
    assert [row["step"] for row in rows if row.get("valid_nelbo") == 1.5] == [25, 50, 60]
    assert sum(row["cross_entropy"] for row in rows[-3:]) < sum(row["cross_entropy"] for row in rows[:3]) - 0.6
    assert [step for _, step in seen] == [25, 50, 60] and not any(model.training for model, _ in seen)


def test_the_ema_is_of_the_raw_weights(run_fit, tmp_path, tiny_denoiser):
    """Replayed from the raw weights after each step."""
    student = tiny_denoiser(V=300, length=16)
    ema = EMA(student, 0.7)
    model = run_fit(tmp_path / "run", student=student, ema_decay=0.7, watch=lambda p: ema.update(student))
    for name, p in model.named_parameters():
        assert torch.equal(p, ema.shadow[name])


def test_each_round_begins_with_the_raw_student_as_its_teacher(run_fit, tmp_path, tiny_denoiser):
    student = tiny_denoiser(V=300, length=16, dropout=0.1)
    teachers, rounds = {}, {}
    raw = {0: {name: p.clone() for name, p in student.state_dict().items()}}

    class Spy(MCD):
        def loss(self, student, teacher, x0, clock, draws) -> Loss:
            assert not teacher.training and student.training
            assert not any(p.requires_grad for p in teacher.parameters())
            teachers[clock.step] = {name: p.clone() for name, p in teacher.state_dict().items()}
            rounds[clock.step] = clock.round, clock.progress
            return super().loss(student, teacher, x0, clock, draws)

    def watch(progress):
        raw[progress.step] = {name: p.clone() for name, p in student.state_dict().items()}

    run_fit(tmp_path / "run", objective=Spy(delta0=0.1), student=student, watch=watch)
    for step in range(12):
        assert rounds[step] == (step // 4, step / 12)
        for name, p in teachers[step].items():
            assert torch.equal(p, raw[step - step % 4][name])


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Outcomes of runs that nobody stopped, by options; made once."""
    made = {}

    def outcome_of(run_fit, **options):
        key = str(sorted(options.items(), key=str))
        if key not in made:
            folder = tmp_path_factory.mktemp("undisturbed") / "run"
            run_fit(folder, **options)
            made[key] = outcome(folder)
        return made[key]

    return outcome_of


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"optimizer": "muon"},
        {"precision": "bf16-mixed"},
        {"accumulate": 2},
        {"objective": LTD(8, pairs=2)},
        {"objective": IDLM()},
    ],
    ids=str,
)
@pytest.mark.parametrize(  # before the first checkpoint, at a round's border, in the middle of one
    "step", [pytest.param(2, marks=pytest.mark.slow), pytest.param(4, marks=pytest.mark.slow), 6]
)
def test_stopped_and_started_again_is_the_same_run(run_fit, undisturbed, tmp_path, options, step):
    out = tmp_path / "run"
    with pytest.raises(Interrupted, match=rf"stopped at step {step}; saved.*run the same command again"):
        run_fit(out, watch=stop_at(step, terminate), **options)
    assert [row["step"] for row in read_stats(out)] == list(range(1, step + 1))
    run_fit(out, **options)
    assert outcome(out) == undisturbed(run_fit, **options)


@pytest.mark.heavy
@pytest.mark.parametrize("step", [3, 7, 9])  # before any checkpoint, 2 and 4 steps after one (of the round before)
def test_killed_between_checkpoints_and_started_again_is_the_same_run(run_fit, undisturbed, tmp_path, step):
    out = tmp_path / "run"
    with pytest.raises(Killed):
        run_fit(out, watch=stop_at(step, kill))
    with (out / "stats.jsonl").open("a") as file:
        file.write('{"step": 1')  # a line cut short
    run_fit(out)
    assert outcome(out) == undisturbed(run_fit)


@pytest.mark.heavy
def test_stopped_many_times_by_ctrl_c(run_fit, undisturbed, tmp_path):
    for step in (1, 5, 8, 11):
        with pytest.raises(Interrupted):
            run_fit(tmp_path / "run", watch=stop_at(step, press_ctrl_c))
    run_fit(tmp_path / "run")
    assert outcome(tmp_path / "run") == undisturbed(run_fit)
    run_fit(tmp_path / "run")  # a finished run is done at once, and stays what it is
    assert outcome(tmp_path / "run") == undisturbed(run_fit)


def test_a_stop_in_the_last_step_is_no_interruption(run_fit, undisturbed, tmp_path):
    run_fit(tmp_path / "run", watch=stop_at(12, terminate))
    assert outcome(tmp_path / "run") == undisturbed(run_fit)


def test_a_second_ctrl_c_is_immediate_and_handlers_are_put_back(run_fit, tmp_path):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)

    def twice():
        press_ctrl_c()
        press_ctrl_c()

    with pytest.raises(KeyboardInterrupt):
        run_fit(tmp_path / "run", watch=stop_at(2, twice))
    assert before == (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM))


SCRIPT = """
    import sys, time
    from dataclasses import asdict
    from pathlib import Path
    import torch
    torch.set_num_threads(1)
    from mcd.data.loader import open_loader
    from mcd.checkpoints.folder import from_pretrained
    from mcd.objective.mcd import MCD
    from mcd.training.config import Budget, TrainConfig
    from mcd.training.loop import Trainer
    from mcd.training.run_folder import RunFolder

    data, model, out = map(Path, sys.argv[1:])
    objective, budget = MCD(delta0=0.1), Budget(steps=12, rounds=3)
    config = TrainConfig(batch_size=4, lr=1e-2, warmup_steps=3, log_every=1, checkpoint_every=1)
    run = RunFolder(out, {"objective": asdict(objective), "train": asdict(config) | asdict(budget)})
    student = from_pretrained(str(model))
    loader = open_loader(data, "train", 4)
    pause = lambda p: time.sleep(0.03 if p.step < 12 else 0.0)
    Trainer(student, objective, loader, config, budget, run, {"tokenizer.json": "{}"}, watch=pause).fit()
"""


@pytest.mark.slow
def test_sigkill_and_the_same_command_again(tmp_path, tiny_data, tiny_denoiser, run_fit):
    """A real kill -9 from outside, at no particular point of a step; then to the end."""
    from mcd.checkpoints.folder import save_pretrained

    save_pretrained(tiny_denoiser(V=300, length=16, dropout=0.1), tmp_path / "model")
    out, stats = tmp_path / "run", tmp_path / "run" / "stats.jsonl"
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", textwrap.dedent(SCRIPT), str(tiny_data), str(tmp_path / "model"), str(out)]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    while process.poll() is None and not (stats.exists() and stats.read_bytes().count(b"\n") >= 6):
        time.sleep(0.005)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert not (out / "model.safetensors").exists()
    student = from_pretrained(str(tmp_path / "model"))
    run_fit(out, student=student, checkpoint_every=1)
    undisturbed = tmp_path / "undisturbed"
    run_fit(undisturbed, student=from_pretrained(str(tmp_path / "model")), checkpoint_every=1)
    assert outcome(out) == outcome(undisturbed)


@pytest.mark.heavy
def test_a_truncated_newest_checkpoint_falls_back_to_the_one_before(run_fit, undisturbed, tmp_path):
    out = tmp_path / "run"
    with pytest.raises(Killed):
        run_fit(out, watch=stop_at(11, kill))
    path = out / "checkpoints" / "step-00000010" / "state.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    (out / "checkpoints" / "partial-00000015").mkdir()
    run_fit(out)
    assert outcome(out) == undisturbed(run_fit)
    assert not (out / "checkpoints" / "partial-00000015").exists()


@pytest.mark.heavy
def test_a_teacher_that_follows_is_the_average_of_the_students(run_fit, tmp_path, tiny_denoiser):
    student = tiny_denoiser(V=300, length=16)
    teachers, raw = [], [{name: p.clone() for name, p in student.state_dict().items()}]

    class Spy(MCD):
        def loss(self, student, teacher, x0, clock, draws) -> Loss:
            teachers.append({name: p.clone() for name, p in teacher.state_dict().items()})
            return super().loss(student, teacher, x0, clock, draws)

    def watch(progress):
        raw.append({name: p.clone() for name, p in student.state_dict().items()})

    run_fit(tmp_path / "run", objective=Spy(delta0=0.1), student=student, watch=watch, teacher_ema=0.8)
    for name in raw[0]:
        expected = raw[0][name]
        for step in range(12):
            torch.testing.assert_close(teachers[step][name], expected)
            expected = 0.8 * expected + 0.2 * raw[step + 1][name]


@pytest.mark.heavy
def test_a_method_may_keep_its_first_teacher(run_fit, tmp_path, tiny_denoiser):
    student = tiny_denoiser(V=300, length=16)
    first, teachers = {name: p.clone() for name, p in student.state_dict().items()}, []

    class Frozen(MCD):
        snapshots = False

        def loss(self, student, teacher, x0, clock, draws) -> Loss:
            teachers.append({name: p.clone() for name, p in teacher.state_dict().items()})
            return super().loss(student, teacher, x0, clock, draws)

    run_fit(tmp_path / "run", objective=Frozen(delta0=0.1), student=student)
    assert len(teachers) == 12
    assert all(torch.equal(p, first[name]) for teacher in teachers for name, p in teacher.items())
    assert not all(torch.equal(p, first[name]) for name, p in student.state_dict().items())


@pytest.mark.heavy
def test_a_loss_that_stays_high_ends_the_run(run_fit, tmp_path):
    with pytest.raises(Diverged, match="step 10: 10 steps with a loss above --max-loss 1e-06"):
        run_fit(tmp_path / "run", max_loss=1e-6)
    rows = read_stats(tmp_path / "run")
    assert rows[-1]["diverged"] and rows[-1]["step"] == 10
    assert (tmp_path / "run" / "checkpoints" / "step-00000005").is_dir()
    run_fit(tmp_path / "other", max_loss=1e9)


class Exploding(NELBO):
    """Fine but for some steps, whose loss, or gradient, is infinite."""

    bad: ClassVar[range] = range(6, 99)

    def loss(self, student, teacher, x0, clock, draws) -> Loss:
        loss = super().loss(student, teacher, x0, clock, draws)
        if clock.step in self.bad and self.t_min > 0.01:
            return loss._replace(total=loss.total * math.inf)
        if clock.step in self.bad:
            return loss._replace(total=loss.total + (loss.total - loss.total.detach()).sqrt())
        return loss


@pytest.mark.heavy
@pytest.mark.parametrize("t_min, what", [(0.02, "not finite: loss inf"), (1e-3, "the loss is finite and its gradient")])
def test_what_stays_not_finite_ends_the_run_and_spares_the_checkpoint(run_fit, tmp_path, tiny_denoiser, t_min, what):
    student = tiny_denoiser(V=300, length=16)
    with pytest.raises(Diverged, match=f"step 10: 4 steps in a row whose.*{what}.*last checkpoint is intact"):
        run_fit(tmp_path / "run", objective=Exploding(t_min=t_min), budget=Budget(steps=12), student=student)
    assert all(p.isfinite().all() for p in student.parameters())
    (path,) = (tmp_path / "run" / "checkpoints").iterdir()
    assert path.name == "step-00000005"
    assert all(value.isfinite().all() for value in load_file(path / "state.safetensors").values())
    rows = read_stats(tmp_path / "run")
    assert [row["step"] for row in rows] == list(range(1, 11)) and rows[-1]["diverged"]
    assert [row.get("skipped", 0) for row in rows] == [0] * 6 + [1, 2, 3, 4]


@pytest.mark.heavy
@pytest.mark.parametrize("t_min", [0.02, 1e-3])
def test_a_step_that_is_not_finite_changes_nothing_and_is_counted(run_fit, tmp_path, tiny_denoiser, t_min):
    class Once(Exploding):
        bad = range(6, 8)

    student, weights = tiny_denoiser(V=300, length=16), {}

    def watch(progress):
        weights[progress.step] = {name: p.clone() for name, p in student.state_dict().items()}

    run_fit(tmp_path / "run", objective=Once(t_min=t_min), budget=Budget(steps=12), student=student, watch=watch)
    for name in weights[6]:
        assert torch.equal(weights[6][name], weights[8][name])
    assert not torch.equal(weights[8]["backbone.embedding"], weights[9]["backbone.embedding"])
    rows = read_stats(tmp_path / "run")
    assert [row.get("skipped", 0) for row in rows] == [0] * 6 + [1] + [2] * 5
    assert [row["step"] for row in rows if row["grad_norm"] is None] == [7, 8]
    assert "NaN" not in (tmp_path / "run" / "stats.jsonl").read_text()


def test_the_diagnosis_names_term_regime_and_tokens(run_fit, tmp_path, tiny_denoiser):
    """One token's head bias is NaN in the teacher alone: the KL is to blame. One in the student: both terms are."""
    student = tiny_denoiser(V=300, length=16)

    class Poisoned(MCD):
        def loss(self, student, teacher, x0, clock, draws) -> Loss:
            with torch.no_grad():
                teacher.backbone.head.linear.bias[7] = math.nan
            return super().loss(student, teacher, x0, clock, draws)

    with pytest.raises(Diverged) as told:
        run_fit(tmp_path / "run", objective=Poisoned(delta0=0.3), student=student)
    text = str(told.value)
    assert "weights of the teacher: backbone.head.linear.bias" in text and "weights of the student" not in text
    assert "not finite: loss nan, distillation nan." in text
    assert re.search(r"distillation, masked for student and teacher: row \d+ position \d+ token \d+, row", text)
    assert "reconstruction, masked" not in text


def test_a_budget_in_minutes_ends_and_its_log_is_json(run_fit, tmp_path):
    run_fit(tmp_path / "run", objective=NELBO(), budget=Budget(minutes=0.002))
    rows = read_stats(tmp_path / "run")
    assert rows[-1]["elapsed_s"] >= 0.12 and (len(rows) == 1 or rows[-2]["elapsed_s"] < 0.12)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["config"]["train"]["minutes"] == 0.002


@pytest.mark.heavy
def test_activations_computed_again_change_no_bit(run_fit, undisturbed, tmp_path, tiny_denoiser):
    student = tiny_denoiser(V=300, length=16, dropout=0.1)
    run_fit(tmp_path / "run", student=student, checkpoint_activations=True)
    assert student.backbone.checkpointing
    assert outcome(tmp_path / "run") == undisturbed(run_fit)


def test_a_machine_that_cannot_compile_is_told_before_anything_is_done(run_fit, tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(
        MissingCompiler, match=r"^--compile: needs a C\+\+ compiler.*no-such-compiler.*apt install g\+\+"
    ):
        run_fit(tmp_path / "run", compile=True)
    monkeypatch.setenv("CXX", sys.executable)  # there is one, as far as it is asked
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    with pytest.raises(MissingCompiler, match=r"^--compile: needs Python\.h.*apt install python3-dev"):
        run_fit(tmp_path / "run", compile=True)
    assert not list((tmp_path / "run").glob("**/*.safetensors"))


def test_a_model_of_another_process_is_refused(run_fit, tmp_path, tiny_denoiser):
    for process in ("uniform", "autoregressive"):
        with pytest.raises(ValueError, match=f"mcd trains masked models; this one is {process}"):
            run_fit(tmp_path / "run", student=tiny_denoiser(V=300, length=16, process=process))


def test_a_frozen_teacher_cannot_follow(run_fit, tmp_path):
    with pytest.raises(ValueError, match=r"--teacher-ema 0\.5: cd4lm keeps its first teacher"):
        run_fit(tmp_path / "run", objective=CD4LM(), teacher_ema=0.5)


@pytest.mark.heavy
def test_a_high_loss_is_counted_through_a_stop(run_fit, tmp_path):
    """Stopped after 7 steps of a loss too high and started again, it ends at step 10 and is logged once."""
    with pytest.raises(Interrupted):
        run_fit(tmp_path / "run", max_loss=1e-6, watch=stop_at(7, terminate))
    with pytest.raises(Diverged, match="step 10"):
        run_fit(tmp_path / "run", max_loss=1e-6)
    assert [row["step"] for row in read_stats(tmp_path / "run")] == list(range(1, 11))


def test_fewer_steps_than_were_done_are_refused_and_change_nothing(run_fit, tmp_path):
    run_fit(tmp_path / "run", objective=NELBO(), budget=Budget(steps=6))
    before = (tmp_path / "run" / "run.json").read_bytes()
    with pytest.raises(RunConflict, match="holds 6 steps, more than the 5 asked for"):
        run_fit(tmp_path / "run", objective=NELBO(), budget=Budget(steps=5))
    assert (tmp_path / "run" / "run.json").read_bytes() == before
    run_fit(tmp_path / "run", objective=NELBO(), budget=Budget(steps=7))
    assert read_stats(tmp_path / "run")[-1]["step"] == 7


@pytest.mark.heavy
def test_more_steps_are_one_run_and_both_lengths_are_recorded(run_fit, undisturbed, tmp_path):
    """Where nothing depends on the share that is done, 6 steps and then 9 are the steps of a run of 9."""
    longer = {"objective": NELBO(), "budget": Budget(steps=9)}
    run_fit(tmp_path / "run", objective=NELBO(), budget=Budget(steps=6))
    run_fit(tmp_path / "run", **longer)
    assert outcome(tmp_path / "run") == undisturbed(run_fit, **longer)
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["config"]["train"]["steps"] == 9
    assert [(part["config"]["train"]["steps"], part["until_step"]) for part in record["earlier"]] == [(6, 6)]


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("objective", "options", "stop", "step"),
    [
        (NELBO(), {"lr_decay": 0.5}, None, 4),  # at 4 of 6 it has begun to fall, at 4 of 9 it has not
        (NELBO(), {"lr_decay": 0.5}, 5, 4),
        (NELBO(warm_start=0.5), {}, 2, 1),
        (CD4LM(lambda_hold=0.25), {}, 3, 2),
    ],
    ids=["done", "stopped", "warm-start", "cd4lm"],
)
def test_more_steps_than_a_schedule_was_made_for_are_refused(run_fit, tmp_path, objective, options, stop, step):
    options = options | {"objective": objective}
    with contextlib.suppress(Interrupted):
        watch = stop_at(stop, terminate) if stop else lambda progress: None
        run_fit(tmp_path / "run", budget=Budget(steps=6), watch=watch, **options)
    before = (tmp_path / "run" / "run.json").read_bytes(), outcome(tmp_path / "run") if stop is None else None
    told = "new folder$" if stop else "mcd train --init"
    with pytest.raises(RunConflict, match=rf"from {step} on .* of 6 steps; one of 9 steps has another there.*{told}"):
        run_fit(tmp_path / "run", budget=Budget(steps=9), **options)
    assert before == ((tmp_path / "run" / "run.json").read_bytes(), outcome(tmp_path / "run") if stop is None else None)
    run_fit(tmp_path / "run", budget=Budget(steps=6), **options)


@pytest.mark.heavy
def test_more_steps_before_the_schedule_has_begun_are_one_run(run_fit, undisturbed, tmp_path):
    longer = {"objective": NELBO(), "budget": Budget(steps=9), "lr_decay": 0.5}
    with pytest.raises(Interrupted):
        run_fit(tmp_path / "run", **longer | {"budget": Budget(steps=6)}, watch=stop_at(4, terminate))
    run_fit(tmp_path / "run", **longer)
    assert outcome(tmp_path / "run") == undisturbed(run_fit, **longer)


@pytest.mark.heavy
def test_a_checkpoint_that_is_passed_over_is_told(run_fit, tmp_path, capsys):
    with pytest.raises(Killed):
        run_fit(tmp_path / "run", watch=stop_at(11, kill))
    (tmp_path / "run" / "checkpoints" / "step-00000010" / "state.json").write_text("{}")
    run_fit(tmp_path / "run")
    told = capsys.readouterr().err
    assert "resumes from step-00000005, since these are damaged" in told and "step-00000010" in told
