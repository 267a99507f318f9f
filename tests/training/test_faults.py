"""What clusters do: a full disk, a read-only one, damaged files, a second run; the last good checkpoint is used."""

import json
import os
import random
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from mcd.checkpoints.folder import save_pretrained
from mcd.cli.main import main
from mcd.data.loader import open_loader
from mcd.errors import CheckpointError, DataError
from mcd.training.run_folder import RunFolder, read_stats

ROOT = Path(__file__).parents[2]
MAY_MOUNT = (
    sys.platform.startswith("linux")
    and shutil.which("unshare") is not None
    and subprocess.run(["unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True).returncode == 0
)


@pytest.fixture(scope="module")
def teacher(tiny_denoiser, tiny_data, tmp_path_factory):
    """A model of 1.6 MB with the tokenizer of `tiny_data`."""
    folder = tmp_path_factory.mktemp("models") / "teacher"
    tokenizer = (tiny_data / "tokenizer.json").read_text(encoding="utf-8")
    save_pretrained(tiny_denoiser(V=300, hidden=96, layers=3), folder, tokenizer)
    return folder


def distilling(teacher, data, out):
    few = "--rounds 2 --steps-per-round 4 --batch-size 2 --checkpoint-every 3 --log-every 1 --threads 1".split()
    return ["distill", "mcd", "--teacher", str(teacher), "--data", str(data), "--out", str(out), *few]


def outcome(out):
    stats = [{k: v for k, v in row.items() if k != "elapsed_s"} for row in read_stats(out)]
    files = {path.relative_to(out): path.read_bytes() for path in out.rglob("model*.safetensors")}
    return files, stats


DISK = """
    import contextlib, io, json, os, subprocess, sys
    from pathlib import Path
    from mcd.cli.main import main

    argv, disk = json.loads(sys.argv[1]), sys.argv[2]
    def mount(options):
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", disk], check=True)
    def attempt(*argv):
        with contextlib.redirect_stderr(io.StringIO()) as said:
            status = main(list(argv))
        checkpoints = sorted(path.name for path in Path(disk).glob("run/checkpoints/*"))
        told.append({"status": status, "said": said.getvalue(), "checkpoints": checkpoints})
    told = []
    mount("size=4m")
    attempt(*argv)  # no room for the first checkpoint
    mount("remount,size=13m")
    attempt(*argv)  # for the first, not for the second
    mount("remount,ro")
    attempt(*argv)
    mount("remount,rw,size=64m")
    attempt(*argv)
    subprocess.run(["cp", "-r", disk + "/run", sys.argv[3]], check=True)
    mount("remount,ro")
    attempt("sample", disk + "/run", "--num", "1", "--steps", "2", "--threads", "1", "--out", disk + "/samples.jsonl")
    attempt("prepare", "--data", "hmm", "--out", disk + "/data")
    print(json.dumps(told))
"""


@pytest.mark.slow
@pytest.mark.skipif(not MAY_MOUNT, reason="no right to mount a small disk here (unshare -rm)")
def test_a_disk_that_is_full_or_read_only_costs_nothing(teacher, tiny_data, tmp_path):
    """A real disk of some megabytes: told, status 1, what was there is intact, and with room the same run ends."""
    disk, kept = tmp_path / "disk", tmp_path / "kept"
    disk.mkdir()
    argv = distilling(teacher, tiny_data, disk / "run")
    script = [sys.executable, "-c", textwrap.dedent(DISK), json.dumps(argv), str(disk), str(kept)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(["unshare", "-rm", *script], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    nothing, one, read_only, whole, samples, data = json.loads(done.stdout)
    for full in (nothing, one):
        assert full["status"] == 1 and full["said"].startswith("mcd: no space left on the device")
        assert "run the same command again" in full["said"] and full["said"].count("\n") == 1
    assert nothing["checkpoints"] == [] and one["checkpoints"] == ["step-00000003"] == read_only["checkpoints"]
    for refused in (read_only, samples, data):
        assert refused["status"] == 1 and "read-only file system" in refused["said"], refused
    assert whole["status"] == 0
    assert main(distilling(teacher, tiny_data, tmp_path / "undisturbed")) == 0
    assert outcome(kept) == outcome(tmp_path / "undisturbed")


class Killed(BaseException):
    pass


def kill_at(step):
    def watch(progress):
        if progress.step == step:
            raise Killed

    return watch


@pytest.fixture(scope="module")
def halted(run_fit, tmp_path_factory):
    """A run killed in step 11, and what the same run leaves when nobody disturbs it."""
    folder = tmp_path_factory.mktemp("halted")
    with pytest.raises(Killed):
        run_fit(folder / "run", watch=kill_at(11))
    run_fit(folder / "undisturbed")
    return folder / "run", outcome(folder / "undisturbed")


@pytest.mark.heavy
@pytest.mark.parametrize("seed", range(6))
def test_a_damaged_newest_checkpoint_is_passed_over_bit_for_bit(run_fit, halted, tmp_path, seed):
    """One bit turned, or the end cut off, of any file of it."""
    rng, out = random.Random(seed), tmp_path / "run"
    shutil.copytree(halted[0], out)
    newest = max((out / "checkpoints").glob("step-*"))
    path = rng.choice(sorted(newest.iterdir()))
    data = bytearray(path.read_bytes())
    if seed % 2:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    else:
        del data[rng.randrange(len(data)) :]
    path.write_bytes(data)
    run_fit(out)
    assert outcome(out) == halted[1]


def test_when_all_are_damaged_the_run_stops_and_touches_none(run_fit, tmp_path):
    out = tmp_path / "run"
    with pytest.raises(Killed):
        run_fit(out, watch=kill_at(11))
    for path in (out / "checkpoints").glob("step-*/state.safetensors"):
        path.write_bytes(path.read_bytes()[:-1])
    lock = (out / "lock", out / "holder.json")
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file() and path not in lock}
    with pytest.raises(CheckpointError, match=r"no readable checkpoint; .*step-00000010: .*step-00000005: "):
        run_fit(out)
    after = {path: path.read_bytes() for path in before}
    assert {path.name for path in before if before[path] != after[path]} <= {"run.json"}


@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_a_damaged_shard_is_named(tiny_data, tmp_path, damage):
    shutil.copytree(tiny_data, tmp_path / "data")
    path = tmp_path / "data" / "train-00000.bin"
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 1
    path.write_bytes(data[:-2] if damage == "cut" else data)
    if damage == "remove":
        path.unlink()
    with pytest.raises(DataError, match=r"train-00000\.bin: .*prepare the data again"):
        open_loader(tmp_path / "data", "train", 2)


def test_a_second_run_in_the_folder_is_told_and_changes_nothing(teacher, tiny_data, tmp_path, capsys):
    argv = distilling(teacher, tiny_data, tmp_path / "run")
    with RunFolder(tmp_path / "run", {"command": "distill"}):
        before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
        assert main(argv) == 2
        assert f"another run is at work there (process {os.getpid()} on" in capsys.readouterr().err
        assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before
