"""The command line as a user meets it: exit statuses, messages that name the option, the whole path on a tiny model."""

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mcd.cli.main import COMMANDS, main
from mcd.data.languages.known import LANGUAGES
from mcd.data.loader import open_loader, spread_batch
from mcd.data.tokenizer import load_tokenizer
from mcd.errors import MissingCompiler
from mcd.machine import check_compiler
from mcd.sampler import SAMPLERS
from mcd.training.run_folder import read_stats

TEXT = (
    "The committee met in the morning and the members agreed on the report. "
    "In the evening the chairman read the letter of the minister to the house. "
)
TINY = "--hidden 16 --layers 1 --heads 1 --cond-dim 8 --threads 1 --log-every 1 --valid-every 2".split()


@pytest.fixture(scope="session")
def text(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("text") / "letters.txt"
    path.write_text("\n\n".join(f"Letter {i}. {TEXT * 8}" for i in range(40)), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def data(text, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("data") / "letters"
    assert main(["prepare", "--data", str(text), "--out", str(out), "--vocab-size", "270", "--length", "32"]) == 0
    return out


@pytest.fixture(scope="session")
def teacher(data, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "teacher"
    assert main(["train", "--data", str(data), "--out", str(out), "--steps", "4", "--batch-size", "4", *TINY]) == 0
    return out


def distilled(teacher: Path, out: Path, method: str, options: str) -> Path:
    """The run of a distillation on one thread."""
    argv = ["distill", method, "--teacher", str(teacher), "--out", str(out), "--threads", "1", *options.split()]
    assert main(argv) == 0
    return out


@pytest.fixture(scope="session")
def student(teacher, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "student"
    return distilled(teacher, out, "mcd", "--rounds 2 --steps-per-round 2 --batch-size 4 --delta0 0.1")


def test_validation_is_told_per_token_and_per_byte(teacher, data):
    rows = [json.loads(line) for line in (teacher / "stats.jsonl").read_text().splitlines()]
    validated = [row for row in rows if "valid_nelbo" in row]
    x0, tokenizer = spread_batch(open_loader(data, "valid", 1), 256).x0, load_tokenizer(data)
    bytes = sum(len(tokenizer.decode(row).encode()) for row in x0.tolist())  # ASCII: no row parts a character
    assert [row["step"] for row in validated] == [2, 4]
    for row in validated:
        assert row["valid_bpb"] == pytest.approx(row["valid_nelbo"] * x0.numel() / bytes / math.log(2), rel=1e-6)


def refused(capsys, argv: list[str], *words: str) -> None:
    """The request ends with exit status 2 and a message on stderr that holds the words."""
    status, error = main(argv), capsys.readouterr().err
    assert status == 2, error
    for word in words:
        assert word in " ".join(error.split()), error


def test_help_is_quick_to_read_and_never_imports_torch():
    heavy = {"torch", "numpy", "tyro", "rich", "tokenizers", "safetensors"}
    code = f"import sys; from mcd.cli.main import main; main(['--help']); assert not {heavy} & sys.modules.keys()"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert all(name in shown for name in COMMANDS)


def test_python_m_mcd_is_the_command():
    shown = subprocess.run([sys.executable, "-m", "mcd", "--version"], capture_output=True, text=True, check=True)
    assert shown.stdout.startswith("mcd ")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_examples(command, capsys):
    exits = command not in ("distill", "lm-eval")
    with pytest.raises(SystemExit) if exits else pytest.MonkeyPatch.context():
        main([command, "--help"])
    shown = capsys.readouterr().out
    assert "Examples" in shown or "examples" in shown


@pytest.mark.heavy
def test_the_reference_page_is_up_to_date():
    root = Path(__file__).resolve().parents[2]
    subprocess.run([sys.executable, str(root / "docs" / "generate_cli.py"), "--check"], check=True)


@pytest.mark.heavy
def test_the_whole_path(teacher, student, text, tmp_path, capsys):
    shown = tmp_path / "samples.jsonl"
    options = ["--num", "3", "--steps", "4", "--length", "32", "--threads", "1"]
    assert main(["sample", str(student), "--out", str(shown), *options]) == 0
    rows = [json.loads(line) for line in shown.read_text().splitlines()]
    assert [row["row"] for row in rows] == [0, 1, 2]
    assert all({"row", "seed", "steps", "nfe", "ids", "text"} <= set(row) and row["nfe"] <= 4 for row in rows)
    from_file, from_model = tmp_path / "file.json", tmp_path / "model.json"
    assert main(["eval", str(shown), "--scorer", "none", "--out", str(from_file)]) == 0
    cell = ["--scorer", "none", "--steps", "4", "--num", "3", "--length", "32", "--threads", "1"]
    assert main(["eval", str(student), *cell, "--out", str(from_model)]) == 0
    (a,), (b,) = (json.loads(path.read_text())["rows"] for path in (from_file, from_model))
    assert a["entropy"] == b["entropy"] and a["nfe"] == b["nfe"]
    assert a["protocol"] == b["protocol"]
    assert json.loads((student / "run.json").read_text())["config"]["objective"]["name"] == "mcd"
    assert (student / "rounds" / "1" / "model.raw.safetensors").is_file()


def test_sampling_goes_on_where_it_was_killed(teacher, tmp_path):
    whole, cut = tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
    options = ["--steps", "3", "--length", "16", "--threads", "1", "--num", "4"]
    assert main(["sample", str(teacher), "--out", str(whole), *options]) == 0
    lines = whole.read_text().splitlines(keepends=True)
    cut.write_text(lines[0] + lines[1][:20])
    assert main(["sample", str(teacher), "--out", str(cut), *options]) == 0
    assert cut.read_text() == whole.read_text()


@pytest.mark.parametrize("cut", [b"", b'{"ro', b'{"row": 0, "model": "x', "multi-byte"])
def test_a_file_cut_anywhere_is_gone_on_with(teacher, tmp_path, cut):
    whole, part = tmp_path / "whole.jsonl", tmp_path / "part.jsonl"
    options = ["--steps", "2", "--length", "8", "--threads", "1", "--num", "2"]
    assert main(["sample", str(teacher), "--out", str(whole), *options]) == 0
    first = whole.read_bytes().split(b"\n")[0] + b"\n"
    part.write_bytes(first + b'{"row": 1, "text": "\xe2\x80' if cut == "multi-byte" else cut)
    assert main(["sample", str(teacher), "--out", str(part), *options]) == 0
    assert part.read_bytes() == whole.read_bytes()


def test_text_with_line_separators_is_one_row(teacher, tmp_path):
    out = tmp_path / "s.jsonl"
    argv = ["sample", str(teacher), "--out", str(out), "--template", "a\u2028b\x85c", "--length", "16", "--num", "2"]
    assert main(argv) == 0 and main([*argv[:-1], "3"]) == 0
    assert main(["eval", str(out), "--scorer", "none", "--out", str(tmp_path / "m.json")]) == 0
    assert json.loads((tmp_path / "m.json").read_text())["rows"][0]["samples"] == 3


def test_rows_of_other_weights_are_not_gone_on_with(capsys, teacher, tmp_path):
    from safetensors.torch import load_file, save_file

    model, out = tmp_path / "model", tmp_path / "s.jsonl"
    shutil.copytree(teacher, model)
    argv = ["sample", str(model), "--out", str(out), "--steps", "2", "--length", "8", "--threads", "1"]
    assert main(argv) == 0
    before = out.read_bytes()
    save_file({k: v + 1 for k, v in load_file(model / "model.safetensors").items()}, model / "model.safetensors")
    refused(capsys, [*argv, "--num", "2"], "--out", "something else")
    assert out.read_bytes() == before


def test_a_template_is_kept(teacher, capsys):
    template = "The house[MASK:3] letter[MASK]"
    argv = ["sample", str(teacher), "--template", template, "--length", "16", "--threads", "1"]
    assert main(argv) == 0
    shown = capsys.readouterr().out
    assert "The house" in shown and " letter" in shown


def test_dry_run_shows_the_schedule_and_writes_nothing(teacher, tmp_path, capsys):
    out = tmp_path / "dry"
    argv = ["distill", "mcd", "--teacher", str(teacher), "--out", str(out), "--recipe", "paper", "--dry-run"]
    assert main(argv) == 0
    schedule = json.loads(capsys.readouterr().out)["schedule"]
    assert [row["delta"] for row in schedule] == [1 / 512, 1 / 256, 1 / 128, 1 / 64, 1 / 32]
    assert [round(row["tau"], 2) for row in schedule] == [0.96, 0.93, 0.90, 0.87, 0.84]
    assert not out.exists()


def test_unknown_words_name_the_nearest(capsys, teacher, tmp_path):
    refused(capsys, ["smaple"], "did you mean 'sample'")
    refused(capsys, ["distill", "mdc"], "METHOD mdc: is not known (did you mean 'mcd'?)", "mcd")
    refused(capsys, ["sample", str(teacher), "--sampler", "ancestal"], "did you mean 'ancestral'")
    refused(capsys, ["train", "--recipe", "sotuu", "--out", str(tmp_path / "x")], "did you mean 'sotu'")
    refused(capsys, ["sample", str(teacher), "--temprature", "1"], "--temperature")
    refused(capsys, ["train", "--method", "mcd"], "--method mcd: is a distillation", "`mcd distill mcd`")
    refused(capsys, ["distill", "duo"], "duo distils nothing", "`mcd train --method duo`")


@pytest.mark.parametrize("name", ["hmmm", "HMM", "Sotu", "grammer"])
def test_a_slip_in_the_name_of_data_never_asks_the_hub(name, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("mcd.data.prepare.corpus.HubRecords", None)
    meant = {"hmmm": "hmm", "HMM": "hmm", "Sotu": "sotu", "grammer": "grammar"}[name]
    for command in (["train"], ["prepare"]):
        argv = [*command, "--data", name, "--out", str(tmp_path / "x")]
        refused(capsys, argv, f"--data {name}", f"did you mean '{meant}'")


def test_a_hub_dataset_without_a_slash_is_still_asked_for(monkeypatch, tmp_path, capsys):
    asked = []
    monkeypatch.setattr("mcd.data.prepare.corpus.HubRecords", lambda recipe, *_: asked.append(recipe.data) or ())
    monkeypatch.setattr("mcd.data.prepare.pipeline.commit_of", lambda *_: None)
    refused(capsys, ["prepare", "--data", "openwebtext", "--out", str(tmp_path / "x")], "--data openwebtext")
    assert asked == ["openwebtext"]


@pytest.mark.heavy
def test_values_out_of_range_name_the_option(capsys, teacher, tmp_path):
    sample = ["sample", str(teacher)]
    refused(capsys, [*sample, "--steps", "0"], "--steps 0", "1 to 1,000,000")
    refused(capsys, [*sample, "--num", "0"], "--num 0")
    refused(capsys, [*sample, "--length", "100000"], "--length 100000", "1 to 65,536")
    refused(capsys, [*sample, "--temperature", "0"], "--temperature")
    refused(capsys, [*sample, "--top-p", "2"], "--top-p")
    refused(capsys, [*sample, "--precision", "fp32"], "--precision", "of gumbel-race")
    refused(capsys, [*sample, "--template", "word " * 100], "--template", "--length")
    refused(capsys, [*sample, "--template", "[MASK:99999999999999]"], "--template", "65,536 tokens")
    refused(capsys, [*sample, "--steps", "100000000000"], "--steps")
    for seed in ("-1", str(2**63)):
        refused(capsys, [*sample, "--seed", seed], "--seed")
        refused(capsys, ["eval", str(teacher), "--seed", seed, "--out", "x.json"], "--seed")
        refused(capsys, ["demo", "--seed", seed, "--out", str(tmp_path / "x")], "--seed")
        refused(capsys, ["train", "--seed", seed, "--out", str(tmp_path / "x")], "--seed")
    for threads in ("0", "-1", "100000000000"):
        refused(capsys, [*sample, "--threads", threads], "--threads")
        refused(capsys, ["train", "--threads", threads, "--out", str(tmp_path / "x")], "--threads")
    refused(capsys, ["eval", str(teacher), "--steps", "0", "--out", "x.json"], "--steps")
    distill = ["distill", "mcd", "--teacher", str(teacher), "--out", str(tmp_path / "x")]
    refused(capsys, [*distill, "--tau0", "-1"], "--tau0")
    refused(capsys, [*distill, "--rounds", "0"], "--rounds")
    refused(capsys, [*distill, "--lr", "0"], "--lr")
    refused(capsys, [*distill, "--seed", str(2**63)], "--seed")
    refused(capsys, [*distill, "--threads", "0"], "--threads")
    refused(capsys, [*distill, "--length", "33"], "--length 33", "32")
    train = ["train", "--out", str(tmp_path / "x")]
    refused(capsys, [*train, "--hidden", "10", "--heads", "3"], "heads")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    "options, words",
    [
        ("train --hidden 10 --heads 3", "--hidden 10 --heads 3: the first must be an even multiple"),
        ("train --steps 3 --minutes 2", "--steps 3 --minutes 2.0: give exactly one of them"),
        ("train --batch-size 6 --accumulate 4", "--batch-size 6 --accumulate 4: the second must divide the first"),
        ("train --strategy fsdp", "--strategy fsdp: shards over processes"),
        ("train --strategy fsdp --optimizer muon", "--optimizer muon: needs whole matrices"),
        ("train --t-min 0.5", "--t-min 0.5 --warm-t 0.3: the first must be below"),
        (
            "train --method duo --alpha-min 0.5 --alpha-max 0.4",
            "--alpha-min 0.5 --alpha-max 0.4: the first must be below",
        ),
        ("train --lora-rank 2", "--lora-rank 2: is for networks of Hugging Face"),
        ("train --length 9999", "--length 9999: {data} has only"),
        ("train --init {teacher} --length 2000000", "--length 2000000: --init {teacher} takes no such rows"),
        (
            "train --init {teacher} --method ar",
            "is masked, and --method ar trains autoregressive models",
        ),
        ("distill mcd --lora-alpha 3", "--lora-alpha: without --lora-rank there is no LoRA"),
        ("distill mcd --lora-dropout 0.1 --lora-targets q", "--lora-targets, --lora-dropout: without --lora-rank"),
        ("distill mcd --tau-min 2", "--tau-min 2.0 --tau0 0.96: the first must not be above"),
        ("distill sdtt --k 1", "--k 1: a teacher that does not look ahead teaches nothing"),
        ("distill mcd --lora-rank 2", "--lora-rank 2: is for networks of Hugging Face"),
        ("distill mcd --tau0 0.01", "--tau-min 0.05 --tau0 0.01: the first must not be above"),
        ("distill mcd --length 64", "--length 64: the teacher takes 1 to 32 tokens"),
        ("distill cd4lm --teacher-ema 0.9", "--teacher-ema 0.9: cd4lm keeps its first teacher"),
        ("distill cd4lm --share-min 0.8", "--share-min 0.8 --share-max 0.7: the first must not be above the second"),
        ("distill duo-dcd", "--teacher {teacher}: is masked, and duo-dcd distils uniform models"),
    ],
)
def test_options_that_do_not_go_together_are_refused(capsys, data, teacher, tmp_path, options, words):
    """Whatever raises it, and however late: exit status 2, one line, and no run folder."""
    argv = [word.format(teacher=teacher) for word in options.split()]
    argv += ["--teacher", str(teacher)] if argv[0] == "distill" else []
    refused(
        capsys, [*argv, "--data", str(data), "--out", str(tmp_path / "x")], words.format(data=data, teacher=teacher)
    )
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("command", "line"),
    [
        *(
            (f"{command} nowhere{more}", f"{name} nowhere: no such model folder")
            for command, more, name in (
                ("distill mcd --out r --teacher", "", "--teacher"),
                ("train --out r --init", "", "--init"),
                ("demo --out r --teacher", "", "--teacher"),
                ("sample", "", "MODEL"),
                ("eval", " --out m.json", "SOURCE"),
                ("frontier demo", " --out f", "MODEL"),
                ("export", " --out e", "MODEL"),
                ("push", " ./here", "MODEL"),
                ("import", " --out i", "SOURCE"),
                ("adapt", " --out a", "CAUSAL_MODEL"),
            )
        ),
        *(
            (f"{command} --weights raw", "--weights raw: demo has no model.raw.safetensors; only runs of")
            for command in ("sample demo", "eval demo --out m.json", "distill mcd --teacher demo --out r")
        ),
        ("plan --size nowhere", "--size nowhere: known are"),
        ("report nowhere --out r.html", "RUN nowhere: no such folder"),
        (
            "bench nothing",
            "NAME nothing: is not known; known are step, sampling, scale, matmul, loading, plan, startup;",
        ),
        (
            "bench step_mcd_b2_l25",
            "NAME step_mcd_b2_l25: is not known (did you mean 'step_mcd_b2_l256'?); known are step,",
        ),
        ("bench step step", "NAME: names step twice"),
        ("report a b a --out r.html", "RUN: names a twice"),
        ("frontier demo demo --out f", "MODEL: names demo twice"),
        ("frontier demo --out f", "MODEL: one model has no other to be compared with"),
        ("frontier demo other --num 1 --out f", "--num 1: must be at least 2"),
        ("eval demo --steps 4 8 4 --out m.json", "--steps: names 4 twice"),
        ("demo --control-steps 4 4 --out r", "--control-steps: names 4 twice"),
    ],
)
def test_what_a_request_names_is_refused_in_one_line_that_says_which(command, line, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert main(command.split()) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith(f"mcd: {line}")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "command",
    [
        "train --out",
        "adapt smollm2 --out",
        "distill mcd --teacher demo --out",
        "frontier demo other --out",
        "demo --out",
        "import demo --out",
        "export demo --out",
        "reproduce table1 --out",
        "sample demo --out",
        "eval demo --out",
        "report demo --out",
        "bench step --json",
        "plan --json",
    ],
)
def test_a_dry_run_refuses_the_place_that_the_run_would_refuse(command, capsys, monkeypatch, tmp_path):
    """A file where a folder is to be made, and a folder where a file is to be written."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file.jsonl").write_text("notes")
    (tmp_path / "folder.jsonl").mkdir()
    words = command.split()
    place = "folder.jsonl" if words[0] in ("sample", "eval", "report", "bench", "plan") else "file.jsonl"
    assert main([*words, place, "--dry-run"]) == 2
    assert capsys.readouterr().err.startswith(f"mcd: {words[-1]} {place}")


@pytest.mark.heavy
def test_a_place_nothing_can_be_written_to_is_refused_before_the_work(capsys, monkeypatch, teacher, tmp_path):
    import mcd.checkpoints.folder

    monkeypatch.setattr(mcd.checkpoints.folder, "from_pretrained", None)
    file = tmp_path / "notes.txt"
    file.write_text("years of work")
    for command in (["sample", str(teacher)], ["eval", str(teacher)]):
        for out in (tmp_path, file / "sub", "/proc/nope", "/dev/null", tmp_path / ("x" * 300)):
            refused(capsys, [*command, "--out", str(out)], "--out")
    for command in (["train"], ["distill", "mcd", "--teacher", str(teacher)], ["demo"]):
        for out in (file, file / "sub", "/proc/nope"):
            refused(capsys, [*command, "--out", str(out)], "--out")
    refused(capsys, ["eval", str(teacher), "--out", str(file)], "--out", "no metrics.json")
    refused(capsys, ["report", str(teacher), "--out", str(file)], "--out", "not a report")
    assert file.read_text() == "years of work" and list(tmp_path.iterdir()) == [file]


def test_a_teacher_shorter_than_the_rows_of_the_data(teacher, text, tmp_path):
    data, out = tmp_path / "long", tmp_path / "student"
    prepare = ["prepare", "--data", str(text), "--tokenizer", str(teacher), "--length", "64", "--out", str(data)]
    assert main(prepare) == 0
    options = "--rounds 1 --steps-per-round 1 --batch-size 4 --threads 1".split()
    assert main(["distill", "mcd", "--teacher", str(teacher), "--data", str(data), "--out", str(out), *options]) == 0


SAMPLE = {"row": 0, "model": "m", "steps": 4, "seed": 0, "nfe": 4, "ids": [1, 2], "text": "a b", "protocol": {}}


@pytest.mark.heavy
@pytest.mark.parametrize(
    "line",
    [
        *(json.dumps(SAMPLE | {"ids": ids}) for ids in (None, "text", [[1]], [10**30], [1.5], [True], [-1])),
        *(json.dumps(SAMPLE | {"text": text}) for text in (None, 5, "\ud800")),
        *(json.dumps(SAMPLE | {"nfe": nfe}) for nfe in ("4", float("nan"), -1, True)),
        *(
            json.dumps(SAMPLE | {"protocol": p})
            for p in ("x", [1], {"colour": "red"}, {"length": "x"}, {"weights": []})
        ),
        *(json.dumps(SAMPLE | change) for change in ({"model": 5}, {"steps": "4"}, {"row": -1})),
        "[" * 100_000,
        "5",
        '{"row": 0',
    ],
)
def test_a_strange_line_of_samples_is_named(capsys, tmp_path, line):
    path = tmp_path / "s.jsonl"
    path.write_text(json.dumps(SAMPLE) + "\n" + line + "\n")
    refused(capsys, ["eval", str(path), "--scorer", "none", "--out", str(tmp_path / "m.json")], "s.jsonl, line 2")


def test_samples_of_several_requests_are_not_pooled(capsys, tmp_path):
    path, folder = tmp_path / "s.jsonl", tmp_path / "folder.jsonl"
    folder.mkdir()
    argv = ["eval", str(path), "--scorer", "none", "--out", str(tmp_path / "m.json")]
    changes = {"steps": 8, "model": "n", "seed": 1, "protocol": {"length": 2}}
    for key, value in changes.items():
        path.write_text("".join(json.dumps(SAMPLE | more) + "\n" for more in ({}, {"row": 1, key: value})))
        refused(capsys, argv, f"differ in {key}")
    path.write_text(2 * (json.dumps(SAMPLE) + "\n"))
    refused(capsys, argv, "twice")
    refused(capsys, ["eval", str(folder), *argv[2:]], "no config.json")


def test_the_table_fits_80_columns_and_shows_a_missing_interval(capsys, monkeypatch):
    from mcd.cli.metrics_table import print_rows
    from mcd.eval.laboratory.metrics_file import SAMPLES

    monkeypatch.setenv("COLUMNS", "80")
    row = dict.fromkeys(SAMPLES, 0.123) | {"model": "teacher-cooled", "round": None, "steps": 256, "nfe": 100.25}
    row |= {"gen_ppl": 12345.6, "gen_ppl_lo": 11111.1, "gen_ppl_hi": 23456.7}
    print_rows([row, row | {"gen_ppl": 100.0, "gen_ppl_lo": None, "gen_ppl_hi": None}])
    shown = capsys.readouterr().out
    assert "teacher-cooled" in shown and "11111-23457" in shown and "…" not in shown
    assert "distinct-2" in shown and max(map(len, shown.splitlines())) <= 80


def test_ctrl_c_during_start_up_is_told(capsys, monkeypatch):
    import importlib

    import mcd.cli.main

    def stop(name):
        raise KeyboardInterrupt

    monkeypatch.setattr(importlib, "import_module", stop)
    assert mcd.cli.main.main(["sample", "demo"]) == 1
    assert capsys.readouterr().err == "mcd: stopped\n"


def test_a_reader_that_leaves_ends_the_command_quietly():
    code = "import sys; from mcd.cli.main import main; sys.stdin.read(); sys.exit(main(['--help']))"
    pipe = subprocess.PIPE
    process = subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe, stderr=pipe)
    process.stdout.close()
    process.stdin.close()
    assert process.stderr.read() == b"" and process.wait() == 1
    process.stderr.close()


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("empty.txt", b"", ("holds no text",)),
        ("blank.txt", b" \n\n \n", ("holds no text",)),
        ("binary.txt", bytes(range(256)) * 4, ("binary",)),
        ("short.txt", b"One.\n\nTwo.\n", ("--vocab-size",)),
        ("fields.jsonl", b'{"body": "x"}\n', ("line 1", "'text'")),
        ("table.parquet", b"PAR1nonsense", ("not a parquet file",)),
        ("notes.docx", b"x", ("not one of",)),
    ],
)
def test_unusable_text(capsys, tmp_path, name, content, words):
    path = tmp_path / name
    path.write_bytes(content)
    refused(capsys, ["prepare", "--data", str(path), "--out", str(tmp_path / "out")], "--", *words)


def test_missing_text(capsys, tmp_path):
    refused(capsys, ["prepare", "--data", str(tmp_path / "no.txt"), "--out", str(tmp_path / "out")], "no such file")


def test_unusable_models(capsys, teacher, tmp_path):
    refused(capsys, ["sample", str(tmp_path / "nothing")], "no such model folder")
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "config.json").write_text('{"architectures": ["BertModel"]}')
    refused(capsys, ["sample", str(foreign)], "foreign", "not of an mcd model")
    cut = tmp_path / "cut"
    shutil.copytree(teacher, cut)
    weights = cut / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    refused(capsys, ["sample", str(cut)], "model.safetensors", "truncated")


def test_another_tokenizer_is_refused(capsys, teacher, text, tmp_path):
    other = tmp_path / "other"
    assert main(["prepare", "--data", str(text), "--out", str(other), "--vocab-size", "280", "--length", "32"]) == 0
    argv = ["distill", "mcd", "--teacher", str(teacher), "--data", str(other), "--out", str(tmp_path / "x")]
    refused(capsys, argv, "--data", "another tokenizer", "mcd prepare")


def test_a_model_with_a_foreign_tokenizer_is_refused(capsys, teacher, text, tmp_path):
    other, model = tmp_path / "other", tmp_path / "model"
    assert main(["prepare", "--data", str(text), "--out", str(other), "--vocab-size", "280", "--length", "32"]) == 0
    shutil.copytree(teacher, model)
    shutil.copy(other / "tokenizer.json", model)
    refused(capsys, ["sample", str(model)], "tokenizer.json", "280", "270")


def test_a_folder_of_another_configuration_is_never_touched(capsys, data, teacher):
    before = {path: path.read_bytes() for path in teacher.rglob("*") if path.is_file()}
    argv = ["train", "--data", str(data), "--out", str(teacher), "--steps", "4", "--batch-size", "8", *TINY]
    refused(capsys, argv, "--out", "another configuration", "train.batch_size")
    assert before == {path: path.read_bytes() for path in teacher.rglob("*") if path.is_file()}


def test_a_finished_run_is_left_as_it_is(data, teacher):
    before = (teacher / "model.safetensors").read_bytes()
    assert main(["train", "--data", str(data), "--out", str(teacher), "--steps", "4", "--batch-size", "4", *TINY]) == 0
    assert (teacher / "model.safetensors").read_bytes() == before


def test_no_scorer_installed_names_the_mend(capsys, monkeypatch, teacher, tmp_path):
    import importlib.util

    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "gguf" else find_spec(name, *a))
    argv = ["eval", str(teacher), "--out", str(tmp_path / "m.json")]
    refused(capsys, argv, "--scorer smollm2: needs gguf; install what is missing: pip install 'mcd-lm[score]'")


def test_a_full_disk_is_told(capsys, monkeypatch, teacher, tmp_path):
    import errno

    import mcd.cli.sample

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device", "samples.jsonl")

    monkeypatch.setattr(mcd.cli.sample, "_write", full)
    assert main(["sample", str(teacher), "--threads", "1"]) == 1
    assert "no space left" in capsys.readouterr().err


@pytest.mark.slow
def test_compiling_changes_rounding_and_nothing_else(data, tmp_path):
    """In a process of its own: the checks of annotations that tests add cannot be compiled."""
    try:
        check_compiler()
    except MissingCompiler as error:
        pytest.skip(str(error))
    argv = ["train", "--data", str(data), "--steps", "3", "--batch-size", "2", *TINY]
    assert main([*argv, "--out", str(tmp_path / "plain")]) == 0
    compiled = [sys.executable, "-m", "mcd", *argv, "--out", str(tmp_path / "compiled"), "--compile"]
    subprocess.run(compiled, check=True, capture_output=True)
    plain, compiled = ([row["loss"] for row in read_stats(tmp_path / name)] for name in ("plain", "compiled"))
    assert len(plain) == 3 and compiled == pytest.approx(plain, rel=1e-4)


def test_without_a_compiler_the_mend_is_named_and_takes_the_same_folder(data, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CXX", "no-such-compiler")
    argv = ["train", "--data", str(data), "--out", str(tmp_path / "run"), "--steps", "2", "--batch-size", "2", *TINY]
    assert main([*argv, "--compile"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("mcd: --compile: needs") and "--no-compile" in error and error.count("\n") == 1
    assert main([*argv, "--no-compile"]) == 0


def test_doctor_lists_the_extras(capsys):
    main(["doctor", "--no-self-test"])
    shown = capsys.readouterr().out
    assert "torch" in shown and "lightning-fabric" in shown and "device" in shown


def test_a_language_goes_all_the_way(tmp_path, monkeypatch, capsys):
    """--data hmm: train, distil on what the teacher was trained on, sample; no text and no end of text anywhere."""
    monkeypatch.setattr("mcd.data.prepare.pipeline.LANGUAGE_TOKENS", {"train": 4000, "valid": 1000})
    teacher, student, out = tmp_path / "teacher", tmp_path / "student", tmp_path / "samples.jsonl"
    few = "--steps 2 --batch-size 2 --length 16".split()
    assert main(["train", "--data", "hmm", "--out", str(teacher), *few, *TINY]) == 0
    last = json.loads((teacher / "stats.jsonl").read_text().splitlines()[-1])
    assert "valid_nelbo" in last and "valid_bpb" not in last  # its words are no text
    options = "--rounds 1 --steps-per-round 2 --batch-size 2 --threads 1".split()
    assert main(["distill", "mcd", "--teacher", str(teacher), "--out", str(student), *options]) == 0
    assert main(["sample", str(student), "--num", "2", "--steps", "2", "--out", str(out)]) == 0
    words = set(LANGUAGES["hmm"]().symbols)
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert all(len(row["ids"]) == 16 == len(row["text"].split()) and set(row["text"].split()) <= words for row in rows)
    refused(capsys, ["prepare", "--data", "hmm", "--wrap", "--out", str(tmp_path / "no")], "--wrap", "no end-of-text")


@pytest.mark.parametrize(
    ("recipe", "own", "others"), [("cpu", (64, 120), (16, 120)), ("paper", (512, 4000), (128, 50_000))]
)
def test_a_recipe_has_settings_of_a_method_s_own(recipe, own, others, capsys):
    for method, (rows, steps) in (("mmd", own), ("mcd", others)):
        argv = ["distill", method, "--teacher", "demo", "--out", "x", "--recipe", recipe, "--dry-run"]
        assert main(argv) == 0
        train = json.loads(capsys.readouterr().out)["train"]
        assert (train["batch_size"], train["steps"]) == (rows, steps)


@pytest.mark.heavy
def test_a_run_by_rewards_logs_and_shows_them(teacher, tmp_path, capsys):
    options = "--rounds 1 --steps-per-round 3 --batch-size 4 --log-every 1"
    out = distilled(teacher, tmp_path / "mmd", "mmd", options)
    rows = [json.loads(line) for line in (out / "stats.jsonl").read_text().splitlines()]
    assert all(0 < row["repulsion"] < 1 and row["advantage_spread"] > 0 for row in rows)
    for row in rows:
        assert row["reward"] == pytest.approx(2 * row["attraction"] - row["repulsion"], rel=1e-5)
    assert f"reward {rows[-1]['reward']:.4g}" in capsys.readouterr().err
    wrong = ["distill", "mmd", "--teacher", str(teacher), "--out", str(tmp_path / "no"), "--layer", "9"]
    refused(capsys, wrong, "--layer 9", "blocks")
    assert not (tmp_path / "no").exists()  # nothing was begun


@pytest.fixture(scope="session")
def locked_student(teacher, tmp_path_factory) -> Path:
    options = "--rounds 1 --steps-per-round 2 --batch-size 2 --trajectory-steps 4 --valid-every 1"
    return distilled(teacher, tmp_path_factory.mktemp("runs") / "ltd", "ltd", options)


@pytest.mark.heavy
def test_a_student_of_locked_noise_is_never_taken_for_a_plain_model(locked_student, data, tmp_path, capsys):
    """It is drawn from, filled in, swept over temperatures and distilled again; all else says why not."""
    model, new = str(locked_student), str(tmp_path / "new")
    few = "--steps-per-round 2 --batch-size 2 --threads 1 --rounds 1 --trajectory-steps 2".split()
    assert main(["distill", "ltd", "--teacher", model, "--out", str(tmp_path / "second"), *few]) == 0
    argv = [
        "sample",
        model,
        "--template",
        "The house[MASK:3] letter[MASK]",
        "--length",
        "16",
        "--threads",
        "1",
        "--greedy",
    ]
    assert main(argv) == 0
    assert "The house" in (shown := capsys.readouterr().out) and " letter" in shown
    refused(capsys, [*argv, "--temperature", "0.5"], "--temperature: does nothing here", "--greedy")
    out = tmp_path / "m.json"
    assert (
        main(["eval", model, "--scorer", "none", "--num", "2", "--steps", "2", "--length", "8", "--out", str(out)]) == 0
    )
    (row,) = json.loads(out.read_text())["rows"]
    assert row["protocol"]["sampler"] == "locked" and row["protocol"]["order"] == "low-discrepancy" and row["nfe"] == 2
    refused(capsys, ["eval", model, "--likelihood", str(data), "--out", str(out)], "no likelihood")
    refused(capsys, ["sample", model, "--sampler", "remdm"], "draws from masked models, and this one is locked")
    refused(capsys, ["distill", "mcd", "--teacher", model, "--out", new], "is locked", "distil it with ltd")
    refused(capsys, ["train", "--init", model, "--data", str(data), "--out", new], "is locked", "mcd distill ltd")
    refused(capsys, ["export", model, "--out", new], "locked kind")


@pytest.mark.heavy
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_draws_from_the_command_line(sampler, data, teacher, locked_student, tmp_path, capsys):
    """With a model of its process; and one of another process is refused."""
    process = SAMPLERS[sampler].process
    model = locked_student if process == "locked" else teacher
    if process not in ("masked", "locked"):
        model = tmp_path / "model"
        method = "duo" if process == "uniform" else "ar"
        argv = ["train", "--method", method, "--data", str(data), "--out", str(model), "--steps", "2"]
        assert main([*argv, "--batch-size", "2", *TINY]) == 0
    out = tmp_path / "rows.jsonl"
    steps = [] if process == "autoregressive" else ["--steps", "3"]
    argv = ["sample", str(model), *steps, "--num", "2", "--length", "8", "--threads", "1", "--out", str(out)]
    assert main([*argv, "--sampler", sampler]) == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(rows) == 2 and all(len(row["ids"]) == 8 and row["protocol"]["sampler"] == sampler for row in rows)
    other = "ancestral" if process != "masked" else "causal"
    refused(capsys, ["sample", str(model), "--sampler", other], f"--sampler {other}", process)


@pytest.mark.parametrize(
    "command",
    [
        "sample demo --length 0",
        "sample demo --threads 0",
        "sample demo --top-p 0",
        "sample demo --num 0",
        "eval demo --out m.json --length 0",
        "eval demo --out m.json --draws 0",
        "eval demo --out m.json --threads 5000",
        "distill mcd --teacher demo --out run --delta0 1",
        "train --out run --lr 0",
        "train --out run --lora-dropout 1",
        "prepare --data sotu --out data --valid-every 1",
        "frontier demo --out sweep --num 0",
        "plan --batch-size 0",
        "demo --num 0",
        "reproduce table1 --jobs 0",
    ],
)
def test_a_value_out_of_bounds_is_refused_in_one_line_that_names_the_option(command, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = command.split()
    assert main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"mcd: {words[-2]} {words[-1]}") and "must be" in line
    assert not list(tmp_path.iterdir())
