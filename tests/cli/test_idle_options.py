"""Which options a command line names, and that those which would do nothing are refused, command by command."""

import json
import shutil

import pytest

from mcd.checkpoints.folder import save_pretrained
from mcd.cli.arguments import peek
from mcd.cli.idle_options import refuse_idle, typed
from mcd.cli.main import main
from mcd.cli.sampling_options import DRAWING
from mcd.data.tokenizer import word_tokenizer
from mcd.errors import UsageError


def test_options_are_named_as_help_spells_them():
    assert typed(["a", "--out_file=x", "--no-watch", "--steps", "1", "-h", "--", "--pair"]) == {
        "--out-file": "--out_file",
        "--watch": "--no-watch",
        "--steps": "--steps",
    }


def test_of_an_option_given_twice_the_last_counts():
    assert peek(["--sampler", "a", "--sampler=b"], "--sampler") == "b"
    assert peek(["--sampler=b", "--sampler", "a"], "--sampler") == "a"


def test_an_idle_option_is_refused_with_the_reason():
    refuse_idle(["--steps", "3"], {"--watch": "of no reason"})
    with pytest.raises(UsageError, match="--no-watch: does nothing here, since nobody looks; leave it out"):
        refuse_idle(["--no-watch"], {"--watch": "nobody looks"})


@pytest.fixture(scope="module")
def here(tiny_denoiser, tiny_data, tmp_path_factory):
    """A folder with models of each kind (masked, ar, hmm), data, and samples."""
    folder = tmp_path_factory.mktemp("here")
    for name, process in (("masked", "masked"), ("ar", "autoregressive")):
        save_pretrained(tiny_denoiser(V=300, process=process), folder / name)
        shutil.copy(tiny_data / "tokenizer.json", folder / name)
    from mcd.data.languages.known import LANGUAGES

    save_pretrained(tiny_denoiser(V=32), folder / "hmm")
    word_tokenizer(LANGUAGES["hmm"]().symbols).save(str(folder / "hmm" / "tokenizer.json"))
    (folder / "hmm" / "run.json").write_text(json.dumps({"config": {"data": "hmm"}}))
    shutil.copytree(tiny_data, folder / "data")
    row = {"row": 0, "ids": [1, 2, 3, 4], "text": "a b", "protocol": {"temperature": 1.0}}
    (folder / "s.jsonl").write_text(json.dumps(row) + "\n")
    (folder / "s.txt").write_text("Text.\n")
    (folder / "theirs.txt").write_text("A text.\n\nAnother.\n")
    return folder


