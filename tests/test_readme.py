"""The README's commands exist with the options it gives them, and its Python runs."""

import re
import shlex
from pathlib import Path

import pytest

from mcd.cli.main import COMMANDS, main

README = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")
CALLS = [line.split("#")[0].strip() for line in README.splitlines() if line.startswith("mcd ")]


def test_there_is_something_to_check():
    assert {shlex.split(call)[1] for call in CALLS} >= {"sample", "distill", "eval", "prepare", "train", "report"}


@pytest.mark.parametrize("call", [call for call in CALLS if not call.startswith(("mcd report", "mcd doctor"))])
def test_commands_resolve(call, capsys, tmp_path, monkeypatch):
    """Where the files that are the user's own are there."""
    monkeypatch.chdir(tmp_path)
    for name in ("my.jsonl", "chat.jsonl"):
        (tmp_path / name).write_text('{"text": "a"}\n', encoding="utf-8")
    argv = shlex.split(call)[1:]
    assert argv[0] in COMMANDS
    assert main([*argv, "--dry-run"]) == 0
    assert capsys.readouterr().out.startswith("{")


@pytest.mark.heavy
def test_python_runs(capsys):
    (block,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    names: dict = {}
    exec(block, names)
    shown = capsys.readouterr().out
    assert shown.count("My fellow citizens,") == 5 and "Score(nats=" in shown
    assert names["state"].t == 0.0 and "·" not in names["state"].texts[0]
