"""The published model card: what a reader would paste from it works, offline, where the published folder is."""

import re
import shlex

import pytest

import mcd
from mcd.cli.main import main

pytest.importorskip("huggingface_hub")


@pytest.fixture
def card(tmp_path, monkeypatch):
    """The card of the demo model, published to a folder that a hub id finds from here."""
    monkeypatch.chdir(tmp_path)
    assert main(["push", "demo", "./OWNER/mine", "--license", "apache-2.0"]) == 0
    return (tmp_path / "OWNER" / "mine" / "README.md").read_text()


def blocks(card, language):
    return re.findall(rf"```{language}\n(.*?)```", card, re.DOTALL)


def test_its_code_loads_the_model(card):
    (code,) = blocks(card, "python")
    names = {}
    exec(code, names)
    assert isinstance(names["model"], mcd.Denoiser) and names["model"].folder.name == "mine"


@pytest.mark.heavy
def test_its_command_samples(card, capsys):
    (commands,) = blocks(card, "bash")
    install, sample = commands.splitlines()
    assert install.startswith("pip install") and sample.startswith("mcd sample OWNER/mine")
    assert main(shlex.split(sample)[1:]) == 0 and capsys.readouterr().out.strip()


def test_its_front_matter_is_what_the_hub_reads(card):
    from huggingface_hub import ModelCard

    data = ModelCard(card).data
    assert data.license == "apache-2.0" and data.library_name == "mcd-lm" and data.base_model is None
    assert "masked-diffusion" in data.tags
