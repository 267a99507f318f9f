"""The documentation: every code block of it is run or checked, and the site is built strictly."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mcd.cli.arguments import parse
from mcd.cli.demo_options import DemoArgs
from mcd.cli.main import COMMANDS, main

ROOT = Path(__file__).resolve().parents[1]
PAGES = [path for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))) if path.name != "cli.md"]
RUN_BY = {
    "README.md": "tests/test_readme.py",
    "python.md": "tests/test_docs.py",
    "theory.md": "tests/test_equations.py",
    "extending.md": "tests/test_extending.py",
    "serving.md": "tests/serve/test_http.py",
    **dict.fromkeys(("index.md", "concepts.md", "checkpoints.md"), "tests/test_site.py"),
}
"""The test that runs the Python of a page."""
PROGRAMS = {"apt-get", "docker", "git", "pip", "sbatch", "curl", "tensorboard"}
"""Whose lines are left to the reader."""
SHELL = ("bash", "sh")


def blocks(page: Path) -> list[tuple[str, str]]:
    """The language and the text of each code block."""
    found = re.findall(r"^( *)```(\w*)\n(.*?)^\1```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [(language, text) for _, language, text in found]


def commands(page: Path) -> list[list[str]]:
    """The words of each command of the shell blocks, after `torchrun ... --`, `time` and settings of variables."""
    found = []
    for language, text in blocks(page):
        for line in text.replace("\\\n", " ").splitlines() if language in SHELL else ():
            words = shlex.split(line, comments=True)
            while words and (words[0] == "time" or re.fullmatch(r"\w+=.*", words[0])):
                words = words[1:]
            if words[:1] == ["torchrun"]:
                words = words[words.index("--") + 1 :]
            found += [words] if words else []
    return found


CALLS = [(page.name, words) for page in PAGES for words in commands(page)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_is_of_a_kind_that_is_checked(page):
    kinds = {language for language, _ in blocks(page)}
    assert kinds <= {"python", "text", "", *SHELL}
    if "python" in kinds:
        assert page.name in (ROOT / RUN_BY[page.name]).read_text(encoding="utf-8")


def test_there_is_something_to_check():
    assert len(CALLS) > 100 and {words[1] for _, words in CALLS if words[0] == "mcd"} >= {"play", "serve", "frontier"}


@pytest.mark.parametrize(
    ("page", "words"),
    [
        pytest.param(page, words, id=f"{page}-{' '.join(words)[:60]}", marks=[pytest.mark.slow] * ("plan" in words))
        for page, words in CALLS
    ],
)
def test_commands_exist_with_their_options(page, words, capsys, tmp_path, monkeypatch):
    """A command of ours may miss the reader's files, and so the kind of model. A program's file is there."""
    monkeypatch.chdir(tmp_path)
    program, *rest = words
    if program == "mcd":
        assert rest[0] in COMMANDS
        if rest[0] == "demo":  # whose dry run measures the machine
            assert parse(DemoArgs, rest[1:], "demo", DemoArgs())
        elif rest[0] not in ("doctor", "completion", "lm-eval"):
            status, said = main([*rest, "--dry-run"]), capsys.readouterr().err
            assert status == 0 or "no such file or folder" in said or "no option of --sampler ancestral" in said, said
    elif program == "make":
        assert re.search(rf"^{rest[0]}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    elif program == "python":
        assert rest[0] == "-m" or (ROOT / rest[0]).is_file()
    else:
        assert program in PROGRAMS


@pytest.mark.heavy
@pytest.mark.parametrize("page", ["index.md", "concepts.md"])
def test_python_runs(page, capsys):
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    names: dict = {}
    for block in re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        exec(compile(block, page, "exec"), names)
    assert capsys.readouterr().out


@pytest.mark.slow
def test_the_python_of_checkpoints_md_runs_on_an_exported_model(ours, tmp_path):
    """Transformers alone reads what `mcd export --layout transformers` wrote."""
    assert main(["export", str(ours), "--layout", "transformers", "--out", str(tmp_path / "DIR")]) == 0
    (block,) = [text for language, text in blocks(ROOT / "docs" / "checkpoints.md") if language == "python"]
    environment = os.environ | {"HF_HOME": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", block], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and "citizens" in done.stdout, done.stderr


@pytest.mark.slow
def test_the_site_is_built_strictly(tmp_path):
    pytest.importorskip("material")
    pytest.importorskip("mkdocstrings")
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(tmp_path / "site")]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert 'id="mcd.api.model.Model.infill"' in (tmp_path / "site" / "api" / "index.html").read_text(encoding="utf-8")

    shutil.copytree(ROOT / "docs", tmp_path / "broken" / "docs", ignore=shutil.ignore_patterns("*.json", "__pycache__"))
    shutil.copy(ROOT / "mkdocs.yml", tmp_path / "broken")
    with (tmp_path / "broken" / "docs" / "concepts.md").open("a", encoding="utf-8") as page:
        page.write("\n[nothing](nothing.md)\n")
    words[-1] = str(tmp_path / "again")
    done = subprocess.run(words, cwd=tmp_path / "broken", env=environment, capture_output=True, text=True, check=False)
    assert done.returncode != 0 and "nothing.md" in done.stderr
