"""A run folder belongs to one configuration; anything else in it is never touched."""

import errno
import json
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mcd.errors import RunConflict
from mcd.training import run_folder, run_lock
from mcd.training.run_folder import RunFolder, read_stats

CONFIG = {"command": "distill", "objective": {"name": "mcd", "tau0": 0.96}}
TRAIN = {"lr": 1e-3, "betas": (0.9, 0.999), "steps": 10, "minutes": None, "rounds": 1}
TRAIN |= {"checkpoint_every": 5, "log_every": 1, "valid_every": 0}


def config(objective=None, **train):
    return CONFIG | {"objective": CONFIG["objective"] | (objective or {}), "train": TRAIN | train}


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): (path.read_bytes(), path.stat().st_mtime_ns) if path.is_file() else None
        for path in folder.rglob("*")
    }


@pytest.fixture
def out(tmp_path):
    run = RunFolder(tmp_path / "runs" / "a", config())
    run.log({"step": 1})
    (run.checkpoints / "step-00000001").mkdir(parents=True)
    return run.path


def test_the_same_configuration_goes_on(out):
    RunFolder(out, config())
    assert read_stats(out) == [{"step": 1}]
    written = json.loads((out / "run.json").read_text())
    assert written["config"] == json.loads(json.dumps(config()))
    assert {"mcd", "git_commit", "torch", "python", "machine", "cpus", "threads"} == written["environment"].keys()


@pytest.mark.parametrize(
    "other, key",
    [
        (config(lr=2e-3), "train.lr"),
        (config(betas=(0.9, 0.98)), "train.betas"),
        (config(objective={"tau0": 1.0}), "objective.tau0"),
        (config(objective={"new": 1}), "objective.new"),
        (config() | {"command": "train"}, "command"),
        (config(rounds=2), "train.rounds"),
        (config(accumulate=2), "train.accumulate"),
    ],
)
def test_another_configuration_is_refused_untouched(out, other, key):
    before = contents(out)
    with pytest.raises(RunConflict, match=rf"--out .*another configuration \(it differs in .*{key}"):
        RunFolder(out, other)
    assert contents(out) == before


def test_a_run_from_before_there_was_an_option_had_its_default(out):
    RunFolder(out, config(accumulate=1))
    assert json.loads((out / "run.json").read_text())["config"]["train"]["accumulate"] == 1


@pytest.mark.parametrize(
    "change", ["steps", "minutes", "checkpoint_every", "log_every", "valid_every", "checkpoint_activations"]
)
def test_how_long_and_how_often_may_change(out, change):
    RunFolder(out, config(**{change: 77}))
    assert json.loads((out / "run.json").read_text())["config"]["train"][change] == 77


@pytest.mark.parametrize(
    ("was", "now", "taken"),
    [
        ({"minutes": 10.0}, {"minutes": 20.0}, True),  # 8 of 10 and 8 of 20 minutes, which fall over the last fifth
        ({"minutes": 9.0}, {"minutes": 20.0}, False),
        ({"minutes": 20.0}, {"minutes": 9.0}, False),
        ({"minutes": 20.0}, {"steps": 50}, True),  # of 40 steps that were done
        ({"minutes": 20.0}, {"steps": 45}, False),
        ({"steps": 45}, {"steps": 45}, True),
        ({"steps": 45}, {"steps": 46}, False),
    ],
    ids=str,
)
def test_a_length_is_taken_when_the_steps_done_are_its_own(tmp_path, was, now, taken):
    def options(length):
        return config(**{"steps": None, "lr_decay": 0.2} | length)

    with RunFolder(tmp_path / "a", options(was), "first") as run:
        run.log({"step": 40, "elapsed_s": 480.0})
        run.log({"step": 41, "elapsed_s": 9999.0})  # after the checkpoint: it will be done again
        (run.checkpoints / "step-00000040").mkdir(parents=True)
    before = contents(tmp_path / "a")
    if taken:
        RunFolder(tmp_path / "a", options(now), "second").close()
        record = json.loads((tmp_path / "a" / "run.json").read_text())
        told = [(part["command"], part["until_step"]) for part in record.get("earlier", [])]
        assert told == ([] if was == now else [("first", 40)])
        assert record["config"] == json.loads(json.dumps(options(now))) and record["command"] == "second"
    else:
        with pytest.raises(RunConflict, match=r"of the 40 steps done, .* new folder$"):
            RunFolder(tmp_path / "a", options(now))
        assert contents(tmp_path / "a") == before


