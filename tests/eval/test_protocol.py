"""The protocol stamp: stable, honest about what differs, readable back."""

import json
import subprocess
import sys
from dataclasses import fields, replace
from typing import Literal

import pytest

from mcd.eval.protocol import Protocol, protocol_of_dict, said_by

STAMP = Protocol(scorer="smollm2", sampler="ancestral", temperature=1.0, samples=64, length=128, weights="ema", seed=0)


def test_the_digest_is_the_same_in_another_process_and_differs_with_each_field():
    code = f"from mcd.eval.protocol import Protocol; print(Protocol(**{STAMP.as_dict()!r}).digest())"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == STAMP.digest()
    changed = {str | None: "changed", int | None: 7, float | None: 0.7, bool | None: True}
    changed |= {Literal["ema", "raw"] | None: "raw", Literal["pooled", "per-sample"] | None: "pooled"}
    changed |= {Literal["kept", "dropped"] | None: "kept", Literal["scorer"] | None: "scorer"}
    digests = {replace(STAMP, **{field.name: changed[field.type]}).digest() for field in fields(Protocol)}
    assert len(digests | {STAMP.digest()}) == len(fields(Protocol)) + 1


def test_differences_lists_the_fields_that_differ():
    other = replace(STAMP, seed=1, precision="fp32")
    assert STAMP.differences(STAMP) == []
    assert STAMP.differences(other) == ["precision", "seed"]
    assert STAMP.differences(other, ignore=("seed",)) == ["precision"]


def test_it_survives_json():
    row = json.loads(json.dumps({**STAMP.as_dict(), "digest": STAMP.digest()}))
    assert protocol_of_dict(row) == STAMP
    with pytest.raises(ValueError, match="unknown protocol fields: colour"):
        protocol_of_dict({"colour": "red"})
    for bad in ({"length": "128"}, {"length": True}, {"weights": "best"}, {"top_p": float("nan")}, {"scorer": [1]}):
        with pytest.raises(ValueError, match=f"protocol field {next(iter(bad))}"):
            protocol_of_dict(bad)


def test_rows_of_before_there_were_borders_ran_documents_together():
    """Published rows have no such field. They are like rows of today that drop the borders, and unlike those that
    keep them, by stamp, by digest and on the report's page."""
    old = Protocol(scorer="smollm2", retokenised=True)
    dropped, kept = replace(old, borders="dropped"), replace(old, borders="kept")
    assert old.digest() == dropped.digest() != kept.digest()
    assert old.differences(dropped) == [] and old.differences(kept) == ["borders"]
    assert said_by(old.as_dict()) == said_by(dropped.as_dict())
    unscored = Protocol(samples=4)  # no text was scored
    assert said_by(unscored.as_dict())["borders"] is None
    assert replace(old, retokenised=False).differences(replace(kept, retokenised=False, borders=None)) == []
