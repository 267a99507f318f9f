"""Readers under damage: a short, repeatable run, and every case that once was a fault (tests/fuzz/cases).

Each runs in a process of its own with little memory and without the run-time check of annotations, which would hide
what happens to users. The long form is `make soak`.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mcd.data.tokenizer import EOS, load_tokenizer, tokenizer_of_model, word_tokenizer
from mcd.errors import DataError

HERE = Path(__file__).parent


def run(*options):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parents[1])}
    done = subprocess.run(
        [sys.executable, str(HERE / "run.py"), *options], capture_output=True, text=True, env=environment
    )
    assert done.stdout, done.stderr
    found = {name: target["findings"] for name, target in json.loads(done.stdout)["targets"].items()}
    assert not any(found.values()) and done.returncode == 0, json.dumps(found, indent=2)
    return json.loads(done.stdout)["targets"]


@pytest.mark.slow
def test_a_few_seconds_of_damage():
    targets = run("--seconds", "4", "--seed", "0")
    assert len(targets) == 11 and all(target["executions"] > 10 for target in targets.values())


@pytest.mark.heavy
def test_what_once_was_a_fault():
    targets = run("--replay", str(HERE / "cases"))
    assert sum(target["executions"] for target in targets.values()) >= len(list((HERE / "cases").glob("*/*")))


@pytest.mark.slow
def test_the_fuzzer_finds_what_is_there_to_be_found(tmp_path):
    """A reader that asserts, one that executes a pickle, one that takes memory, one that hangs."""
    script = f"""
import sys; sys.path.insert(0, {str(HERE.parents[1])!r})
import pickle, tests.fuzz.run as run, tests.fuzz.targets as targets
case = {{"a.json": targets.PAYLOAD}}
readers = {{
    "asserts": lambda folder: int("x"),
    "executes": lambda folder: pickle.loads((folder / "a.json").read_bytes()),
    "takes": lambda folder: bytearray(4 << 30),
    "hangs": lambda folder: [None for _ in iter(int, 1)],
    "refuses": lambda folder: (_ for _ in ()).throw(targets.DataError("no")),
}}
targets.TARGETS.clear()
targets.TARGETS.update({{name: targets.Target(lambda: [case], read) for name, read in readers.items()}})
run.LONGEST = 0.2
run.signal.signal(run.signal.SIGALRM, run.too_slow)
run.limit_memory()
for name in readers:
    fuzzer = run.Fuzzer(name, None)
    fuzzer.run(case)
    fuzzer.close()
    print(name, [fault.split(" ")[0] for fault in fuzzer.findings])
"""
    environment = os.environ | {"PYTHONPATH": str(HERE.parents[1])}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=True)
    found = dict(line.split(" ", 1) for line in done.stdout.splitlines())
    assert found == {
        "asserts": "['ValueError']",
        "executes": "['a']",
        "takes": "['MemoryError']",
        "hangs": "['TooSlow']",
        "refuses": "[]",
    }


@pytest.fixture
def tokenizer_file(tmp_path):
    """Writes a tokenizer of words with the ids given."""

    def write(**vocabulary):
        value = json.loads(word_tokenizer(["a", "b", "c"]).to_str())
        value["model"]["vocab"] = vocabulary
        (tmp_path / "tokenizer.json").write_text(json.dumps(value))
        return tmp_path

    return write


def test_tokens_that_share_an_id_are_named(tokenizer_file):
    with pytest.raises(DataError, match=r"'b' and 'c' have the same id 1|'c' and 'b' have the same id 1"):
        load_tokenizer(str(tokenizer_file(a=0, b=1, c=1)))


def test_a_missing_id_is_named_where_ids_must_be_whole(tokenizer_file):
    folder = tokenizer_file(a=0, b=1, c=3)
    load_tokenizer(folder)  # some published ones have gaps
    with pytest.raises(DataError, match=r"no token has the id 2, and 'c' has 3, beyond the 3 tokens"):
        tokenizer_of_model(folder, 3)


@pytest.mark.parametrize("vocabulary", [{}, {EOS: 0}], ids=["none", "one"])
def test_a_tokenizer_of_no_token_or_one_is_refused(tokenizer_file, vocabulary):
    with pytest.raises(DataError, match=f"has {len(vocabulary)} tokens, at least 2 are needed"):
        load_tokenizer(str(tokenizer_file(**vocabulary)))
