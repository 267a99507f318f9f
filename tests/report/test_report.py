"""`mcd report`: the page is whole and self-contained, and its sentences follow from the numbers, either way."""

import json
import math
import random
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

from mcd.cli import report
from mcd.cli.eval import write_metrics
from mcd.errors import UsageError
from mcd.eval.protocol import Protocol
from mcd.objective.mcd import MCD
from mcd.process.masked import coupled_pair
from mcd.process.schedule import LogLinear
from mcd.process.timestep import sample_u, stratified_t
from mcd.report import document
from mcd.report.findings import lineages, match
from mcd.report.gather import Cell, gather
from mcd.report.headline import headline
from mcd.train.config import Budget, TrainConfig
from mcd.train.run_folder import RunFolder

STAMP = Protocol(scorer="SmolLM2-135M", scorer_precision="fp32", retokenised=True, averaging="pooled", samples=64)
SAMPLED = {"sampler": "ancestral", "order": "iid", "precision": "fp64", "grid": "uniform t, 1 to 0", "weights": "ema"}
TEXT = (
    "We the people of the United States have never been more ready to meet the duties of the day, and the Congress "
    "will find in the report of the Secretary of the Treasury an account of the public revenue, which I commend now. "
)


def row(model: str, steps: int | None, gen_ppl: float, entropy: float, round: int | None = None, **fields) -> dict:
    """One row as `mcd.eval.metrics.measure` makes it, with intervals of 6 % and of 0.03 nats."""
    temperature = fields.pop("temperature", 1.0)
    sampled = {} if steps is None else SAMPLED | {"temperature": temperature, "top_p": 1.0, "threads": 2}
    stamp = Protocol(**{**STAMP.as_dict(), "length": 128, "seed": 0, **sampled, **fields})
    return {
        "model": model,
        "round": round,
        "steps": steps,
        "nfe": None if steps is None else steps * (1 - (1 - 1 / steps) ** 128),
        "gen_ppl": gen_ppl,
        "gen_ppl_lo": gen_ppl * 0.94,
        "gen_ppl_hi": gen_ppl * 1.06,
        "entropy": entropy,
        "entropy_lo": entropy - 0.03,
        "entropy_hi": entropy + 0.03,
        "repetition_4": 0.0123,
        "distinct_2": 0.91,
        "samples": 64,
        "tokens": 8192,
        "protocol": {**stamp.as_dict(), "digest": stamp.digest()},
    }


def teacher_ppl(steps: float) -> float:
    return 90 + 900 / steps**0.8


def rows(better: bool = True) -> list[dict]:
    """A demo's metrics: with `better` the student at N is as good as the teacher at about 20 N."""
    gain = 20.0 if better else 0.7
    found = [row("text", None, 52, 4.42), row("shuffled", None, 980, 4.42)]
    found += [row("teacher", N, teacher_ppl(N), 4.36 + 0.4 / N**0.5) for N in (4, 8, 32, 64, 128, 256)]
    found += [row("student", N, teacher_ppl(gain * N), 4.33 + 0.2 / N**0.5, 5) for N in (2, 4, 8, 32, 256)]
    for r in range(1, 5):
        gen_ppl = teacher_ppl(8) * (teacher_ppl(gain * 8) / teacher_ppl(8)) ** (r / 5)
        found.append(row("student", 8, gen_ppl, 4.50 - r / 50, r))
    found.append(row("tau-only", 8, 150 if better else 140, 4.41, 5))
    found.append(row("teacher-cooled", 8, 170 if better else 120, 4.40, temperature=0.83))
    return found


