"""The distribution works where the source is not."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mcd.cli.main import main

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow
def test_the_wheel_holds_the_package_and_draws_text_where_it_is_installed(tmp_path):
    """With the dependencies of this environment; `make dist-check` installs its own."""
    pytest.importorskip("build")
    command = [sys.executable, ROOT / "dev" / "check_dist.py", "--out", tmp_path / "dist"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {path.suffix for path in (tmp_path / "dist").iterdir()} == {".whl", ".gz"}
    assert "used: in" in done.stdout


def test_the_image_copies_what_is_there_and_starts_the_server(capsys):
    """The Dockerfile is not built here: its sources exist and are not ignored, and its command is one of mcd."""
    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines()
    copied = [name for line in lines if re.match(r"COPY (?!--from)", line) for name in line.split()[1:-1]]
    admitted = set((ROOT / ".dockerignore").read_text(encoding="utf-8").split())
    assert copied and all((ROOT / name).exists() and f"!{name}" in admitted for name in copied)
    start, default = (
        json.loads(next(line for line in lines if line.startswith(word)).split(" ", 1)[1])
        for word in ("ENTRYPOINT", "CMD")
    )
    assert start[0] == "mcd" and main([*start[1:], *default, "--dry-run"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["model"], shown["host"], shown["port"]) == ("demo", "0.0.0.0", 8000)
    check = next(line for line in lines if line.startswith("HEALTHCHECK"))
    assert f"http://127.0.0.1:{shown['port']}/ready" in check and f"EXPOSE {shown['port']}" in lines
