"""Prompts and answers: each row against a slow twin, and what of it is to be learnt."""

import json
import random
from dataclasses import replace

import pyarrow
import pyarrow.parquet
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mcd.data.loader import open_loader, spread_batch, spread_rows
from mcd.data.manifest import MANIFEST, read_manifest
from mcd.data.prepare.pipeline import prepare
from mcd.data.recipe import Recipe
from mcd.data.template import read_template
from mcd.data.tokenizer import EOS, load_tokenizer, with_special_tokens
from mcd.data.tokens import read_tokens
from mcd.errors import DataError

WORDS = "the people of our union and states".split()


def write(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


def pairs(n, seed=0, longest=8):
    """Records of a prompt and an answer of some words; some answers are blank."""
    rng = random.Random(seed)
    texts = [" ".join(rng.choices(WORDS, k=rng.randrange(longest))) for _ in range(2 * n)]
    return [{"prompt": prompt, "answer": answer} for prompt, answer in zip(texts[::2], texts[1::2], strict=True)]


def twin(prompt, answer, length, eos, too_long, diffuse_padding):
    """The row of a pair and which of its positions are learnt, one token at a time; None if it does not fit."""
    while len(prompt) + len(answer) + 1 > length:
        if too_long == "drop" or not prompt:
            return None
        prompt = prompt[1:]
    row, learnt = [], []
    for token in prompt:
        row.append(token)
        learnt.append(False)
    for token in [*answer, eos]:
        row.append(token)
        learnt.append(True)
    while len(row) < length:
        row.append(eos)
        learnt.append(diffuse_padding)
    return row, learnt


@pytest.mark.heavy
@settings(max_examples=12)
@given(
    length=st.integers(6, 30),
    too_long=st.sampled_from(["drop", "cut"]),
    diffuse_padding=st.booleans(),
    valid_last=st.sampled_from([0, 20]),
    template=st.sampled_from(["{prompt}", f"the{EOS}{{prompt}} of"]),
    shard_tokens=st.sampled_from([70, 100_000]),
)
def test_rows_and_what_is_learnt(
    tiny_data, tmp_path_factory, length, too_long, diffuse_padding, valid_last, template, shard_tokens
):
    folder = tmp_path_factory.mktemp("pairs")
    records = pairs(60)
    recipe = Recipe(write(folder / "a.jsonl", records), tokenizer=str(tiny_data), length=length, valid_every=3)
    recipe = replace(recipe, prompt_field="prompt", too_long=too_long, diffuse_padding=diffuse_padding)
    recipe = replace(recipe, valid_last=valid_last, template=template)
    tokenizer = load_tokenizer(tiny_data)
    eos = tokenizer.token_to_id(EOS)
    rows = {"train": [], "valid": []}
    kept = [record for record in records if record["answer"].strip()]
    for i, record in enumerate(kept):
        prompt = with_special_tokens(tokenizer).encode(template.replace("{prompt}", record["prompt"])).ids
        row = twin(prompt, tokenizer.encode(record["answer"]).ids, length, eos, too_long, diffuse_padding)
        held_out = i >= len(kept) - valid_last if valid_last else i % 3 == 0
        rows["valid" if held_out else "train"].append(row)
    if not all(any(split) for split in rows.values()):
        with pytest.raises(DataError, match=r"too few|longer than a row"):
            prepare(recipe, folder / "out", shard_tokens)
        return
    prepare(recipe, folder / "out", shard_tokens)
    manifest = read_manifest(folder / "out")
    assert manifest["packing"] == "rows"
    for split in rows:
        expected = [row for row in rows[split] if row is not None]
        assert manifest["counts"][split]["dropped"] == len(rows[split]) - len(expected)
        assert sum(shard["documents"] for shard in manifest["splits"][split]) == len(expected)
        loader = open_loader(folder / "out", split, len(expected))
        assert loader.rows == len(expected)
        served = loader.batch(2)
        got = list(zip(served.x0.tolist(), served.diffused.tolist(), strict=True))
        assert got == expected if split == "valid" else sorted(got) == sorted(expected)


@pytest.fixture
def folder(tiny_data, tmp_path):
    recipe = Recipe(write(tmp_path / "a.jsonl", pairs(90)), tokenizer=str(tiny_data), length=12, valid_every=3)
    prepare(replace(recipe, prompt_field="prompt"), tmp_path / "out")
    return tmp_path / "out"


def test_every_row_has_something_to_learn_and_an_end(folder):
    loader = open_loader(folder, "valid", 1)
    spread = spread_batch(loader, 1000)
    assert torch.equal(spread_rows(loader, 1000), spread.x0) and len(spread.x0) == loader.rows
    assert spread.diffused.any(1).all()
    assert loader.stream().tolist() == spread.x0.flatten().tolist()
    last = spread.diffused.flip(1).float().argmax(1)
    ends = spread.x0[torch.arange(loader.rows), loader.length - 1 - last]
    assert (ends == read_manifest(folder)["eos_id"]).all()


def test_the_end_of_text_that_fills_a_row_is_learnt_unless_it_is_shown(tiny_data, tmp_path):
    """By default, as LLaDA does: a row whose padding is shown tells where its answer ends. Answers and their first end
    are what counts, either way; and neither kind of folder is taken for the other, finished or not."""
    recipe = Recipe(write(tmp_path / "a.jsonl", pairs(40)), tokenizer=str(tiny_data), length=40, prompt_field="prompt")
    recipe = replace(recipe, valid_every=3)
    shown = replace(recipe, diffuse_padding=False)
    assert recipe.diffuse_padding and recipe.identity() != shown.identity()
    prepare(recipe, tmp_path / "learnt")
    prepare(shown, tmp_path / "shown")
    learnt, told = (spread_batch(open_loader(tmp_path / name, "valid", 1), 1000) for name in ("learnt", "shown"))
    assert torch.equal(learnt.x0, told.x0)
    assert torch.equal(told.counted, told.diffused.sum(1)) and torch.equal(learnt.counted, told.counted)
    assert learnt.diffused[:, -1].all() and not told.diffused[:, -1].all()
    assert (learnt.diffused == (told.diffused.int().cumsum(1) > 0)).all()
    assert all(torch.equal(a, b) for a, b in zip(learnt.split(2)[1], (part[2:4] for part in learnt), strict=True))
    for other, name in ((shown, "learnt"), (recipe, "shown")):
        with pytest.raises(DataError, match="holds data of another recipe"):
            prepare(other, tmp_path / name)
    identity = {key: value for key, value in recipe.identity().items() if key != "diffuse_padding"}
    assert identity not in (recipe.identity(), shown.identity())  # what was left unfinished before it was always said


def test_text_prepared_when_padding_was_shown_by_default_is_still_the_same(tiny_data, text_file, tmp_path):
    path = tmp_path / "out" / MANIFEST
    recipe = Recipe(str(text_file), tokenizer=str(tiny_data), length=24)
    prepare(recipe, tmp_path / "out")
    manifest = json.loads(path.read_text())
    manifest["recipe"]["diffuse_padding"] = False
    path.write_text(json.dumps(manifest))
    assert prepare(recipe, tmp_path / "out")["splits"] == manifest["splits"]


def test_rows_have_one_length(folder):
    assert open_loader(folder, "train", 2, length=12).length == 12
    with pytest.raises(DataError, match=r"--length 8: .*holds rows of 12"):
        open_loader(folder, "train", 2, length=8)


def test_the_same_records_of_a_table(folder, tiny_data, tmp_path):
    table = pyarrow.Table.from_pylist(pairs(90))
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    recipe = Recipe(str(tmp_path / "a.parquet"), tokenizer=str(tiny_data), length=12, valid_every=3)
    manifest = prepare(replace(recipe, prompt_field="prompt"), tmp_path / "table")
    assert manifest["splits"] == read_manifest(folder)["splits"]


def conversation(*texts, system=None):
    roles = [("user", "assistant")[i % 2] for i in range(len(texts))]
    said = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=True)]
    return {"messages": ([{"role": "system", "content": system}] if system else []) + said}


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_the_last_answer_of_a_conversation_is_learnt(tiny_data, tmp_path, kind):
    talks = [conversation("of", "our"), conversation("the", "people", "and", "states"), conversation("of", "union")]
    talks += [conversation("the", "states", system="our union"), conversation("of", "the")]
    flat = [("<of>", "our"), (f"<the>people{EOS}<and>", "states"), ("<of>", "union")]
    flat += [("<our union\n\nthe>", "states"), ("<of>", "the")]
    write(tmp_path / "talks.jsonl", talks)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(talks), tmp_path / "talks.parquet")
    recipe = Recipe(str(tmp_path / f"talks.{kind}"), tokenizer=str(tiny_data), length=40, valid_every=2)
    prepare(replace(recipe, messages_field="messages", template="<{prompt}>"), tmp_path / "a")
    tokenizer = load_tokenizer(tiny_data)
    eos, rows = tokenizer.token_to_id(EOS), []
    for prompt, answer in flat:
        begun = with_special_tokens(tokenizer).encode(prompt).ids
        ids = begun + tokenizer.encode(answer).ids
        rows.append([len(begun), 40, *ids, *[eos] * (40 - len(ids))])
    for split, expected in (("train", rows[1::2]), ("valid", rows[::2])):
        assert read_tokens(tmp_path / "a", split)[:].reshape(len(expected), 42).tolist() == expected


