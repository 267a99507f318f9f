"""Fixtures of the tests of commands."""

from pathlib import Path

import pytest

from mcd.checkpoints.folder import save_pretrained


@pytest.fixture(scope="session")
def ours(tiny_denoiser, tmp_path_factory):
    """The folder of a diffusion transformer of ours, with random weights and a tokenizer of 2,048 tokens."""
    folder = tmp_path_factory.mktemp("ours")
    tokenizer = Path(__file__).parents[1] / "data" / "bpe_2048.json"
    save_pretrained(tiny_denoiser(V=2048), folder, tokenizer.read_text(encoding="utf-8"))
    return folder