def test_what_was_done_before_stays_in_the_record(out, monkeypatch):
    """Each configuration and environment under which steps were done, and no other."""
    monkeypatch.setattr(run_folder, "environment", lambda: {"mcd": "a"})
    for name, change in (("valid_every", 5), ("valid_every", 6), ("valid_every", 7)):  # no step is done under 5 and 6
        RunFolder(out, config(**{name: change})).close()
    (out / "checkpoints" / "step-00000003").mkdir()
    monkeypatch.setattr(run_folder, "environment", lambda: {"mcd": "b"})
    RunFolder(out, config(valid_every=7)).close()
    earlier = json.loads((out / "run.json").read_text())["earlier"]
    assert [(part["until_step"], part["config"]["train"]["valid_every"]) for part in earlier] == [(1, 0), (3, 7)]
    assert earlier[0]["environment"].keys() > {"mcd", "torch"} and earlier[1]["environment"] == {"mcd": "a"}


def test_the_steps_of_several_rounds_may_not_change(tmp_path):
    """They say where a round begins, and with it whose teacher the checkpoint holds."""
    (RunFolder(tmp_path / "a", config(rounds=5)).checkpoints / "step-00000001").mkdir(parents=True)
    before = contents(tmp_path / "a")
    with pytest.raises(RunConflict, match=r"differs in train\.steps"):
        RunFolder(tmp_path / "a", config(rounds=5, steps=20))
    assert contents(tmp_path / "a") == before
    RunFolder(tmp_path / "a", config(rounds=5, checkpoint_every=1))
    assert json.loads((tmp_path / "a" / "run.json").read_text())["config"]["train"]["checkpoint_every"] == 1


def test_a_run_that_failed_before_its_first_checkpoint_gives_way(tmp_path):
    RunFolder(tmp_path / "a", config())
    other = config(batch_size=99)
    RunFolder(tmp_path / "a", other)
    assert json.loads((tmp_path / "a" / "run.json").read_text())["config"] == json.loads(json.dumps(other))


def test_folders_that_hold_no_run_are_refused_untouched(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    before = contents(tmp_path)
    for out in (tmp_path, tmp_path / "thesis.tex"):
        with pytest.raises(RunConflict, match=r"--out .*holds no run"):
            RunFolder(out, config())
    assert contents(tmp_path) == before


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"config": 3}', '{"scripts": {"build": "make"}}', "\xff"])
def test_a_run_json_of_another_kind_is_refused_untouched(tmp_path, text):
    (tmp_path / "run.json").write_bytes(text.encode("latin-1"))
    before = contents(tmp_path)
    with pytest.raises(RunConflict, match=r"run\.json is damaged or was not written by mcd"):
        RunFolder(tmp_path, config())
    assert contents(tmp_path) == before


@pytest.mark.parametrize("train", ["x", 3, None, {"steps": "10"}, {"steps": 0, "minutes": []}, {"lr_decay": "0.2"}])
def test_lengths_that_are_no_numbers_are_not_said(tmp_path, train):
    """In the run.json of a run without results, whose place another may take."""
    (tmp_path / "run.json").write_text(json.dumps({"config": CONFIG | {"train": train}}))
    RunFolder(tmp_path, config()).close()
    assert json.loads((tmp_path / "run.json").read_text())["config"] == json.loads(json.dumps(config()))


@pytest.mark.parametrize("earlier", [3, "x", [3], [{}], [{"until_step": "x"}], None])
def test_a_damaged_record_of_what_was_before_is_refused_untouched(out, earlier):
    record = json.loads((out / "run.json").read_text()) | {"earlier": earlier}
    (out / "run.json").write_text(json.dumps(record))
    before = {name: value for name, value in contents(out).items() if name not in ("lock", "holder.json")}
    with pytest.raises(RunConflict, match=r"run\.json is damaged"):
        RunFolder(out, config())
    assert before == {name: value for name, value in contents(out).items() if name not in ("lock", "holder.json")}


