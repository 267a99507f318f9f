"""A uniform model out of a masked one: the same predictions, without the mask."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

from mcd.checkpoints.config import tokenizer_in
from mcd.checkpoints.folder import from_pretrained
from mcd.checkpoints.locate import DEMO
from mcd.checkpoints.unmasked import tokenizer_without, without_mask
from mcd.cli.main import main
from mcd.model.denoiser import Denoiser


def logits(model: Denoiser, x: torch.Tensor) -> torch.Tensor:
    """Of the tokens alone, before a model forbids any: (B, L, V)."""
    weight, bias = model.backbone.projection()
    features = model.hidden(x, torch.full((len(x),), 0.5))
    return features @ weight.T + bias


@pytest.mark.parametrize("name", ["ours", "demo"])
@torch.no_grad()
def test_the_logits_of_the_tokens_are_those_of_the_masked_model(name: str, ours: Path) -> None:
    masked = from_pretrained(str(ours) if name == "ours" else name)
    uniform = without_mask(masked)
    assert uniform.config.process == "uniform" and uniform.config.vocab_size == masked.config.mask_id
    x = torch.randint(uniform.config.vocab_size, (2, 8), generator=torch.Generator().manual_seed(0))
    ours_, theirs = logits(uniform, x), logits(masked, x)[..., : uniform.config.vocab_size]
    torch.testing.assert_close(ours_, theirs, rtol=1e-5, atol=1e-5)


def test_the_tokenizer_loses_its_mask_and_nothing_else() -> None:
    tokenizer = tokenizer_in(DEMO)
    mask_id, text = tokenizer.token_to_id("[MASK]"), "Fellow citizens, peace."
    without = tokenizer_without(tokenizer, mask_id)
    assert without.get_vocab_size() == mask_id and without.token_to_id("[MASK]") is None
    assert without.encode(text).ids == tokenizer.encode(text).ids
    assert tokenizer_without(without, mask_id) is without


def test_a_mask_in_the_middle_of_the_vocabulary_is_refused() -> None:
    with pytest.raises(ValueError, match="not the last special token"):
        tokenizer_without(tokenizer_in(DEMO), 17)


def test_models_without_a_mask_or_with_noise_are_refused(tiny_denoiser: Callable[..., Denoiser]) -> None:
    for process in ("uniform", "autoregressive", "locked"):
        with pytest.raises(ValueError, match=f"is {process}, not masked"):
            without_mask(tiny_denoiser(process=process))


@pytest.mark.heavy
def test_train_starts_a_uniform_model_from_the_bundled_teacher(text_file: Path, tmp_path: Path) -> None:
    out, text = tmp_path / "uniform", tmp_path / "text.txt"
    text.write_text(2 * text_file.read_text(encoding="utf-8"), encoding="utf-8")
    options = "--method duo --init demo --length 16 --batch-size 2 --steps 1 --threads 1 --no-compile"
    assert main(["train", *options.split(), "--data", str(text), "--out", str(out)]) == 0
    made = from_pretrained(str(out))
    assert made.config.process == "uniform" and made.config.vocab_size == 10240
    assert "mask_token" not in json.loads((out / "tokenizer_config.json").read_text())
    assert Tokenizer.from_file(str(out / "tokenizer.json")).get_vocab_size() == 10240
