"""Fixtures of the tests of the Python functions."""

from pathlib import Path

import pytest

from mcd.api.model import Model, load
from mcd.checkpoints.folder import save_pretrained


@pytest.fixture(scope="session")
def model(ours):
    """A masked model with random weights, rows of 16 tokens and a tokenizer of 2,048."""
    return load(str(ours), device="cpu")


@pytest.fixture(scope="session")
def model_of(tiny_denoiser, tmp_path_factory):
    """Makes a model of another process, with the same tokenizer."""
    tokenizer = (Path(__file__).parents[1] / "data" / "bpe_2048.json").read_text(encoding="utf-8")

    def build(process: str) -> Model:
        folder = tmp_path_factory.mktemp(process)
        save_pretrained(tiny_denoiser(V=2048, process=process), folder, tokenizer)
        return load(str(folder), device="cpu")

    return build
