"""The hub's own client against a server on this machine that answers as the hub does: import, push, load by id."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("huggingface_hub")
HERE = Path(__file__).parent
FIXTURES = HERE.parent / "checkpoints" / "fixtures"

spec = importlib.util.spec_from_file_location("hub_stand_in", HERE / "hub_stand_in.py")
assert spec and spec.loader
stand_in = importlib.util.module_from_spec(spec)
sys.modules["hub_stand_in"] = stand_in
spec.loader.exec_module(stand_in)

SCRIPT = """
import json, sys
from mcd.cli.main import main
for argv in json.loads(sys.argv[1]):
    if argv[0] == "load":
        from mcd.checkpoints.folder import from_pretrained
        model = from_pretrained(argv[1])
        print("loaded", sum(p.numel() for p in model.parameters()), model.folder.name)
    else:
        print("status", main(argv))
        sys.stderr.flush()
    sys.stdout.flush()
"""


@pytest.fixture
def hub():
    with stand_in.Hub() as hub:
        yield hub


def run(hub, home, *calls, token=stand_in.TOKEN):
    """Commands in a process of their own, whose hub is the stand-in; returns its output and its errors."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment |= {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }
    environment |= {"NO_PROXY": "127.0.0.1", "HF_HUB_DISABLE_TELEMETRY": "1", "OMP_NUM_THREADS": "1"}
    if token:
        environment["HF_TOKEN"] = token
    calls = json.dumps([[str(word) for word in call] for call in calls])
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, calls], env=environment, capture_output=True, text=True, cwd=HERE.parents[1]
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines(), done.stderr


def serve(hub, name, **branches):
    """Put folders of fixtures into the stand-in, one a branch."""
    files = {
        branch: {path.name: path.read_bytes() for path in (FIXTURES / folder).iterdir()}
        for branch, folder in branches.items()
    }
    hub.repositories[name] = stand_in.Repository(branches={"main": {}, **files})


@pytest.mark.heavy
def test_by_id_and_revision_then_pushed_then_loaded_by_id(hub, tmp_path):
    serve(hub, "jdeschena/sdtt", baselines_kld_step_70000="sdtt-hub", teacher_1M_sm="sdtt-hub-teacher")
    out = tmp_path / "sdtt-7"
    shown, errors = run(
        hub,
        tmp_path / "home",
        ["import", "jdeschena/sdtt", "--revision", "baselines_kld_step_70000", "--tokenizer", "none", "--out", out],
        ["push", out, "someone/student", "--private", "--license", "apache-2.0"],
        ["load", "someone/student"],
        ["import", "jdeschena/sdtt", "--revision", "baselines_kld_step_80000", "--tokenizer", "none", "--out", "no"],
        ["import", "nobody/nothing", "--tokenizer", "none", "--out", "no"],
        ["push", out, "someone/student", "--revision", "second"],
    )
    lines = [line for line in shown if line.startswith(("status", "loaded"))]
    assert lines[:2] == ["status 0", "status 0"] and lines[3:] == ["status 2", "status 2", "status 0"], (lines, errors)
    origin = json.loads((out / "origin.json").read_text())
    served = hub.repositories["jdeschena/sdtt"].branches["baselines_kld_step_70000"]
    assert origin["source"] == "jdeschena/sdtt" and origin["revision"] == "baselines_kld_step_70000"
    assert origin["commit"] == stand_in.commit_of(served) and origin["weights"] == "raw"
    pushed = hub.repositories["someone/student"]
    assert pushed.private and set(pushed.branches) == {"main", "second"}
    for files in pushed.branches.values():
        assert set(files) == {"config.json", "model.safetensors", "origin.json", "README.md"}
        assert files["model.safetensors"] == (out / "model.safetensors").read_bytes()
        assert b"# student" in files["README.md"] and b"arXiv:2410.21035" in files["README.md"]
    assert lines[2].split()[2] == stand_in.commit_of(pushed.branches["main"])
    assert any(request.startswith("PUT /objects/") for request in hub.asked)  # the weights went by LFS
    assert "jdeschena/sdtt at revision baselines_kld_step_80000" in errors and "RevisionNotFoundError" in errors
    assert "nobody/nothing" in errors and "RepositoryNotFoundError" in errors


@pytest.mark.heavy
def test_without_a_token_nothing_is_pushed_and_the_mend_is_named(hub, tmp_path):
    shown, errors = run(hub, tmp_path / "home", ["push", "demo", "someone/student"], token=None)
    assert shown[-1] == "status 2" and "hf auth login" in errors and "HF_TOKEN" in errors and "Traceback" not in errors
    shown, errors = run(hub, tmp_path / "home", ["push", "demo", "someone/student"], token="hf_wrong")
    assert shown[-1] == "status 2" and "(401)" in errors and not hub.repositories


@pytest.mark.heavy
def test_a_hub_that_fails_is_told(hub, tmp_path):
    serve(hub, "someone/student")
    hub.__exit__()
    shown, errors = run(hub, tmp_path / "home", ["push", "demo", "someone/student"])
    assert shown[-1] == "status 1" and "someone/student: not pushed" in errors and "Traceback" not in errors