def write_runs(folder: Path, better: bool = True, length: int = 64) -> Path:
    """A demo folder: metrics, samples, trajectories, and the run folders of a distillation and its control."""
    folder.mkdir(parents=True)
    write_metrics(folder / "metrics.json", rows(better), "mcd demo")
    words = TEXT.split(" ")
    for name, model, round, steps in (
        *(("teacher", "teacher", None, s) for s in (4, 8, 32, 64, 128)),
        *((f"student_r{r}", "student", r, s) for r, s in ((5, 4), (5, 8), (5, 32), (4, 8))),
    ):
        lines = []
        for i in range(3):
            mixed = words.copy()
            random.Random(f"{model}{steps}{i}").shuffle(mixed)
            text = " ".join(mixed if steps < 32 else words)
            if i == 0:
                text = f"<script>alert('{model} & {steps}')</script> " + text
            lines.append({"row": i, "seed": 0, "steps": steps, "nfe": steps - 1, "ids": [1, 2], "text": text})
            lines[-1] |= {"model": model, "round": round}
        (folder / f"samples_{name}_s{steps}.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    write_trajectories(folder / "trajectory.jsonl")
    for name, delta0 in (("student", 2 / 128), ("tau-only", 0.0)):
        write_distillation(folder / name, MCD(delta0=delta0), length)
    return folder


def write_trajectories(path: Path) -> None:
    tokens = [" " + word for word in (TEXT * 2).split()][:72]
    tokens[5] = "\n"
    tokens[6] = "<b>"
    lines = []
    for model, steps in (("teacher", 32), ("student", 8)):
        u = [random.Random(i).random() for i in range(len(tokens))]
        before: set[int] = set()
        for step in range(steps + 1):
            seen = {i for i in range(len(tokens)) if u[i] <= step / steps}
            line = {"model": model, "row": 0, "seed": 0, "steps": steps, "step": step, "t": 1 - step / steps}
            line |= {"tokens": [token if i in seen else None for i, token in enumerate(tokens)]}
            lines.append(line | {"new": sorted(seen - before)})
            before = seen
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def write_distillation(folder: Path, method: MCD, length: int, rounds: int = 5, steps: int = 40) -> None:
    """A run folder by the writer of training, with counts from the real coupling."""
    from dataclasses import asdict

    budget = Budget(steps=rounds * steps, rounds=rounds)
    config = {
        "command": "distill",
        "teacher": "demo",
        "weights": "ema",
        "data": "sotu",
        "threads": None,
        "objective": {"name": method.name, **asdict(method)},
        "train": asdict(TrainConfig(log_every=5)) | asdict(budget),
    }
    run = RunFolder(folder, config, "mcd distill mcd --teacher demo --out runs/student")
    generator = torch.Generator().manual_seed(0)
    x0 = torch.zeros(32, length, dtype=torch.int64)
    for step in range(5, rounds * steps + 1, 5):
        round = (step - 1) // steps
        delta = method.delta(round)
        t = stratified_t(32, delta, 1.0, generator)
        u = sample_u(32, length, generator)
        pair = coupled_pair(x0, u, t, (t - delta).clamp(min=0), LogLinear(), 1)
        kl = 0.02 * (1 + round) * math.exp(-(step % steps) / 60)
        ce = 3.0 * float(pair.revealed.double().mean())
        terms = {"loss": kl + ce, "distillation": kl, "reconstruction": ce}
        counts = {
            "tokens_distilled": int((pair.masked_t & pair.masked_s).sum()),
            "tokens_revealed": int(pair.revealed.sum()),
            "tokens_visible": int((~pair.masked_t).sum()),
        }
        run.log({"step": step, "round": round + 1, "lr": 1e-4, **terms, **counts, "grad_norm": 0.3, "elapsed_s": step})


class Page(HTMLParser):
    """Reads a page as a browser would: checks that tags close, and keeps what it would load, its texts and ids."""

    VOID = ("meta", "br", "hr", "img", "link", "input")

    def __init__(self, source: str):
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.words: list[str] = []
        self.feed(source)
        self.close()
        assert not self.open
        self.text = " ".join("".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "srcset", "poster", "data", "action"):
                (self.links if tag == "a" else self.loads).append(value or "")
            if name == "id":
                self.ids.append(value or "")
            assert not name.startswith("on")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] != ["style"]:
            self.words.append(data)


def made(out: Path, *runs: Path, options: tuple[str, ...] = ()) -> str:
    assert report.main([*map(str, runs), "--out", str(out), *options]) == 0
    return out.read_text(encoding="utf-8")


def only_metrics(folder: Path, cells: list[dict]) -> Path:
    folder.mkdir(parents=True)
    write_metrics(folder / "metrics.json", cells, "mcd eval")
    return folder


def said(cells: list[dict], folder: Path) -> str:
    """The headline of a metrics.json with these rows."""
    only_metrics(folder, cells)
    found = [cell for run in gather([folder]) for cell in run.cells]
    return " ".join(finding.text for one in lineages(found) for finding in headline(one))


