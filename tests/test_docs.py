"""The Python on the pages for users, and the notebook, run from beginning to end."""

import re
from itertools import islice
from pathlib import Path

import pytest

from mcd.data.prepare.corpus import documents

ROOT = Path(__file__).resolve().parents[1]


def blocks(page: str) -> str:
    """The Python of a page, at the lines that it has there."""
    text = (ROOT / page).read_text(encoding="utf-8")
    parts = re.split(r"^```(?:python)?\n", text, flags=re.MULTILINE)
    return "\n".join(part if i % 2 else "\n" * part.count("\n") for i, part in enumerate(parts))


@pytest.mark.heavy
def test_the_python_of_the_page_runs(tmp_path, monkeypatch, capsys):
    pytest.importorskip("lightning_fabric")
    monkeypatch.chdir(tmp_path)
    texts = [document[:2000].replace("\n", " ") for document in islice(documents("sotu"), 40)]
    (tmp_path / "my.txt").write_text("\n\n".join(texts) + "\n", encoding="utf-8")
    names: dict = {}
    exec(compile(blocks("docs/python.md"), "docs/python.md", "exec"), names)
    assert "--top-p 2.0: must be in (0, 1]" in capsys.readouterr().out
    assert (tmp_path / "runs" / "student" / "run.json").is_file() and names["teacher"].length == 32


@pytest.mark.heavy
def test_the_notebook_runs_and_shows_its_progress_without_prints_on_stderr(tmp_path, monkeypatch):
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    pytest.importorskip("lightning_fabric")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    notebook = nbformat.read(ROOT / "examples" / "quickstart.ipynb", as_version=4)
    nbformat.validate(notebook)
    assert not any(cell.get("outputs") for cell in notebook.cells)  # what is committed is the source alone
    client = nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    assert not [output for output in outputs if output.output_type == "stream" and output.name == "stderr"]
    shown = [output.data.get("text/html", "") for output in outputs if output.output_type == "display_data"]
    assert any("<progress value=1.0000>" in html and "student" in html for html in shown)
    assert (tmp_path / "runs" / "student" / "model.safetensors").is_file()
