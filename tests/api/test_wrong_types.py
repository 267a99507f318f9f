"""What has a wrong type is refused as what has a wrong value is. In a process of its own: tests check annotations."""

import subprocess
import sys

import pytest

CODE = """
import sys, numpy, mcd
from mcd.errors import UsageError
model = mcd.load(sys.argv[1], device="cpu")
for call in (
    lambda: mcd.load(None),
    lambda: mcd.load("demo", weights="best"),
    lambda: model.infill(123),
    lambda: model.infill(["a", None]),
    lambda: model.infill("a [MASK]", num="2", candidates=3),
    lambda: model.score(None),
    lambda: model.score([3]),
    lambda: model.sample(0, steps=2),
    lambda: model.sample(2.5, steps=2),
    lambda: model.sample(seed="a", steps=2),
):
    try:
        call()
    except UsageError as error:
        print(error)
one, two = numpy.int64(1), numpy.int64(2)
a = model.sample(two, steps=two, length=numpy.int64(8), seed=one, first_row=one, temperature=numpy.float32(0.5))
b = model.sample(2, steps=2, length=8, seed=1, first_row=1, temperature=0.5)
print(a.texts == b.texts, a.rows == b.rows)
"""


@pytest.mark.heavy
def test_wrong_types_are_refused_and_numbers_of_numpy_taken(ours):
    done = subprocess.run([sys.executable, "-c", CODE, str(ours)], capture_output=True, text=True)
    assert done.stderr == "" and done.stdout.splitlines() == [
        "name=None: must be a folder, a hub id, or 'demo'",
        "weights='best': must be 'ema' or 'raw'",
        "--template 123: must be text, or texts and numbers of blank tokens",
        "--template ['a', None]: must be text, or texts and numbers of blank tokens",
        "--num 2: must be a whole number, at least 1",
        "texts=None: must be a text or a list of texts",
        "text 0: must be text, not 3",
        "--num 0: must be at least 1",
        "--num 2.5: must be a whole number, at least 1",
        "--seed a: must be a whole number, in [0, 2**63)",
        "True True",
    ]