def test_whole_page_and_the_same_bytes_again(tmp_path):
    folder = write_runs(tmp_path / "demo")
    options = ("--title", "A <b>title</b>")
    source = made(tmp_path / "report.html", folder, options=options)
    assert made(tmp_path / "again.html", folder, options=options) == source
    page = Page(source)
    assert page.tags.isdisjoint({"script", "link", "iframe", "img", "object"})
    assert all(load.startswith("#") for load in page.loads)
    assert {link for link in page.links if not link.startswith("#")} == {"https://arxiv.org/abs/2602.00792"}
    assert source.count("http") == 1 and "url(http" not in source and "@import" not in source
    assert len(set(page.ids)) == len(page.ids)
    assert all(link[1:] in page.ids for link in page.links if link.startswith("#"))
    assert all(f'id="{load[1:]}"' in source for load in page.loads)
    assert "<script>alert('student & 8')</script>" in page.text and "A <b>title</b>" in page.text
    assert source.count("<svg") == 7  # curves, entropy, frontier, theory, counts, two runs' losses
    assert "#0a0b" not in source
    for told in (
        "The largest saving is",
        "round 1 217",
        "step 3 of 8",
        "δ by round: 0.0156",
        "git_commit",
        "mcd distill",
    ):
        assert told in page.text
    assert not list(tmp_path.glob("*.partial"))


def test_headline_follows_numbers(tmp_path):
    good, bad = said(rows(True), tmp_path / "good"), said(rows(False), tmp_path / "bad")
    assert "reached at 2, 4 and 8 steps" in good and "distillation beats temperature" in good
    assert "consistency adds something" in good and "It falls in every round" in good
    assert "Distillation saved no steps" in bad and "temperature beats distillation" in bad
    assert "consistency costs something" in bad and "does not reach the teacher" in bad
    assert "It does not fall in round 1" in bad and "saved no steps" not in good


def test_student_against_teacher_at_sixteen_times(tmp_path):
    def verdict(name: str, gen_ppl: float, entropy: float) -> str:
        cells = [row("teacher", 4, 300, 4.5), row("teacher", 64, 100, 4.5), row("student", 4, gen_ppl, entropy, 1)]
        return said(cells, tmp_path / name)

    assert "The student is better" in verdict("better", 80, 4.5)
    assert "clearly lower, but its entropy is too" in verdict("traded", 80, 4.2)
    assert "cannot be told apart" in verdict("level", 99, 4.5)
    assert "does not reach the teacher there: its interval lies above. Its text is less" in verdict("worse", 150, 4.2)
    assert "Gen PPL 80.0 [75.2, 84.8] against 100 [94.0, 106]" in verdict("again", 80, 4.5)


def test_match_reads_the_curve():
    def cell(steps, gen_ppl, entropy=4.0):
        return Cell("run", "any", steps=steps, gen_ppl=gen_ppl, entropy=entropy, nfe=float(steps))

    curve = {4: cell(4, 400.0, 4.4), 64: cell(64, 100.0, 4.2), 256: cell(256, 110.0)}
    half = match(cell(8, 200.0), curve)
    assert half is not None and half.bound == ""
    assert half.teacher_steps == pytest.approx(16) and half.teacher_nfe == pytest.approx(16)
    assert half.teacher_entropy == pytest.approx(4.3) and half.factor == pytest.approx(2)
    early, late = match(cell(2, 500.0), curve), match(cell(8, 90.0), curve)
    assert early is not None and (early.bound, early.teacher_steps) == ("less than", 4)
    assert late is not None and (late.bound, late.teacher_steps) == ("at least", 256)
    dip = match(cell(8, 105.0), curve)  # the curve rises again after 64; what counts is where it first fell below
    assert dip is not None and dip.teacher_steps < 64
    assert match(cell(8, 90.0), {}) is None


def test_only_metrics_says_what_is_missing(tmp_path):
    folder = only_metrics(tmp_path / "few", [row("teacher", 8, 200, 4.4), row("student", 8, 150, 4.4, 1)])
    text = Page(made(tmp_path / "r.html", folder)).text
    for told in (
        "No pair of student at N and teacher at 16 N",
        "cooled to the student's entropy was not measured",
        "tau-only control was not measured",
        "Held-out text was not measured",
        "No samples_*.jsonl was found",
        "No trajectory.jsonl was found",
        "no run has a logged distillation",
        "No stats.jsonl was found",
        "No environment was recorded",
    ):
        assert told in text
    assert "All rows were measured by one protocol" in text


