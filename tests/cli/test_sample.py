"""`mcd sample --template` and `--watch` on the bundled model."""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

import mcd.api.model
import mcd.eval.laboratory.shares
from mcd.checkpoints.locate import locate
from mcd.cli.main import main
from mcd.data.loader import open_loader
from mcd.data.manifest import read_manifest
from mcd.data.tokenizer import load_tokenizer

SAMPLE = ["sample", "demo", "--length", "16", "--steps", "3", "--threads", "1"]


def refused(capsys, argv: list[str], *words: str) -> None:
    assert main(argv) == 2
    error = capsys.readouterr().err
    assert all(word in error for word in words), error


def rows_of(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.heavy
def test_the_first_word_of_an_infilling_begins_with_its_space(tmp_path):
    """On the code of before the space was a token of its own: 2 of 64 first words began with one, now 64 of 64."""
    out, given = tmp_path / "rows.jsonl", "My fellow citizens,"
    argv = ["sample", "demo", "--template", f"{given} [MASK:8]", "--length", "16", "--num", "16"]
    assert main([*argv, "--steps", "16", "--threads", "1", "--out", str(out)]) == 0
    texts = [row["text"] for row in rows_of(out)]
    assert all(text.startswith(given) for text in texts)
    assert sum(text[len(given) :].startswith(" ") for text in texts) >= 14


def test_slips_in_a_template_are_refused_before_the_work(capsys, monkeypatch):
    monkeypatch.setattr("mcd.eval.laboratory.shares.open_model", None)
    for template in ("a [MASK: 5]", "a [mask]", "<mask> b", "[MASK:0]"):
        for more in ([], ["--dry-run"]):
            refused(capsys, [*SAMPLE, "--template", template, *more], "--template", "is no mask", "[MASK:n]")
    refused(capsys, [*SAMPLE, "--special-tokens"], "--special-tokens", "--template")
    refused(capsys, [*SAMPLE, "--template", ""], "--template", "is empty")


def test_rows_go_into_a_file_that_says_what_it_is(tmp_path, capsys):
    for name in ("rows.txt", "rows.json", "rows"):
        refused(capsys, [*SAMPLE, "--out", str(tmp_path / name)], f"--out {tmp_path / name}", "ends in .jsonl")
    assert not list(tmp_path.iterdir())


@pytest.mark.heavy
def test_rows_of_an_older_stamp_are_continued(tmp_path):
    """The stamp of remdm once hid its options in the words of `order`, and all stamps had tail and kappa."""
    out = tmp_path / "rows.jsonl"
    argv = [*SAMPLE, "--sampler", "remdm", "--out", str(out), "--num"]
    assert main([*argv, "2"]) == 0
    first, second = rows_of(out)
    old = {name: value for name, value in first["protocol"].items() if name not in ("remasking", "eta")}
    old |= {"order": "iid, remasking by cap 0.04", "tail": None, "kappa": None}
    out.write_text(json.dumps(first | {"protocol": old}) + "\n")
    assert main([*argv, "2"]) == 0
    assert rows_of(out)[1] == second


@pytest.mark.heavy
def test_special_tokens_of_a_template_are_text_unless_asked_for(ours, tmp_path):
    eos = load_tokenizer(ours).token_to_id("<|endoftext|>")
    for more, has in (([], False), (["--special-tokens"], True)):
        out = tmp_path / f"{has}.jsonl"
        argv = ["sample", str(ours), *SAMPLE[2:], "--template", r"<|endoftext|>\[MASK][MASK]", "--out", str(out)]
        assert main([*argv, *more]) == 0
        (row,) = rows_of(out)
        assert (row["ids"][0] == eos) == has and row.get("special_tokens", False) == has
        assert row["text"].startswith("<|endoftext|>[MASK]") and ("documents" in row) == has


@pytest.mark.heavy
def test_rows_whose_template_was_read_otherwise_are_not_gone_on_with(tmp_path, capsys):
    out = tmp_path / "rows.jsonl"
    argv = [*SAMPLE, "--template", "peace [MASK]", "--out", str(out)]
    assert main(argv) == 0
    row = rows_of(out)[0]
    row["ids"][0] += 1
    out.write_text(json.dumps(row) + "\n")
    refused(capsys, [*argv, "--num", "2"], "--out", "something else")
    row["ids"] = []
    out.write_text(json.dumps(row) + "\n")
    refused(capsys, [*argv, "--num", "2"], "--out", "something else")


def wordpiece() -> Tokenizer:
    tokens = ["[UNK]", "the", "river", "##stone", "gig", "##gle", "house", "stone"]
    tokenizer = Tokenizer(models.WordPiece({token: i for i, token in enumerate(tokens)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
    return tokenizer


@pytest.mark.heavy
def test_what_the_tokenizer_changes_is_told(monkeypatch, capsys):
    monkeypatch.setattr(mcd.api.model, "tokenizer_of_model", lambda *_: wordpiece())
    assert main([*SAMPLE, "--template", "The river [MASK]"]) == 0
    assert "--template: the model's tokenizer reads 'The river' as 'the river'" in capsys.readouterr().err
    assert main([*SAMPLE, "--template", "the river [MASK]"]) == 0
    assert "--template" not in capsys.readouterr().err
    refused(capsys, [*SAMPLE, "--template", "the lake [MASK]"], "cannot write 'the lake'")


@pytest.mark.heavy
@pytest.mark.parametrize("sampler", ["ancestral", "confidence"])
def test_watch_ends_with_the_text_of_the_row(capsys, sampler):
    argv = [*SAMPLE, "--template", "peace [MASK:3]", "--watch", "--sampler", sampler]
    assert main(argv) == 0
    shown = capsys.readouterr()
    text = shown.out.split("\n", 1)[1].rstrip("\n")
    states = "".join(shown.err.split("t = ")[-1].split("  ", 1)[1]).split("\nsample:")[0]
    assert states.replace("\n", " ").split() == text.replace("\n", " ").split()
    assert "peace···" in shown.err


@pytest.mark.heavy
def test_the_watched_row_is_not_drawn_again(tmp_path, monkeypatch):
    shares, firsts, files = mcd.eval.laboratory.shares, [], [tmp_path / "plain.jsonl", tmp_path / "watched.jsonl"]
    draw = shares.sample_in_shares
    monkeypatch.setattr(shares, "sample_in_shares", lambda *args: (firsts.append(args[5]), draw(*args))[1])
    for path, more in zip(files, ([], ["--watch"]), strict=True):
        assert main([*SAMPLE, "--num", "2", "--out", str(path), *more]) == 0
    assert firsts == [0, 1] and rows_of(files[0]) == rows_of(files[1])


def watched(stderr):
    """`mcd sample --watch` in three steps, in a process of its own."""
    words = [sys.executable, "-m", "mcd", *SAMPLE, "--template", "peace [MASK:3]", "--watch"]
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "60", "LINES": "20"}
    return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=stderr, env=environment)


@pytest.mark.heavy
def test_watch_prints_a_line_per_state_on_a_pipe_and_redraws_a_terminal(tmp_path):
    with (tmp_path / "lines").open("w+") as lines:
        assert watched(lines).wait(300) == 0
        lines.seek(0)
        shown = lines.read().splitlines()
    assert [line[:9] for line in shown] == ["t = 1.000", "t = 0.667", "t = 0.333", "t = 0.000"]
    assert "\x1b" not in "".join(shown)

    reader, terminal = os.openpty()
    process = watched(terminal)
    os.close(terminal)
    drawn = b""
    with contextlib.suppress(OSError):  # EIO: nobody writes any more
        while part := os.read(reader, 65536):
            drawn += part
    os.close(reader)
    assert process.wait(300) == 0
    before, last = drawn.decode().split("t = 0.000", 1)  # after it comes the progress of all rows
    assert re.findall(r"t = \d\.\d+", before) == ["t = 1.000", "t = 0.667", "t = 0.333"]
    assert before.count("\x1b[2K") >= 3 and "peace" in last
    assert before.count("\n") == before.count("\x1b[1A")  # the cursor goes up again where it went down


CHAT = """\
{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}{% endfor %}
{% if add_generation_prompt %}assistant:{% endif %}"""


@pytest.mark.heavy
def test_a_message_is_put_as_the_chat_template_that_a_model_was_trained_with_has_it(tmp_path, capsys):
    """From instruction data on: the run keeps the template of its data, and `--chat` renders it as the data was."""
    demo, data, run = locate("demo"), tmp_path / "data", tmp_path / "run"
    shutil.copytree(demo, tmp_path / "base")
    (tmp_path / "base" / "chat_template.jinja").write_text(CHAT)
    (tmp_path / "base" / "tokenizer_config.json").write_text('{"eos_token": "<|endoftext|>"}')
    (tmp_path / "a.jsonl").write_text('{"q": "say <|endoftext|>", "answer": "peace"}\n' * 4)
    argv = ["--data", str(tmp_path / "a.jsonl"), "--tokenizer", str(tmp_path / "base"), "--length", "48"]
    assert main(["prepare", *argv, "--prompt-field", "q", "--out", str(data)]) == 0
    assert "the chat template of" in capsys.readouterr().err
    argv = ["train", "--data", str(data), "--recipe", "cpu", "--hidden", "16", "--layers", "1", "--heads", "1"]
    argv += ["--cond-dim", "8", "--batch-size", "2", "--steps", "1", "--valid-every", "0", "--threads", "1"]
    assert main([*argv, "--out", str(run)]) == 0
    asked = ["sample", str(run), "--chat", "say <|endoftext|>", "--steps", "2", "--threads", "1"]
    assert main([*asked, "--out", str(tmp_path / "s.jsonl")]) == 0
    (row,) = rows_of(tmp_path / "s.jsonl")
    x0, diffused = open_loader(data, "valid", 1).batch(0)[:2]
    prompt = x0[0][~diffused[0]].tolist()
    assert row["ids"][: len(prompt)] == prompt and prompt.count(read_manifest(data)["eos_id"]) == 1
    assert row["template"] == "user: say <|endoftext|><|endoftext|>assistant:" and row["special_tokens"]
    refused(capsys, [*asked, "--length", "9"], "--chat", "--length 9")
    refused(capsys, [*asked, "--template", "[MASK]"], "--chat", "--template")
    refused(capsys, ["sample", "demo", "--chat", "hello"], "--chat", "no chat template", "--template")