@pytest.mark.parametrize(
    "record, match",
    [
        ({"messages": "hello"}, "is no list"),
        ({"messages": ["hello"]}, "is no list"),
        ({"messages": []}, "its roles are none"),
        (conversation("of"), "its roles are user"),
        ({"messages": [{"role": "human", "content": "of"}, {"role": "gpt", "content": "the"}]}, "are human, gpt"),
        (
            {"messages": [{"role": "user"}, {"role": "assistant", "content": "the"}]},
            "has the keys 'role', where 'role' and",
        ),
        (conversation("of", None), r"messages\.content' holds no string"),
        (
            {"messages": [{"from": "human", "value": "of"}, {"from": "gpt", "value": "the"}]},
            "that is ShareGPT's form: .*gpt",
        ),
        ({"text": "of"}, "'messages'"),
    ],
)
def test_conversations_that_are_none(tiny_data, tmp_path, record, match):
    source = write(tmp_path / "a.jsonl", [conversation("of", "our"), conversation("of", "our"), record])
    with pytest.raises(DataError, match=rf"a\.jsonl, line 3: .*{match}"):
        prepare(Recipe(source, tokenizer=str(tiny_data), messages_field="messages"), tmp_path / "out")


def test_faults_of_pairs_name_the_line(tiny_data, tmp_path):
    recipe = Recipe(write(tmp_path / "a.jsonl", [*pairs(5), {"prompt": "of"}]), tokenizer=str(tiny_data))
    with pytest.raises(DataError, match=r"line 6: .*no field 'answer', but 'prompt'.*--answer-field"):
        prepare(replace(recipe, prompt_field="prompt"), tmp_path / "out")
    recipe = Recipe(write(tmp_path / "a.jsonl", [*pairs(5), {"prompt": "of", "answer": 3}]), tokenizer=str(tiny_data))
    with pytest.raises(DataError, match=r"line 6: field 'answer' holds no string"):
        prepare(replace(recipe, prompt_field="prompt"), tmp_path / "out")


