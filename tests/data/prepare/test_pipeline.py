"""Preparing data: the same bytes whatever the processes and interruptions, and MDLM's rows where they are asked for."""

import errno
import io
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mcd
from mcd.data import special_tokens
from mcd.data.loader import open_loader
from mcd.data.manifest import MANIFEST, read_manifest
from mcd.data.prepare import pipeline, records, workers
from mcd.data.prepare.corpus import documents
from mcd.data.prepare.pipeline import prepare
from mcd.data.prepare.resume import LOCK, PROGRESS, locked
from mcd.data.recipe import PRESETS, Recipe, preset_of
from mcd.data.tokenizer import EOS, load_tokenizer, tokenizer_sha256
from mcd.data.tokens import read_tokens
from mcd.errors import DataError, UsageError, WorkFailed

SHARD = 700


@pytest.fixture(autouse=True)
def small_units(monkeypatch):
    """Units of a few documents, so that there are many."""
    monkeypatch.setattr(records, "UNIT_BYTES", 800)


@pytest.fixture
def recipe(text_file, tiny_data):
    return Recipe(str(text_file), tokenizer=str(tiny_data), length=16, valid_every=8)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def changed(recipe, kind):
    """A recipe of each packing and of each way of holding out."""
    changes = {"every": {}, "last": {"valid_last": 9}, "groups": {"wrap": True, "group_documents": 7, "valid_last": 20}}
    return replace(recipe, **changes[kind])


KINDS = ("every", "last", "groups")


@pytest.mark.heavy
@pytest.mark.parametrize("kind", KINDS)
def test_the_bytes_do_not_depend_on_the_number_of_processes(recipe, tmp_path, kind, monkeypatch):
    monkeypatch.setattr(workers, "FEW_UNITS", 2)
    for count in (1, 2, 3):
        prepare(changed(recipe, kind), tmp_path / str(count), SHARD, count)
    assert contents(tmp_path / "1") == contents(tmp_path / "2") == contents(tmp_path / "3")
    assert len(contents(tmp_path / "1")) > 6


class Killed(BaseException):
    """What no handler of ours catches."""


def interrupted(monkeypatch, place, after, recipe, out, **options):
    """Prepare until `place` was called so many times; was it interrupted?"""
    module, name = place
    real, calls = getattr(module, name), itertools.count(1)

    def dies(*args, **rest):
        if next(calls) > after:
            raise Killed
        return real(*args, **rest)

    with monkeypatch.context() as patch:
        patch.setattr(module, name, dies)
        try:
            prepare(recipe, out, SHARD, record_s=0.0, **options)
        except Killed:
            return True
    return False


@pytest.mark.parametrize("kind", KINDS)
def test_an_interrupted_run_ends_in_the_same_bytes(recipe, tmp_path, kind, monkeypatch):
    """Stopped before and behind every record, over and over, until it is through."""
    recipe, out = changed(recipe, kind), tmp_path / "out"
    prepare(recipe, tmp_path / "whole", SHARD)
    stops = 0
    for place in ((pipeline, "write_json"), (pipeline.Packer, "forget"), (pipeline.ShardWriter, "_finish")):
        for after in (1, 2, 3):
            stops += interrupted(monkeypatch, place, after, recipe, out)
    assert stops == 9
    told = []
    prepare(recipe, out, SHARD, record_s=0.0, update=lambda fraction, note: told.append(note))
    assert told[0].startswith("continuing behind ")
    assert contents(out) == contents(tmp_path / "whole")


@pytest.mark.parametrize("kind", KINDS)
def test_work_that_was_recorded_is_not_done_again(recipe, tmp_path, kind, monkeypatch):
    recipe, out = changed(recipe, kind), tmp_path / "out"
    assert interrupted(monkeypatch, (pipeline, "write_json"), 12, recipe, out)
    seen = []
    tokenised = pipeline.tokenised
    monkeypatch.setattr(
        pipeline, "tokenised", lambda *args: (seen.append(unit.records) or unit for unit in tokenised(*args))
    )
    prepare(recipe, out, SHARD)
    assert 0 < sum(seen) <= 64 - 12


