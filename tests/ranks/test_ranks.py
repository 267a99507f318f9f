"""Two and four processes (gloo) find what one finds, in float64, whatever the strategy, and go on for each other."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from mcd.checkpoints.folder import from_pretrained, save_pretrained
from mcd.model.ema import EMA
from mcd.model.prior import prior
from mcd.objective.ltd import LTD
from mcd.training.checkpoint import load_checkpoint
from mcd.training.config import TrainConfig
from mcd.training.optimizer import make_optimizers
from mcd.training.run_folder import read_stats
from mcd.training.state import Learner, TrainState, copy_of, teacher_of

pytestmark = pytest.mark.skipif(not dist.is_available(), reason="PyTorch was built without torch.distributed")

HERE = Path(__file__).parent
CASES = {
    "mcd": {},
    "mcd in parts": {"accumulate": 2},
    "mcd fsdp": {"strategy": "fsdp", "accumulate": 2},
    "sdtt": {"method": "sdtt"},
    "cd4lm fsdp": {"method": "cd4lm", "objective": {}, "strategy": "fsdp"},
    "ltd": {"method": "ltd", "objective": {"trajectory_steps": 4, "pairs": 2}, "accumulate": 2},
    "ltd fsdp": {
        "method": "ltd",
        "objective": {"trajectory_steps": 4, "pairs": 2, "teacher_guidance": 0.5},
        "strategy": "fsdp",
    },
    "idlm": {"method": "idlm", "objective": {}, "accumulate": 2},
    "mmd": {"method": "mmd", "objective": {"groups": 2}, "accumulate": 2},
    "mmd fsdp": {"method": "mmd", "objective": {"groups": 2}, "strategy": "fsdp"},
    "nelbo": {"method": "nelbo", "objective": {}, "checkpoint_activations": True},
    "following teacher fsdp": {"strategy": "fsdp", "teacher_ema": 0.5},
}
STOPPED = {"ddp then fsdp": ("ddp", "fsdp"), "fsdp then ddp": ("fsdp", "ddp"), "fsdp then fsdp": ("fsdp", "fsdp")}


@pytest.fixture(scope="module")
def place(tmp_path_factory, tiny_data, tiny_denoiser):
    """A folder with a model, and a way to run cases in it on so many processes."""
    folder = tmp_path_factory.mktemp("ranks")
    save_pretrained(tiny_denoiser(V=300, length=16), folder / "model")

    def job(processes, cases, fails=False):
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        command = [sys.executable, *(launcher if processes > 1 else []), str(HERE / "worker.py")]
        command += [str(tiny_data), str(folder / "model"), json.dumps(cases)]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parents[1])}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        assert (done.returncode != 0) == fails, done.stderr[-4000:]
        return done.stdout + done.stderr

    return folder, job


@pytest.fixture(scope="module")
def outcomes(place):
    """Runs all cases on one, two and four processes; those stopped on two are resumed on four, or on one."""
    folder, job = place
    plain = {name: {k: v for k, v in case.items() if k != "strategy"} for name, case in CASES.items()}
    job(1, [{**case, "out": str(folder / "1" / name)} for name, case in plain.items()])
    halted = [
        {"out": str(folder / "halted" / name), "strategy": first, "stop": [1, 3]}
        for name, (first, _) in STOPPED.items()
    ]
    job(2, [*({**case, "out": str(folder / "2" / name)} for name, case in CASES.items()), *halted])
    for processes in ("1", "4"):
        shutil.copytree(folder / "halted", folder / processes, dirs_exist_ok=True)
    on = [{"out": str(folder / "4" / name), "strategy": then} for name, (_, then) in STOPPED.items()]
    job(4, [*({**case, "out": str(folder / "4" / name)} for name, case in CASES.items()), *on])
    job(1, [{"out": str(folder / "1" / name)} for name in STOPPED])
    return folder


def final_state(folder, case):
    """All tensors of the last checkpoint, read on one process whoever wrote it."""
    student = from_pretrained(str(folder.parents[1] / "model")).double()
    teacher = None if case.get("method") == "nelbo" else teacher_of(student, shared=True)
    if case.get("method") == "ltd":
        student.add_locked(LTD.shown, prior(student, 16))
    state = TrainState(student, teacher, EMA(student, 0.9), make_optimizers(student, TrainConfig()))
    if case.get("method") == "idlm":
        fake = copy_of(student, shared=True)
        state.auxiliary = {"fake": Learner(fake, make_optimizers(fake, TrainConfig()))}
    assert load_checkpoint(folder / "checkpoints", state) and state.counters.step == 6
    return state.tensors()


def assert_same_run(found, expected, case):
    for a, b in zip(read_stats(found), read_stats(expected), strict=True):
        a.pop("elapsed_s"), b.pop("elapsed_s")
        assert a.pop("turn", None) == b.pop("turn", None)
        if "accumulate" in case or case.get("method") == "nelbo":
            a.pop("cross_entropy", None), b.pop("cross_entropy", None)  # of a masked token: the mean of the parts'
        assert a == pytest.approx(b, rel=1e-9, abs=1e-12)
    torch.testing.assert_close(final_state(found, case), final_state(expected, case), rtol=1e-8, atol=1e-11)


@pytest.mark.heavy
def test_two_processes_find_what_one_finds_and_one_resumes_their_run(place):
    """The short form of what follows: sharded weights, gradients in parts, networks in turns, stops on two of them."""
    folder, job = place
    name, case = "mcd fsdp", CASES["mcd fsdp"]
    halted = {"out": str(folder / "short" / "halted"), "strategy": "fsdp", "stop": [1, 3]}
    turns = {**CASES["idlm"], "out": str(folder / "short" / "turns")}
    job(2, [{**case, "out": str(folder / "short" / name)}, halted, {**turns, "stop": [1, 3]}])
    alone = [
        {"out": str(folder / "short" / "one"), "accumulate": 2},
        {**turns, "out": str(folder / "short" / "turns of one")},
    ]
    job(1, [*alone, {"out": halted["out"]}, turns])
    assert_same_run(folder / "short" / name, folder / "short" / "one", case)
    assert_same_run(folder / "short" / "halted", folder / "short" / "one", case)
    assert_same_run(folder / "short" / "turns", folder / "short" / "turns of one", CASES["idlm"])


@pytest.mark.slow
@pytest.mark.parametrize("processes", ["2", "4"])
@pytest.mark.parametrize("name", CASES)
def test_several_processes_find_what_one_finds(outcomes, processes, name):
    found = outcomes / processes / name
    shards = list((found / "checkpoints" / "step-00000006").glob("*.safetensors"))
    assert len(shards) == (int(processes) if CASES[name].get("strategy") == "fsdp" else 1)
    assert_same_run(found, outcomes / "1" / name, CASES[name])
    ours, alone = (from_pretrained(str(outcomes / n / name)).state_dict() for n in (processes, "1"))
    torch.testing.assert_close(ours, alone)


@pytest.mark.slow
@pytest.mark.parametrize("processes", ["1", "4"])
@pytest.mark.parametrize("name", STOPPED)
def test_a_run_goes_on_on_another_number_of_processes(outcomes, processes, name):
    halted = read_stats(outcomes / "halted" / name)
    assert [row["step"] for row in halted] == [1, 2, 3]
    assert_same_run(outcomes / processes / name, outcomes / "1" / "mcd", {})


@pytest.mark.slow
def test_a_lost_process_is_named_and_costs_nothing_that_was_saved(outcomes, place):
    folder, job = place
    case = {"out": str(folder / "2" / "lost"), "strategy": "fsdp"}
    told = job(2, [{**case, "die": [1, 4]}], fails=True)
    assert "step-00000002" in {path.name for path in (folder / "2" / "lost" / "checkpoints").iterdir()}
    assert "lost: process 0 of 2 lost another" in told or "SIGKILL" in told or "Signal 9" in told
    job(1, [{"out": str(folder / "2" / "lost")}])
    assert_same_run(folder / "2" / "lost", folder / "1" / "mcd", {})


@pytest.mark.slow
def test_rows_that_cannot_be_shared_out_are_refused(place):
    folder, job = place
    told = job(2, [{"out": str(folder / "odd"), "batch_size": 6, "accumulate": 2}], fails=True)
    assert "--batch-size 6: must be a multiple of 4, 2 processes times --accumulate 2" in told
    assert not (folder / "odd").exists()


def command(processes, *words):
    """`mcd WORDS` on so many processes; what it told."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m", "--", "mcd"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parents[1])}
    line = [sys.executable, *(launcher if processes > 1 else ["-m", "mcd"]), *words]
    done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