EVAL, DRY = "eval {} --out m.json", "--dry-run"
IDLE = [
    # a file of samples is drawn already, and says how
    *(
        (f"eval s.jsonl --out m.json {option}", "drawn already")
        for option in ("--temperature 0.5", "--steps 8", "--sampler remdm", "--order iid", "--weights raw", "--top-p 1")
    ),
    ("eval s.jsonl --out m.json --num 4", "all samples of s.jsonl"),
    ("eval s.jsonl --out m.json --length 4", "all samples of s.jsonl"),
    ("eval s.txt --out m.json --text-field x", "a .txt has no fields"),
    ("eval s.jsonl --out m.json --borders kept", "as they were written"),
    # text and controls have no sampler
    *(
        (f"eval {source} --out m.json {option}", "drawn from")
        for source in ("data", "control --reference data")
        for option in ("--temperature 0.5", "--steps 8", "--sampler remdm", "--weights raw", "--rows-per-call 4")
    ),
    ("eval data --out m.json --text-field body", "SOURCE is no file of samples"),
    ("eval masked --out m.json --end-of-text X", "SOURCE is no file of samples"),
    # likelihood draws nothing and has no scorer
    *(
        (f"eval masked --likelihood theirs.txt --out m.json {option}", "--likelihood")
        for option in ("--steps 3", "--temperature 0.5", "--scorer none", "--averaging pooled", "--borders kept")
    ),
    ("eval masked --likelihood theirs.txt --out m.json --reference data", "compares no samples"),
    ("eval masked --likelihood data --out m.json --scorer smollm2 --averaging pooled", "compares no samples"),
    ("eval masked --out m.json --features minilm", "no --reference"),
    ("eval masked --likelihood data --out m.json --features minilm", "compares no samples"),
    ("eval ar --likelihood data --out m.json --draws 2", "exact"),
    ("eval masked --likelihood data --out m.json --wrap", "prepared already"),
    ("eval masked --likelihood data --out m.json --eos-token X", "prepared already"),
    ("eval masked --out m.json --draws 2", "option of --likelihood"),
    ("eval masked --out m.json --eos-token X", "option of --likelihood"),
    ("eval data --out m.json --frame", "nothing is drawn"),
    ("eval masked --out m.json --wrap", "option of --likelihood"),
    # without a scorer
    *(
        (f"eval masked --scorer none --out m.json {option}", "there is no scorer")
        for option in ("--scorer-precision bf16", "--averaging per-sample", "--no-retokenise", "--borders dropped")
    ),
    ("eval masked --no-retokenise --borders kept --out m.json", "scored unchanged"),
    *(
        (f"eval hmm --out m.json {option}", "measured by its exact likelihood")
        for option in ("--scorer gpt2", "--scorer-precision bf16", "--averaging pooled", "--borders kept")
    ),
    # samplers
    ("sample ar --steps 4", "one step per token"),
    ("sample hmm --borders kept", "no end of text"),
    ("eval ar --out m.json --steps 4", "one step per token"),
    ("sample masked --sampler confidence --greedy --temperature 0.7", "--greedy takes the likeliest"),
    ("sample masked --sampler cad --greedy --top-p 0.7", "--greedy takes the likeliest"),
    ("sample masked --sampler remdm --eta 0 --remasking rescale", "--eta 0"),
    ("sample masked --sampler klass --history 0 --kl-threshold 0.1", "--history 0 asks for confidence alone"),
    # training
    ("train --init masked --out r --hidden 64", "of --init masked"),
    ("train --init masked --out r --dropout 0.1", "of --init masked"),
    ("train --init masked --out r --vocab-size 512", "of --init masked"),
    ("train --data data --out r --vocab-size 512", "has its tokens already"),
    ("train --data hmm --out r --vocab-size 512", "has its tokens already"),
    ("train --out r --teacher-ema 0.5", "no teacher"),
    ("train --out r --warm-start 0 --warm-t 0.5", "no warm start"),
    ("train --out r --method duo --tau-end 0.5", "no soft tokens"),
    ("distill mcd --teacher masked --out r --delta0 0 --delta-growth 3", "no gap"),
    ("distill mcd --teacher masked --out r --delta0 0 --region student", "no token is revealed"),
    ("distill mcd --teacher masked --out r --rounds 1 --tau-step 0.1", "there is one"),
    ("distill sdtt --teacher masked --out r --rounds 1 --delta-growth 3", "there is one"),
    # the rest
    ("push masked ./here --private", "no repository"),
    ("push masked ./here --revision x", "no repository"),
    ("bench step_mcd_b2_l256 --full --dry-run", "single rows"),
    ("reproduce duality --jobs 2 --dry-run", "trains nothing"),
    ("plan --strategy fsdp", "one device"),
    ("demo --rounds 1 --round-steps 4", "the one round is the last"),
    ("demo --scorer none --borders kept", "there is no scorer"),
    ("demo --student-steps 4 --control-steps 16", "--student-steps"),
    ("frontier hmm --top-p 1 0.9 --out f --scorer gpt2", "measured by its exact likelihood"),
]


@pytest.mark.heavy
@pytest.mark.parametrize(("command", "reason"), IDLE)
def test_an_option_without_effect_is_refused(command, reason, here, monkeypatch, capsys):
    monkeypatch.chdir(here)
    monkeypatch.setattr("mcd.eval.scorer.load_scorer", None)  # nothing is loaded for it
    before = sorted(path.name for path in here.iterdir())
    assert main(command.split()) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert "does nothing here, since" in error and reason in error and "leave it out" in error
    assert sorted(path.name for path in here.iterdir()) == before