@pytest.mark.parametrize("damage", ["shard", "partial", "held", "record", "cut", "values", "tokenizer"])
def test_what_an_interrupted_run_left_is_not_trusted(recipe, tmp_path, monkeypatch, damage):
    recipe, out = changed(recipe, "last"), tmp_path / "out"
    prepare(recipe, tmp_path / "whole", SHARD)
    assert interrupted(monkeypatch, (pipeline, "write_json"), 17, recipe, out)
    names = {
        "shard": "train-00000.bin",
        "partial": "*.bin.partial",
        "held": "held-*.bin",
        "tokenizer": "tokenizer.json",
    }
    path = sorted(out.glob(names.get(damage, PROGRESS)))[0]
    data = bytearray(path.read_bytes())
    if damage == "cut":
        path.write_bytes(data[:100])
    elif damage == "values":
        path.write_text(json.dumps(json.loads(data) | {"packer": {"held": 3, "shards": []}}))
    else:
        data[3] ^= 1
        path.write_bytes(data)
    prepare(recipe, out, SHARD)
    assert contents(out) == contents(tmp_path / "whole")


@pytest.mark.parametrize("change", ["text", "recipe", "shards", "tokenizer", "language"])
def test_unfinished_work_for_another_purpose_is_not_thrown_away(recipe, tmp_path, monkeypatch, change):
    text, out, size = tmp_path / "a.txt", tmp_path / "out", SHARD
    text.write_bytes(Path(recipe.data).read_bytes())
    tokenizer = load_tokenizer(recipe.tokenizer)
    tokenizer.save(str(tmp_path / "t.json"))
    recipe = replace(recipe, data=str(text), tokenizer=str(tmp_path / "t.json"))
    assert interrupted(monkeypatch, (pipeline, "write_json"), 12, recipe, out)
    before = contents(out)
    if change == "text":
        text.write_text(text.read_text().upper())
    elif change == "recipe":
        recipe = replace(recipe, valid_every=4)
    elif change == "tokenizer":
        tokenizer.add_tokens(["another"])
        tokenizer.save(str(tmp_path / "t.json"))
    elif change == "language":
        recipe = Recipe("hmm", length=16)
    else:
        size = 1000
    with pytest.raises(DataError, match=r"--out .*holds unfinished data of .*name a new folder, or remove this one"):
        prepare(recipe, out, size)
    assert contents(out) == before


def test_a_tokenizer_of_the_hub_is_not_asked_for_again(recipe, tmp_path, monkeypatch):
    """What began with one continues without a network."""
    prepare(recipe, tmp_path / "whole", SHARD)
    asked = []
    load = load_tokenizer(recipe.tokenizer)
    monkeypatch.setattr(records, "load_tokenizer", lambda name: asked.append(name) or load)
    monkeypatch.setattr(special_tokens, "file_beside", lambda name, file: asked.append(name))
    recipe = replace(recipe, tokenizer="owner/tokenizer")
    assert interrupted(monkeypatch, (pipeline, "write_json"), 12, recipe, tmp_path / "out")
    prepare(recipe, tmp_path / "out", SHARD)
    assert asked == ["owner/tokenizer"] * 4  # it, and the files next to it
    for split in ("train", "valid"):
        assert np.array_equal(read_tokens(tmp_path / "out", split), read_tokens(tmp_path / "whole", split))


KILLED = """
import sys
from mcd.data.prepare import records, workers
from mcd.data.prepare.pipeline import prepare
from mcd.data.recipe import Recipe
records.UNIT_BYTES, workers.FEW_UNITS = 800, 2
def tell(fraction, note):
    print(note, flush=True)
prepare(Recipe(*sys.argv[1:2], tokenizer=sys.argv[2], length=16, valid_last=9), __import__("pathlib").Path(sys.argv[3]),
        700, workers=2, update=tell, record_s=0.0)
"""