@pytest.mark.parametrize("kind", ["jsonl", "json", "parquet", "arrow"])
def test_a_null_prompt_or_answer_is_no_empty_one(tiny_data, tmp_path, kind):
    """Such records are left out and counted, whatever the format; an empty prompt is a prompt."""
    given = [{"prompt": "" if i % 5 == 0 else "the people", "answer": f"our union{' and' * i}"} for i in range(20)]
    records = list(given)
    records[7:7] = [{"prompt": None, "answer": "of"}, {"prompt": "of", "answer": None}, {"prompt": "of", "answer": " "}]
    for name, rows in (("given", given), ("holes", records)):
        path, table = tmp_path / f"{name}.{kind}", pyarrow.Table.from_pylist(rows)
        if kind == "parquet":
            pyarrow.parquet.write_table(table, path)
        elif kind == "arrow":
            with pyarrow.OSFile(str(path), "wb") as file, pyarrow.ipc.new_stream(file, table.schema) as writer:
                writer.write_table(table)
        else:
            write(path, rows) if kind == "jsonl" else path.write_text(json.dumps(rows))
        recipe = Recipe(str(path), tokenizer=str(tiny_data), length=30, valid_every=3, prompt_field="prompt")
        prepare(recipe, tmp_path / name)
    manifest = read_manifest(tmp_path / "holes")
    assert manifest["splits"] == read_manifest(tmp_path / "given")["splits"]
    assert manifest["left_out"] == {"null": 2, "blank": 1} and read_manifest(tmp_path / "given")["left_out"] == {}


def test_nothing_that_fits(tiny_data, tmp_path):
    recipe = Recipe(write(tmp_path / "a.jsonl", pairs(9)), tokenizer=str(tiny_data), length=2, prompt_field="prompt")
    with pytest.raises(DataError, match="all 6 train records are longer than a row of 2 tokens"):
        prepare(recipe, tmp_path / "out")


@pytest.mark.parametrize("begin, end", [(5, 5), (6, 5), (0, 13), (0, 299)])
def test_spans_that_lie_are_seen(folder, begin, end):
    """Even where somebody made the checksum fit."""
    from mcd.files import file_sha256

    path = folder / "train-00000.bin"
    values = read_tokens(folder, "train")[:].copy()
    values[14:16] = begin, end
    path.write_bytes(values.tobytes())
    manifest = read_manifest(folder)
    manifest["splits"]["train"][0]["sha256"] = file_sha256(path)
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(DataError, match=r"train-00000\.bin: .*rows with no answer"):
        read_tokens(folder, "train")


def test_a_space_before_the_answer_is_the_answers_as_it_is_the_masks(tiny_data, tmp_path):
    """What is visible in training is what `mcd sample --template` gives: no space as a token of its own."""
    records = [{"prompt": f"the nation {i}", "answer": "union and peace"} for i in range(12)]
    recipe = Recipe(write(tmp_path / "a.jsonl", records), tokenizer=str(tiny_data), length=32, valid_every=3)
    prepare(replace(recipe, prompt_field="prompt", template="Q: {prompt} A: "), tmp_path / "out")
    tokenizer = load_tokenizer(tiny_data)
    loader = open_loader(tmp_path / "out", "valid", 4)
    rows = loader.batch(0)
    for row, learnt, i in zip(rows.x0.tolist(), rows.diffused.tolist(), (0, 3, 6, 9), strict=True):
        given = row[: learnt.index(True)]
        template = read_template(tokenizer, f"Q: the nation {i} A: [MASK:3]", 300, 32)
        assert given == template.ids[: template.ids.index(300)]
        assert tokenizer.decode(row).startswith(f"Q: the nation {i} A: union and peace")