def test_without_scorer_or_metrics(tmp_path):
    bare = row("student", 8, 150, 4.4, 1) | {"gen_ppl": None, "gen_ppl_lo": None, "gen_ppl_hi": None}
    text = Page(made(tmp_path / "a.html", only_metrics(tmp_path / "bare", [bare]))).text
    assert "No scorer was used" in text and "no student with a Gen PPL" in text
    write_distillation(tmp_path / "run", MCD(delta0=1 / 16), 32, rounds=2)
    text = Page(made(tmp_path / "b.html", tmp_path / "run")).text
    assert "No metrics.json was found" in text and "Counted in" in text


def test_unlike_protocols_are_told_and_not_compared(tmp_path):
    cells = [row("teacher", 128, 100, 4.4, length=256), row("student", 8, 90, 4.4, 1)]
    text = Page(made(tmp_path / "r.html", only_metrics(tmp_path / "unlike", cells))).text
    assert "they differ in length (256 / 128)" in text
    assert "measured under another protocol (it differs in length)" in text
    assert "largest saving" not in text and "Student at 8 steps against" not in text
    cells = [row("teacher", 128, 100, 4.4, seed=1, threads=4), row("student", 8, 90, 4.4, 1)]
    assert "Student at 8 steps against teacher at 128" in said(cells, tmp_path / "seeds")


def test_commands_are_shown_as_typed(tmp_path):
    write_distillation(tmp_path / "run", MCD(delta0=1 / 16), 32)
    text = Page(made(tmp_path / "r.html", tmp_path / "run")).text
    assert "mcd distill mcd --teacher demo --out runs/student" in text


def test_half_written_and_odd_files(tmp_path):
    folder = tmp_path / "odd"
    folder.mkdir()
    (folder / "samples_x$y_s4.jsonl").write_text('{"text": "lone \\ud800 surrogate, bell \\u0007"}\n{"cut')
    write_trajectories(folder / "trajectory.jsonl")
    for name in ("trajectory.jsonl", "stats.jsonl"):
        with (folder / name).open("a") as file:
            file.write('{"cut')
    text = Page(made(tmp_path / "r.html", folder)).text
    assert "step 3 of 8" in text and "lone \ufffd surrogate, bell \ufffd" in text


def test_unusable_folders(tmp_path):
    def refused(*words: str) -> str:
        with pytest.raises(UsageError) as error:
            report.main([*words, "--out", str(tmp_path / "r.html")])
        assert not (tmp_path / "r.html").exists()
        return str(error.value)

    assert "nowhere: no such folder" in refused(str(tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    assert "empty: holds nothing to report" in refused(str(tmp_path / "empty"))
    (tmp_path / "file").write_text("")
    assert "file: is not a folder" in refused(str(tmp_path / "file"))
    for i, content in enumerate(('{"rows": [', "[]", '{"rows": 3}', '{"rows": [{}]}')):
        (tmp_path / f"{i}").mkdir()
        (tmp_path / f"{i}" / "metrics.json").write_text(content)
        assert f"{i}/metrics.json" in refused(str(tmp_path / f"{i}"))
    only_metrics(tmp_path / "text", [row("teacher", 8, 200, 4.4) | {"gen_ppl": "low"}])
    assert "gen_ppl is 'low'" in refused(str(tmp_path / "text"))
    fine = str(only_metrics(tmp_path / "fine", rows()[:1]))
    with pytest.raises(UsageError, match="is no folder"):
        report.main([fine, "--out", str(tmp_path / "file" / "r.html")])
    with pytest.raises(UsageError, match="is a folder"):
        report.main([fine, "--out", str(tmp_path / "empty")])


def test_nonsense_is_told_beside_real_text(tmp_path):
    """The control row's two numbers stand in the findings; without the row nothing is said."""
    folder = write_runs(tmp_path / "run")
    assert "Nonsense" not in document.page(gather([folder]), "title")
    write_metrics(folder / "metrics.json", [*rows(), row("control-periodic", None, 61, 4.41)], "mcd demo")
    said = document.page(gather([folder]), "title")
    assert "Nonsense" in said and "61" in said[said.index("Nonsense") :][:200]