@pytest.mark.heavy
def test_kill_9_with_workers(recipe, tmp_path):
    """A real kill of the main process: its workers end too, and the rest is done later."""
    recipe = replace(changed(recipe, "last"), valid_every=16)
    prepare(recipe, tmp_path / "whole", SHARD)
    command = [sys.executable, "-c", KILLED, recipe.data, recipe.tokenizer, str(tmp_path / "out")]
    environment = os.environ | {"PYTHONPATH": str(Path(mcd.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    for told in (3, 6):  # tellings before it is killed
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
        for _ in range(told):
            process.stdout.readline()
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        started = children.read_text().split() if children.exists() else []
        process.send_signal(signal.SIGKILL)
        assert process.communicate()[1] == ""  # returns when the workers, which share stderr, have ended too
        assert not any(Path(f"/proc/{pid}/exe").exists() for pid in started)
        assert (tmp_path / "out" / PROGRESS).exists() and not (tmp_path / "out" / MANIFEST).exists()
    prepare(recipe, tmp_path / "out", SHARD)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_worker_that_dies_is_told_and_the_rest_is_done_later(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "FEW_UNITS", 2)
    prepare(recipe, tmp_path / "whole", SHARD)
    encode, calls = workers._Worker.encode, itertools.count()

    def killed(self, texts):
        if next(calls) == 7:
            self.process.kill()
        return encode(self, texts)

    with monkeypatch.context() as patch:
        patch.setattr(workers._Worker, "encode", killed)
        with pytest.raises(WorkFailed, match="--workers"):
            prepare(recipe, tmp_path / "out", SHARD, workers=2, record_s=0.0)
    prepare(recipe, tmp_path / "out", SHARD, workers=2)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_workers_load_no_torch():
    code = "import sys; from mcd.data.prepare import workers; assert not {'torch', 'numpy'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(mcd.__file__).parents[1])


def test_a_full_disk_loses_nothing(recipe, tmp_path, monkeypatch):
    prepare(recipe, tmp_path / "whole", SHARD)
    written = itertools.count()

    class Full(io.FileIO):
        def write(self, data):
            if next(written) > 20:
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(data)

    def opening(self, mode="r", **rest):
        return io.BufferedWriter(Full(self, mode)) if mode in ("ab", "wb") else opened(self, mode, **rest)

    opened = Path.open
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", opening)
        with pytest.raises(OSError, match="No space"):
            prepare(recipe, tmp_path / "out", SHARD, record_s=0.0)
    assert (tmp_path / "out" / PROGRESS).exists()
    prepare(recipe, tmp_path / "out", SHARD)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


@pytest.mark.heavy
def test_a_second_run_waits_and_finds_the_work_done(recipe, tmp_path):
    code = "import sys, pathlib; from mcd.data.recipe import Recipe; from mcd.data.prepare.pipeline import prepare; "
    code += "print('begins', flush=True); recipe = Recipe(sys.argv[1], tokenizer=sys.argv[2], length=16, valid_every=8)"
    code += "; prepare(recipe, pathlib.Path(sys.argv[3]))"
    out = tmp_path / "out"
    out.mkdir()
    command = [sys.executable, "-c", code, recipe.data, recipe.tokenizer, str(out)]
    environment = os.environ | {"PYTHONPATH": str(Path(mcd.__file__).parents[1])}
    with locked(out):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment)
        process.stdout.readline()
        (tmp_path / "made").mkdir()
        prepare(recipe, tmp_path / "made" / "data")
        assert process.poll() is None and [path.name for path in out.iterdir()] == [LOCK]
        for path in sorted((tmp_path / "made" / "data").iterdir(), key=lambda path: path.name == MANIFEST):
            path.rename(out / path.name)
        before = {path: path.stat().st_mtime_ns for path in out.iterdir() if path.name != LOCK}
    assert process.communicate() and process.returncode == 0
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == before


def group_texts(examples, block_size, bos, eos):
    """MDLM's grouping of a map batch (arXiv 2406.07524, public code), written anew."""
    stream = [token for ids in examples for token in ids]
    size = block_size - 2
    return [[bos, *stream[i * size : (i + 1) * size], eos] for i in range(len(stream) // size)]


def mdlm_rows(texts, tokenizer, length, batch):
    """Rows as MDLM has them: documents end in EOS; `batch` documents at a time."""
    eos = tokenizer.token_to_id(EOS)
    ids = [[*tokenizer.encode(text, add_special_tokens=False).ids, eos] for text in texts]
    batches = [ids[i : i + batch] for i in range(0, len(ids), batch)]
    return [row for part in batches for row in group_texts(part, length, eos, eos)]


@pytest.mark.heavy
@settings(max_examples=15)
@given(
    sizes=st.lists(st.integers(0, 40), min_size=12, max_size=60).filter(any),
    length=st.integers(3, 20),
    group=st.integers(1, 12),
    held_out=st.integers(6, 20),
    shard_tokens=st.sampled_from([60, 10_000]),
)
def test_grouped_rows_are_mdlms(tiny_data, tmp_path_factory, sizes, length, group, held_out, shard_tokens):
    """Row for row, of both splits; empty documents count."""
    folder = tmp_path_factory.mktemp("mdlm")
    rng = random.Random(len(sizes))
    texts = [" ".join(rng.choices(["the", "people", "of", "union", "\n\n", "free"], k=k)) for k in sizes]
    with (folder / "a.jsonl").open("w") as file:
        file.writelines(json.dumps({"text": text}) + "\n" for text in texts)
    tokenizer = load_tokenizer(tiny_data)
    recipe = Recipe(str(folder / "a.jsonl"), tokenizer=str(tiny_data), length=length, wrap=True)
    recipe = replace(recipe, group_documents=group, valid_last=held_out)
    cut = max(0, len(texts) - held_out)
    expected = {
        "train": mdlm_rows(texts[:cut], tokenizer, length, group),
        "valid": mdlm_rows(texts[cut:], tokenizer, length, group),
    }
    if any(len(rows) * (length - 2) < 2 * length for rows in expected.values()):
        with pytest.raises(
            DataError, match="too few" if cut else f"--valid-last {held_out}: .*has {len(texts)} documents"
        ):
            prepare(recipe, folder / "out", shard_tokens)
        return
    prepare(recipe, folder / "out", shard_tokens)
    for split, rows in expected.items():
        tokens = read_tokens(folder / "out", split)[:]
        assert tokens.reshape(-1, length - 2).tolist() == [row[1:-1] for row in rows]
    valid = open_loader(folder / "out", "valid", len(expected["valid"]))
    assert valid.rows == len(expected["valid"]) and valid.batch(0).x0.tolist() == expected["valid"]
    train = open_loader(folder / "out", "train", len(expected["train"]))
    for epoch in (0, 3):  # shuffled, never moved
        assert sorted(train.batch(epoch).x0.tolist()) == sorted(expected["train"])


@pytest.mark.heavy
def test_the_presets_rows_are_mdlms(tmp_path, monkeypatch):
    """The preset itself, at its length of 1024, on a vocabulary of GPT-2's size."""
    words = {f"w{i}": i for i in range(50_256)} | {EOS: 50_256}
    added = [{"id": 50_256, "content": EOS, "single_word": False, "lstrip": False, "rstrip": False}]
    added[0] |= {"normalized": False, "special": True}
    model = {"type": "WordLevel", "vocab": words, "unk_token": "w0"}
    value = {"version": "1.0", "added_tokens": added, "pre_tokenizer": {"type": "Whitespace"}, "model": model}
    (tmp_path / "tokenizer.json").write_text(json.dumps(value))
    rng = random.Random(0)
    texts = [" ".join(f"w{rng.randrange(50_256)}" for _ in range(rng.randrange(1, 30))) for _ in range(4321)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    choices = PRESETS["owt-mdlm"] | {"data": str(tmp_path / "a.jsonl"), "tokenizer": str(tmp_path / "tokenizer.json")}
    recipe = replace(Recipe(**choices), valid_last=1234)
    manifest = prepare(recipe, tmp_path / "out")
    tokenizer = load_tokenizer(tmp_path / "out")
    for split, part in (("train", texts[:-1234]), ("valid", texts[-1234:])):
        expected = np.array(mdlm_rows(part, tokenizer, 1024, 1000))[:, 1:-1]
        assert np.array_equal(read_tokens(tmp_path / "out", split)[:].reshape(-1, 1022), expected)
        assert manifest["splits"][split][0]["documents"] == len(part)
    assert manifest["preset"] is None  # 1,234 held out in place of 100,000
    assert preset_of(Recipe(**choices), 50_257) == "owt-mdlm"
    assert preset_of(Recipe(**choices), 50_256) is None


@pytest.mark.parametrize("held_out", [1, 9, 63])
def test_the_last_documents_are_held_out(recipe, text_file, tmp_path, held_out):
    prepare(replace(recipe, valid_last=held_out, length=4), tmp_path / "out", SHARD)
    tokenizer, texts = load_tokenizer(tmp_path / "out"), list(documents(str(text_file)))
    for split, part in (("train", texts[:-held_out]), ("valid", texts[-held_out:])):
        expected = [i for text in part for i in (*tokenizer.encode(text).ids, tokenizer.token_to_id(EOS))]
        assert read_tokens(tmp_path / "out", split)[:].tolist() == expected


def test_a_tokenizer_is_trained_on_what_is_not_held_out(text_file, tmp_path):
    texts = list(documents(str(text_file)))
    (tmp_path / "a.txt").write_text("\n\n".join([*texts, "xylophone " * 60]))
    prepare(Recipe(str(tmp_path / "a.txt"), vocab_size=280, length=16, valid_last=4), tmp_path / "out")
    assert not any("xy" in token for token in load_tokenizer(tmp_path / "out").get_vocab())
    prepare(Recipe(str(text_file), vocab_size=280, length=16, valid_last=3), tmp_path / "same")
    assert tokenizer_sha256(load_tokenizer(tmp_path / "out")) == tokenizer_sha256(load_tokenizer(tmp_path / "same"))


def test_more_held_out_than_there_is(recipe, tmp_path):
    for change in ({}, {"tokenizer": None, "vocab_size": 280}):
        for count in (64, 1000):
            with pytest.raises(DataError, match=rf"--valid-last {count}: .*tiny\.txt has 64 documents"):
                prepare(replace(recipe, valid_last=count, **change), tmp_path / "out")
            shutil.rmtree(tmp_path / "out", ignore_errors=True)


def with_copies(path, text_file):
    """The documents of a text, some of them twice or more, and blank ones; and those without copies."""
    texts = list(documents(str(text_file)))
    doubled = [text for i, text in enumerate(texts) for text in ([text, texts[i // 2]] if i % 3 == 0 else [text])]
    doubled += [" ", texts[5], ""]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in doubled))
    return [text for text in doubled if text.strip()], texts


@pytest.mark.heavy
@pytest.mark.parametrize("kind", KINDS)
def test_copies_are_counted_and_dropped(recipe, text_file, tmp_path, kind, monkeypatch):
    """The first of each is kept, by any number of processes, after any interruption."""
    doubled, texts = with_copies(tmp_path / "a.jsonl", text_file)
    recipe = replace(changed(recipe, kind), data=str(tmp_path / "a.jsonl"))
    counted = prepare(recipe, tmp_path / "counted", SHARD)
    if kind != "groups":
        held_out = [i >= len(doubled) - 9 if recipe.valid_last else i % 8 == 0 for i in range(len(doubled))]
        train = [text for text, held in zip(doubled, held_out, strict=True) if not held]
        valid = [text for text, held in zip(doubled, held_out, strict=True) if held]
        copies = {"train": len(train) - len(set(train)), "valid": len(valid) - len(set(valid))}
        copies["shared"] = sum(text in set(train) for text in valid)
        assert counted["duplicates"] == copies and copies["train"] and copies["shared"]
    assert counted["left_out"] == ({} if kind == "groups" else {"blank": 2})
    recipe = replace(recipe, dedup=True)
    manifest = prepare(recipe, tmp_path / "whole", SHARD)
    assert manifest["duplicates"] == {"train": 0, "valid": 0, "shared": 0}
    assert manifest["left_out"]["copies"] == len(doubled) - len(texts)
    (tmp_path / "b.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    if kind != "groups":  # which has the two blank ones too
        plain = prepare(replace(recipe, data=str(tmp_path / "b.jsonl"), dedup=False), tmp_path / "plain", SHARD)
        assert manifest["splits"] == plain["splits"]
    if kind == "every":
        monkeypatch.setattr(workers, "FEW_UNITS", 2)
        prepare(recipe, tmp_path / "two", SHARD, 2)
        assert contents(tmp_path / "two") == contents(tmp_path / "whole")
    for after in (3, 5, 9):
        assert interrupted(monkeypatch, (pipeline, "write_json"), after, recipe, tmp_path / "out")
    assert (tmp_path / "out" / "keys-00000.bin.partial").exists()
    prepare(recipe, tmp_path / "out", SHARD)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_no_tokenizer_is_trained_on_copies_of_what_is_held_out(text_file, tmp_path):
    _, texts = with_copies(tmp_path / "a.jsonl", text_file)
    (tmp_path / "b.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    recipe = Recipe(str(tmp_path / "a.jsonl"), vocab_size=280, length=16, valid_last=4, dedup=True)
    manifest = prepare(recipe, tmp_path / "out")
    plain = prepare(replace(recipe, data=str(tmp_path / "b.jsonl"), dedup=False), tmp_path / "plain")
    assert manifest["tokenizer_sha256"] == plain["tokenizer_sha256"] and manifest["splits"] == plain["splits"]


def test_records_that_are_in_no_split_for_their_length_are_copies_of_nothing(tmp_path, tiny_data):
    records = [{"prompt": "the people", "answer": f"of {i}"} for i in range(20)]
    records += [{"prompt": "the people " * 20, "answer": "of"}] * 10
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    recipe = Recipe(
        str(tmp_path / "a.jsonl"), tokenizer=str(tiny_data), length=30, valid_every=3, prompt_field="prompt"
    )
    manifest = prepare(recipe, tmp_path / "drop")
    assert sum(counts["dropped"] for counts in manifest["counts"].values()) == 10
    assert manifest["duplicates"] == {"train": 0, "valid": 0, "shared": 0}
    manifest = prepare(replace(recipe, too_long="cut"), tmp_path / "cut")
    assert manifest["duplicates"] == {
        "train": 6,
        "valid": 2,
        "shared": 3,
    }  # of records 20 to 29 21, 24, 27 are held out


@pytest.mark.parametrize("field", ["messages_field", "prompt_field"])
def test_a_txt_has_no_fields(recipe, tmp_path, field):
    option = "--" + field.replace("_", "-")
    with pytest.raises(DataError, match=f"{option}: a .txt has no fields"):
        prepare(replace(recipe, **{field: "messages"}), tmp_path / "out")


def test_what_a_tokenizer_says_of_truncation_is_for_networks(recipe, tmp_path):
    """Files of BERT's kind cut texts at 512 tokens and pad them."""
    prepare(recipe, tmp_path / "plain")
    tokenizer = load_tokenizer(recipe.tokenizer)
    tokenizer.enable_truncation(5)
    tokenizer.enable_padding(length=100)
    tokenizer.save(str(tmp_path / "cutting.json"))
    prepare(replace(recipe, tokenizer=str(tmp_path / "cutting.json")), tmp_path / "out")
    for split in ("train", "valid"):
        assert np.array_equal(read_tokens(tmp_path / "out", split), read_tokens(tmp_path / "plain", split))
    assert read_manifest(tmp_path / "out")["tokenizer_sha256"] == tokenizer_sha256(load_tokenizer(recipe.tokenizer))


def test_a_tokenizer_that_cannot_encode_is_named(tmp_path, text_file):
    (tmp_path / "t.json").write_text(
        json.dumps({"version": "1.0", "model": {"type": "WordLevel", "vocab": {EOS: 0, "a": 1}, "unk_token": "?"}})
    )
    for count in (1, 2):
        with pytest.raises(DataError, match="--tokenizer: it cannot encode"):
            prepare(Recipe(str(text_file), tokenizer=str(tmp_path / "t.json")), tmp_path / "out", workers=count)


@pytest.mark.parametrize(
    "change, option",
    [
        ({"valid_last": -1}, "--valid-last -1"),
        ({"group_documents": -1, "wrap": True}, "--group-documents -1"),
        ({"group_documents": 1000}, "--group-documents 1000"),
        ({"length": 1 << 40}, "--length"),
        ({"prompt_field": "p", "messages_field": "m"}, "--messages-field"),
        ({"prompt_field": "p", "wrap": True}, "--wrap"),
        ({"prompt_field": "p", "template": "Q: A:"}, "--template"),
        ({"prompt_field": "p", "length": 1}, "--length 1"),
    ],
)
def test_choices_that_make_no_sense_are_named(recipe, change, option):
    with pytest.raises(UsageError, match=option):
        replace(recipe, **change)


def test_another_recipe_says_which_options_differ(recipe, tmp_path):
    prepare(recipe, tmp_path / "out")
    with pytest.raises(DataError, match=r"another recipe \(--length 16, not 8; --dedup False, not True\); name a new"):
        prepare(replace(recipe, length=8, dedup=True), tmp_path / "out")


def test_a_refusal_leaves_no_empty_folder_and_says_what_is_too_short(recipe, tmp_path):
    (tmp_path / "one.txt").write_text("one document alone")
    with pytest.raises(DataError, match="one document cannot be split"):
        prepare(replace(recipe, data=str(tmp_path / "one.txt")), tmp_path / "a" / "out")
    assert not (tmp_path / "a" / "out").exists()
    (tmp_path / "two.txt").write_text("the people\n\n" + "of our union " * 90)
    with pytest.raises(DataError, match=r"too few for two rows of --length 16; .* smaller --length.*--valid-every"):
        prepare(replace(recipe, data=str(tmp_path / "two.txt")), tmp_path / "out")