@pytest.mark.parametrize(
    "command",
    [
        "eval s.jsonl --out m.json --seed 3 --threads 1 --scorer none",
        "eval s.jsonl --out m.json --num 4 --length 8 --reference data",
        "eval data --out m.json --num 4 --length 8 --borders dropped --averaging per-sample",
        "eval control --reference data --out m.json --num 4",
        "eval masked --reference data --features minilm --scorer none --out m.json",
        "eval masked --out m.json --steps 2 --order stratified --temperature 0.7 --weights ema --borders dropped",
        "eval masked --likelihood data theirs.txt --wrap --draws 2 --weights ema --length 8 --out m.json",
        "eval masked --likelihood data --scorer gpt2 --scorer-precision bf16 --borders dropped --out m.json",
        "eval hmm --out m.json --scorer none",
        "sample masked --sampler cad --greedy --steps 4",
        "train --init masked --out r --length 8 --warm-start 0",
        "train --out r --vocab-size 512 --hidden 96",
        "distill mcd --teacher masked --out r --delta0 0 --coupling independent --region student",
        "demo --rounds 1 --scorer none --student-steps 4",
        "reproduce table1 --jobs 1",
    ],
)
def test_options_with_an_effect_are_taken(command, here, monkeypatch, capsys):
    monkeypatch.chdir(here)
    assert main([*command.split(), "--dry-run"]) == 0


@pytest.mark.parametrize(
    "words",
    [
        "ar",
        "--template masked ar",
        "--out masked.jsonl --no-watch ar --num 2",
        "--threshold=0.5 --sampler causal ar",
        "--seed 3 -- ar",
    ],
)
def test_the_model_decides_the_sampler_wherever_it_stands(words, here, monkeypatch, capsys):
    monkeypatch.chdir(here)
    status = main(["sample", "--dry-run", *words.split()])
    shown = capsys.readouterr()
    if "--threshold" in words:
        assert status == 2 and "--threshold: is no option of --sampler causal, but of cad, klass" in shown.err
    else:
        assert status == 0 and json.loads(shown.out)["sampler"] == "causal"


@pytest.mark.parametrize(("sampler", "block"), [("cad", 32), ("confidence", 0)])
def test_an_option_that_is_not_given_has_the_default_of_the_sampler(sampler, block, here, monkeypatch, capsys):
    monkeypatch.chdir(here)
    for command in ("sample masked --dry-run --sampler", "eval masked --out m.json --steps 3 --dry-run --sampler"):
        assert main([*command.split(), sampler]) == 0
        shown = json.loads(capsys.readouterr().out)
        assert shown.get("samplers", [shown])[0]["block"] == block


@pytest.mark.heavy
def test_an_option_of_another_sampler_names_that_one(here, monkeypatch, capsys):
    monkeypatch.chdir(here)
    assert "--order" in DRAWING and main("sample masked --sampler confidence --order iid".split()) == 2
    assert "--order: is no option of --sampler confidence, but of ancestral" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "mend"),
    [
        ("masked --sampler confidence", "--greedy takes"),
        ("masked --sampler cad", "--greedy takes"),
        ("masked", "--sampler confidence --greedy takes"),
        ("ar", "--temperature 1e-6 takes"),
    ],
)
def test_temperature_zero_says_how_to_be_greedy(options, mend, here, monkeypatch, capsys):
    monkeypatch.chdir(here)
    for command in ("sample", "eval"):
        out = ["--out", "m.json"] if command == "eval" else []
        assert main([command, *options.split(), "--temperature", "0", *out]) == 2
        said = capsys.readouterr().err
        assert "--temperature 0.0: must be positive; " in said and mend in said
    assert main("frontier masked --temperatures 0 1 --out f".split()) == 2
    assert "greedy" in capsys.readouterr().err


def test_an_autoregressive_model_has_no_frontier(here, monkeypatch, capsys):
    monkeypatch.chdir(here)
    assert main("frontier ar masked --out f".split()) == 2
    assert "MODEL ar: is autoregressive" in capsys.readouterr().err
