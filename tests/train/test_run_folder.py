"""A run folder belongs to one configuration; anything else in it is never touched."""

import json

import pytest

from mcd.train.run_folder import RunConflict, RunFolder, read_stats

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


def test_the_steps_of_several_rounds_may_not_change(tmp_path):
    """They say where a round begins, and with it whose teacher the checkpoint holds."""
    (RunFolder(tmp_path / "a", config(rounds=5)).checkpoints / "step-00000001").mkdir(parents=True)
    before = contents(tmp_path / "a")
    with pytest.raises(RunConflict, match=r"differs in train\.steps"):
        RunFolder(tmp_path / "a", config(rounds=5, steps=20))
    assert contents(tmp_path / "a") == before
    RunFolder(tmp_path / "a", config(rounds=5, checkpoint_every=1))


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
    with pytest.raises(RunConflict, match=r"run\.json is damaged or none of ours"):
        RunFolder(tmp_path, config())
    assert contents(tmp_path) == before


def test_a_kill_while_the_first_run_json_is_written_can_be_run_again(tmp_path):
    (tmp_path / "run.json.partial").write_text('{"conf')
    RunFolder(tmp_path, config())
    assert (tmp_path / "run.json").is_file()


def test_an_empty_folder_is_welcome(tmp_path):
    (tmp_path / "a").mkdir()
    RunFolder(tmp_path / "a", config())


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
