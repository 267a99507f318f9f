"""The protocol stamp: stable, honest about what differs, readable back."""

import json
import subprocess
import sys
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import pytest

from mcd.eval.protocol import Protocol, protocol_of_dict, said_by
from mcd.sampler.ancestral import Ancestral
from mcd.sampler.cad import CAD
from mcd.sampler.causal import Causal
from mcd.sampler.confidence import Confidence
from mcd.sampler.gumbel_race import GumbelRace
from mcd.sampler.remdm import ReMDM
from mcd.sampler.uniform import Uniform

STAMP = Protocol(scorer="smollm2", sampler="ancestral", temperature=1.0, samples=64, length=128, weights="ema", seed=0)


def test_the_digest_is_the_same_in_another_process_and_differs_with_each_field():
    code = f"from mcd.eval.protocol import Protocol; print(Protocol(**{STAMP.as_dict()!r}).digest())"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == STAMP.digest()
    changed = {str | None: "changed", int | None: 7, float | None: 0.7, bool | None: True}
    changed |= {Literal["ema", "raw"] | None: "raw", Literal["pooled", "per-sample"] | None: "pooled"}
    changed |= {Literal["kept", "dropped"] | None: "kept", Literal["scorer"] | None: "scorer"}
    changed |= {tuple[tuple[str, Any], ...]: (("eta", 0.1),)}
    digests = {replace(STAMP, **{field.name: changed[field.type]}).digest() for field in fields(Protocol)}
    assert len(digests | {STAMP.digest()}) == len(fields(Protocol)) + 1


def test_it_survives_json():
    row = json.loads(json.dumps({**STAMP.as_dict(), "digest": STAMP.digest()}))
    assert protocol_of_dict(row) == STAMP
    with pytest.raises(ValueError, match="unknown protocol fields: colour"):
        protocol_of_dict({"colour": "red"})  # of no sampler
    for bad in (
        {"length": "128"},
        {"length": True},
        {"weights": "best"},
        {"top_p": float("nan")},
        {"scorer": [1]},
        {"eta": [1]},
    ):
        with pytest.raises(ValueError, match=f"protocol field {next(iter(bad))}"):
            protocol_of_dict({"sampler": "mine", **bad})


def test_older_rows_without_borders_ran_documents_together():
    """Published rows have no such field. They are like rows of today that drop the borders, and unlike those that
    keep them, by stamp, by digest and on the report's page."""
    old = Protocol(scorer="smollm2", retokenised=True)
    dropped, kept = replace(old, borders="dropped"), replace(old, borders="kept")
    assert old.digest() == dropped.digest() != kept.digest()
    assert said_by(old.as_dict()) == said_by(dropped.as_dict()) != said_by(kept.as_dict())
    unscored = Protocol(samples=4)  # no text was scored
    assert said_by(unscored.as_dict())["borders"] is None
    assert said_by(replace(old, retokenised=False).as_dict())["borders"] is None


def test_older_rows_of_a_reference_were_compared_by_the_scorers_features():
    old = Protocol(scorer="smollm2", retokenised=True, borders="kept", reference="sotu", reference_samples=64)
    by_scorer, by_encoder = replace(old, features="scorer"), replace(old, features="minilm")
    assert old.digest() == by_scorer.digest() != by_encoder.digest()
    assert said_by(old.as_dict()) == said_by(by_scorer.as_dict()) != said_by(by_encoder.as_dict())
    assert said_by(replace(old, reference=None).as_dict())["features"] is None  # nothing was compared


OLD = [
    (ReMDM(eta=0.04), {"order": "iid, remasking by cap 0.04"}),
    (ReMDM(remasking="rescale", eta=1e-05), {"order": "iid, remasking by rescale 1e-05"}),
    (Confidence(score="margin"), {"order": "margin", "grid": "equal counts"}),
    (Confidence(block=8), {"order": "top, blocks of 8", "grid": "equal counts"}),
    (CAD(), {"order": "top, blocks of 32", "grid": "adaptive, threshold 0.95, at most 4 tokens"}),
    (
        CAD(score="entropy", threshold=-1.5),
        {"order": "entropy, blocks of 32", "grid": "adaptive, threshold -1.5, at most 4 tokens"},
    ),
]


@pytest.mark.parametrize(("sampler", "words"), OLD, ids=str)
def test_older_stamps_that_hide_options_in_words_are_read_as_what_they_were(sampler, words):
    old = {"sampler": sampler.name, "precision": "fp64", "grid": "uniform t, 1 to 0", **words}
    old |= {"temperature": 1.0, "top_p": 1.0, "tail": None, "kappa": None}
    assert protocol_of_dict(old) == protocol_of_dict(sampler.protocol())
    said = said_by(old)
    assert {name: said[name] for name in sampler.protocol()} == sampler.protocol()


@pytest.mark.parametrize(
    ("sampler", "digest"),
    [
        (Ancestral(), "bfdb31491e30"),
        (Ancestral(order="low-discrepancy", temperature=0.8), "c6cfd5aceb67"),
        (Causal(), "35eed1ad0edf"),
        (Confidence(score="margin"), "0629d27cb5c7"),
        (Confidence(greedy=True), "cc6c2cc7f90d"),
        (GumbelRace(precision="fp32"), "0453946d671e"),
        (Uniform(), "aef21a09b056"),
        (Uniform(tail="greedy", kappa=0.0), "c222bdcffb9a"),
    ],
    ids=str,
)
def test_digests_of_published_rows_stay(sampler, digest):
    assert protocol_of_dict(sampler.protocol() | {"length": 128, "seed": 0}).digest() == digest


def test_every_option_of_a_sampler_is_in_its_stamp():
    @dataclass(frozen=True)
    class Mine(Ancestral):
        name = "mine"
        colour: str = "red"

    stamps = [protocol_of_dict(Mine(colour=colour).protocol()) for colour in ("red", "blue")]
    assert stamps[0].as_dict()["colour"] == "red" and stamps[0].digest() != stamps[1].digest()
    assert protocol_of_dict(stamps[0].as_dict()) == stamps[0]