@pytest.mark.slow
def test_samples_are_the_same_rows_and_can_be_gone_on_with(tmp_path):
    drawn = {}
    for processes in (1, 2):
        out = tmp_path / f"{processes}.jsonl"
        words = ("sample", "demo", "--steps", "4", "--length", "24", "--seed", "3", "--out", str(out), "--num")
        command(processes, *words, "3")
        command(3 - processes, *words, "5")
        drawn[processes] = out.read_bytes()
    assert drawn[1] == drawn[2] and drawn[1].count(b"\n") == 5


@pytest.mark.slow
def test_likelihood_and_samples_are_measured_the_same(tmp_path):
    found = {}
    for processes in (1, 2):
        metrics, likelihood = (tmp_path / f"{kind}{processes}.json" for kind in "ml")
        words = ("eval", "demo", "--length", "24", "--num", "40", "--out")
        table = command(processes, *words, str(likelihood), "--likelihood", "sotu", "--draws", "2")
        assert table.count("sotu") == 1
        command(processes, *words, str(metrics), "--steps", "4", "--scorer", "none")
        found[processes] = [json.loads(path.read_text())["rows"] for path in (metrics, likelihood)]
    assert found[1] == found[2]


@pytest.mark.slow
def test_other_commands_are_done_by_the_first_process_alone(tmp_path):
    """Among them the one that is tried first on a cluster; its self-test trains, alone."""
    told = command(2, "doctor", "--no-self-test")
    assert told.count("torch ") == command(1, "doctor", "--no-self-test").count("torch ")
    command(2, "prepare", "--data", "sotu", "--vocab-size", "300", "--out", str(tmp_path / "data"))
    assert (tmp_path / "data" / "manifest.json").is_file()
