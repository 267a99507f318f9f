"""The script of `mcd completion`, in a real bash (and a real zsh, where there is one)."""

import shutil
import subprocess

import pytest

from mcd.cli.completion import options_of, script
from mcd.cli.main import COMMANDS, main
from mcd.objective import OBJECTIVES

pytestmark = pytest.mark.heavy


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    path = tmp_path_factory.mktemp("completion") / "mcd.bash"
    path.write_text(script(), encoding="utf-8")
    return path


def completed(written, line, tmp_path):
    """What bash offers for the last word of a line."""
    words = line.split(" ")
    array = " ".join(f"'{word}'" for word in words)
    code = f"source {written}; COMP_WORDS=({array}); COMP_CWORD={len(words) - 1}; _mcd; echo ${{COMPREPLY[*]}}"
    done = subprocess.run(["bash", "-uc", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.parametrize(
    "line, offered",
    [
        ("mcd sa", ["sample"]),
        ("mcd sample --dt", ["--dtype"]),
        ("mcd sample demo --dtype b", ["bfloat16"]),
        ("mcd sample --sampler con", ["confidence"]),
        ("mcd distill s", ["sdtt"]),
        ("mcd distill mcd --coup", ["--coupling"]),
        ("mcd distill sdtt --coup", []),
        ("mcd distill --teacher demo --coup", []),
        ("mcd train --no-comp", ["--no-compile"]),
        ("mcd sample demo --out f", []),  # the shell's own completion of files goes on
        ("mcd nothing --x", []),
    ],
)
def test_bash_offers(written, line, offered, tmp_path):
    assert completed(written, line, tmp_path) == offered


def test_every_command_and_option_is_offered(written, tmp_path):
    assert completed(written, "mcd ", tmp_path) == list(COMMANDS)
    for command in ("train", "distill mcd"):
        names = {name for name, _, _ in options_of(command.split())}
        assert names >= {"--out", "--seed"} and names <= set(completed(written, f"mcd {command} --", tmp_path))
    assert set(completed(written, "mcd distill ", tmp_path)) == {n for n, kind in OBJECTIVES.items() if kind.distils}


@pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not installed")
def test_zsh_reads_it(tmp_path, capsys):
    assert main(["completion", "zsh"]) == 0
    (tmp_path / "mcd.zsh").write_text(capsys.readouterr().out, encoding="utf-8")
    code = f"source {tmp_path}/mcd.zsh && whence -w _mcd && echo $_comps[mcd]"
    done = subprocess.run(["zsh", "-fc", code], capture_output=True, text=True, check=True)
    assert "_mcd: function" in done.stdout and "_bash_complete" in done.stdout