def test_a_kill_while_the_first_run_json_is_written_can_be_run_again(tmp_path):
    (tmp_path / "run.json.partial").write_text('{"conf')
    RunFolder(tmp_path, config())
    assert (tmp_path / "run.json").is_file()


def test_an_empty_folder_is_welcome(tmp_path):
    (tmp_path / "a").mkdir()
    RunFolder(tmp_path / "a", config())
    assert {path.name for path in (tmp_path / "a").iterdir()} == {"lock", "holder.json", "run.json"}


def test_the_log_is_rewound_to_a_step(tmp_path):
    run = RunFolder(tmp_path / "a", config())
    run.rewind_log(3)  # no log yet
    for step in range(1, 6):
        run.log({"step": step, "loss": 1.0 / step})
    with (run.path / "stats.jsonl").open("a") as file:
        file.write('{"step": 6, "lo')
    assert [row["step"] for row in read_stats(run.path)] == [1, 2, 3, 4, 5]
    run.rewind_log(3)
    run.log({"step": 4})
    assert read_stats(run.path) == [{"step": s, "loss": 1.0 / s} for s in (1, 2, 3)] + [{"step": 4}]


HOLD = """
import sys
from pathlib import Path
from mcd.training.run_folder import RunFolder
run = RunFolder(Path(sys.argv[1]), {"command": "distill"})
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """A process that holds the lock of tmp_path / "a"."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "a")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


@pytest.mark.heavy
def test_a_second_run_in_one_folder_is_refused_untouched_until_the_first_is_killed(holder, tmp_path):
    before = contents(tmp_path)
    for other in ({"command": "distill"}, {"command": "train"}):
        with pytest.raises(RunConflict, match=rf"--out .*process {holder.pid} on {re.escape(platform.node())}, since "):
            RunFolder(tmp_path / "a", other)
    assert contents(tmp_path) == before
    holder.kill()
    holder.wait()
    with RunFolder(tmp_path / "a", {"command": "distill"}) as run:
        assert json.loads((run.path / "holder.json").read_text())["pid"] == os.getpid()


def test_within_one_process_too_and_until_it_is_closed(tmp_path):
    run = RunFolder(tmp_path / "a", config())
    with pytest.raises(RunConflict, match=f"process {os.getpid()} on"):
        RunFolder(tmp_path / "a", config())
    run.close()
    RunFolder(tmp_path / "a", config())


def test_a_refused_configuration_leaves_no_lock(out):
    with pytest.raises(RunConflict, match="another configuration"):
        RunFolder(out, config(lr=1.0))
    RunFolder(out, config())


def test_a_folder_whose_run_was_killed_before_run_json_is_taken(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "lock").touch()
    (tmp_path / "a" / "holder.json").write_bytes(b"{")
    RunFolder(tmp_path / "a", config())
    assert json.loads((tmp_path / "a" / "run.json").read_text())["config"] == json.loads(json.dumps(config()))


@pytest.mark.heavy
@pytest.mark.parametrize("live", [True, False])
def test_where_the_file_system_has_no_locks_the_living_are_respected(holder, tmp_path, monkeypatch, capsys, live):
    def lockless(lock, blocking):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(run_lock.FileLock, "acquire", lockless)
    if live:
        with pytest.raises(RunConflict, match=f"process {holder.pid}"):
            RunFolder(tmp_path / "a", {"command": "distill"})
    else:
        holder.kill()
        holder.wait()
        RunFolder(tmp_path / "a", {"command": "distill"})
        assert "has no locks" in capsys.readouterr().err


def test_a_damaged_line_of_the_log_costs_that_line(out):
    with (out / "stats.jsonl").open("ab") as file:
        file.write(b'\xff\n[]\n{"step": "2"}\n{"loss": 1}\n' + b"[" * 9999 + b'\n{"step": 3, "loss": NaN}\n{"step": 4')
    assert [row["step"] for row in read_stats(out)] == [1, 3]
    RunFolder(out, config()).rewind_log(2)
    assert (out / "stats.jsonl").read_text() == '{"step": 1}\n'


def test_a_full_disk_leaves_the_log_there_was(out, monkeypatch):
    run = RunFolder(out, config())
    before = (out / "stats.jsonl").read_bytes()

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            run.rewind_log(0)
    assert (out / "stats.jsonl").read_bytes() == before and not list(out.glob("*.partial"))
