"""The example scripts, from end to end with their tiny networks."""

import importlib.util
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


@pytest.mark.heavy
def test_an_autoregressive_model_is_adapted_distilled_and_sampled(text_file, tmp_path, capsys):
    pytest.importorskip("transformers")
    spec = importlib.util.spec_from_file_location("adapt_mcd", EXAMPLES / "adapt_mcd.py")
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    argv = ["--tiny", "--data", str(text_file), "--out", str(tmp_path), "--threads", "1", "--valid-every", "0"]
    assert script.main(argv) == 0
    said = capsys.readouterr()
    assert "the mask is <|mask|> (97: added, in a row of its own)" in said.err
    assert said.out.count("[row 0, 8 steps") == 2
    assert (tmp_path / "student" / "model.safetensors").is_file()
