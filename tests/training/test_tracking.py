"""Trackers get the rows of stats.jsonl, resume in the same run, and no training fails with them."""

import json
import struct
import time
from typing import ClassVar

import pytest

from mcd.cli.main import main
from mcd.errors import UsageError
from mcd.training import tracking
from mcd.training.run_folder import read_stats
from mcd.training.tracking import TRACKERS, Tracking, check_trackers, numbers_of

OPTIONS = (
    "--batch-size 2 --vocab-size 300 --hidden 16 --layers 1 --heads 1 --cond-dim 8 --length 16 "
    "--log-every 1 --lr-decay 0"
)


@pytest.fixture
def own_places(tmp_path, monkeypatch):
    """Nothing is sent anywhere, and nothing is written outside the test's folder."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    for name in ("TRACKIO_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    return tmp_path


def found_in_tensorboard(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard")).Reload()
    return {key: [(event.step, event.value) for event in events.Scalars(key)] for key in events.Tags()["scalars"]}


def records_in(path):
    """The records of a file of Weights & Biases: a head of 7 bytes, then LevelDB's log of blocks of 32 KiB."""
    data, at, parts = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        length, kind = struct.unpack("<HB", data[at + 4 : at + 7])
        parts += data[at + 7 : at + 7 + length]
        if kind in (1, 4):  # whole, or the last part
            yield parts
            parts = b""
        at += 7 + length
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768


def found_in_wandb(run):
    """What the files of an offline run hold, in the order of its folders; they are of one id."""
    from wandb.proto.wandb_internal_pb2 import Record

    found: dict = {}
    (name,) = {path.name for path in run.glob("wandb/offline-run-*/*.wandb")}
    assert name == f"run-{json.loads((run / tracking.IDENTITY).read_text())['name']}.wandb"
    for path in sorted(run.glob(f"wandb/offline-run-*/{name}")):
        for record in map(Record.FromString, records_in(path)):
            row = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
            for key in row.keys() - {"step", "_step", "_timestamp", "_runtime"}:
                found.setdefault(key, []).append((row["step"], row[key]))
    return found


def found_in_trackio(run):
    from trackio.sqlite_storage import SQLiteStorage

    (name,) = SQLiteStorage.get_runs("mcd")
    assert name == json.loads((run / tracking.IDENTITY).read_text())["name"]
    found: dict = {}
    for row in SQLiteStorage.get_logs("mcd", name):
        for key in row.keys() - {"step", "timestamp"}:
            found.setdefault(key, []).append((row["step"], row[key]))
    return found


FOUND = {"tensorboard": found_in_tensorboard, "wandb": found_in_wandb, "trackio": found_in_trackio}


@pytest.mark.slow
@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::PendingDeprecationWarning", "ignore::ResourceWarning"
)
@pytest.mark.parametrize("name", TRACKERS)
def test_a_run_and_its_resumption_are_one_run_with_the_rows_of_stats_jsonl(name, own_places, text_file):
    pytest.importorskip(name)
    run = own_places / "run"
    for steps in (3, 5):
        asked = f"train --data {text_file} --out {run} --steps {steps} --track {name} {OPTIONS}"
        assert main(asked.split()) == 0
    rows, found = read_stats(run), FOUND[name](run)
    for _ in range(60):  # the process of Weights & Biases writes when it comes to it
        if len(found.get("loss", ())) == 5:
            break
        time.sleep(0.5)
        found = FOUND[name](run)
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5]
    for key in numbers_of(rows[0]):
        assert [step for step, _ in found[key]] == [1, 2, 3, 4, 5]
        assert [value for _, value in found[key]] == pytest.approx([row[key] for row in rows], rel=1e-6), key


@pytest.mark.heavy
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_steps_done_again_replace_those_that_were_lost(tmp_path):
    pytest.importorskip("tensorboard")
    for first, last, loss in ((1, 6, 1.0), (4, 8, 2.0)):
        with Tracking(["tensorboard"], tmp_path, {}) as tracked:
            for step in range(first, last + 1):
                tracked.log({"step": step, "loss": loss})
    assert found_in_tensorboard(tmp_path) == {"loss": [(s, 1.0 if s < 4 else 2.0) for s in range(1, 9)]}


@pytest.mark.heavy
def test_a_tracker_that_fails_is_told_once_and_the_others_go_on(tmp_path, capsys, monkeypatch):
    """A file lies where TensorBoard's folder should be."""
    pytest.importorskip("tensorboard")
    (tmp_path / "tensorboard").write_text("", encoding="utf-8")

    class Kept:
        rows: ClassVar[list] = []

        def __init__(self, *args):
            pass

        def log(self, step, values):
            self.rows.append((step, values))

        def close(self):
            self.rows.append("closed")

    monkeypatch.setitem(TRACKERS, "kept", Kept)
    with Tracking(["tensorboard", "kept"], tmp_path, {}) as tracked:
        for step in (1, 2):
            tracked.log({"step": step, "loss": 0.5, "lr": None, "turn": "fake"})
    said = capsys.readouterr().err
    assert said.count("--track tensorboard: failed") == 1 and "the training goes on" in said
    assert Kept.rows == [(1, {"fake/loss": 0.5}), (2, {"fake/loss": 0.5}), "closed"]


def test_what_is_not_installed_is_refused_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setattr(tracking.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"--track wandb: is not installed; pip install 'mcd-lm\[wandb\]'"):
        check_trackers(["wandb"])
    assert main(["train", "--out", str(tmp_path / "run"), "--track", "wandb"]) == 2
    assert not (tmp_path / "run").exists()
