"""Run folders as the commands write them, for the reports of the tests."""

import json
import math
import random
from collections.abc import Callable
from dataclasses import asdict
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

from mcd.cli import report
from mcd.eval.laboratory.metrics_file import write_metrics
from mcd.eval.protocol import Protocol
from mcd.objective.mcd import MCD
from mcd.process.masked import coupled_pair
from mcd.process.schedule import LogLinear
from mcd.process.timestep import sample_u, stratified_t
from mcd.report.claims import claims
from mcd.report.comparison import comparisons
from mcd.report.runs import read_runs
from mcd.training.config import Budget, TrainConfig
from mcd.training.run_folder import RunFolder

STAMP = Protocol(scorer="SmolLM2-135M", scorer_precision="fp32", retokenised=True, averaging="pooled", samples=64)
SAMPLED = {"sampler": "ancestral", "order": "iid", "precision": "fp64", "grid": "uniform t, 1 to 0", "weights": "ema"}
TEXT = (
    "We the people of the United States have never been more ready to meet the duties of the day, and the Congress "
    "will find in the report of the Secretary of the Treasury an account of the public revenue, which I commend now. "
)


def measured_row(
    model: str, steps: int | None, gen_ppl: float, entropy: float, round: int | None = None, **fields
) -> dict:
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


def demo_rows(better: bool = True) -> list[dict]:
    """A demo's metrics: with `better` the student at N is as good as the teacher at about 20 N."""
    gain = 20.0 if better else 0.7
    found = [measured_row("text", None, 52, 4.42), measured_row("shuffled", None, 980, 4.42)]
    found += [measured_row("teacher", N, teacher_ppl(N), 4.36 + 0.4 / N**0.5) for N in (4, 8, 32, 64, 128, 256)]
    found += [measured_row("student", N, teacher_ppl(gain * N), 4.33 + 0.2 / N**0.5, 5) for N in (2, 4, 8, 32, 256)]
    for r in range(1, 5):
        gen_ppl = teacher_ppl(8) * (teacher_ppl(gain * 8) / teacher_ppl(8)) ** (r / 5)
        found.append(measured_row("student", 8, gen_ppl, 4.50 - r / 50, r))
    found.append(measured_row("tau-only", 8, 150 if better else 140, 4.41, 5))
    found.append(measured_row("teacher-cooled", 8, 170 if better else 120, 4.40, temperature=0.83))
    return found


def write_runs(folder: Path, better: bool = True, length: int = 64) -> Path:
    """A demo folder: metrics, samples, trajectories, and the run folders of a distillation and its control."""
    folder.mkdir(parents=True)
    write_metrics(folder / "metrics.json", demo_rows(better), "mcd demo")
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
        self.source = source
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


@pytest.fixture
def row() -> Callable[..., dict]:
    """A row of metrics.json."""
    return measured_row


@pytest.fixture
def rows() -> Callable[..., list[dict]]:
    """The rows of a demo."""
    return demo_rows


@pytest.fixture
def demo(tmp_path) -> Path:
    """The folder of a demo."""
    return write_runs(tmp_path / "demo")


@pytest.fixture
def distillation(tmp_path) -> Callable[..., Path]:
    """Writes the run folder of a distillation."""

    def write(delta0: float, length: int = 32, **options) -> Path:
        write_distillation(tmp_path / "run", MCD(delta0=delta0), length, **options)
        return tmp_path / "run"

    return write


@pytest.fixture
def trajectories() -> Callable[[Path], None]:
    """Writes a trajectory.jsonl."""
    return write_trajectories


@pytest.fixture
def metrics(tmp_path) -> Callable[..., Path]:
    """Writes a folder that holds a metrics.json alone."""

    def write(rows: list[dict], name: str = "metrics") -> Path:
        (tmp_path / name).mkdir()
        write_metrics(tmp_path / name / "metrics.json", rows, "mcd eval")
        return tmp_path / name

    return write


@pytest.fixture
def said(metrics) -> Callable[..., str]:
    """The claims that a metrics.json with these rows leads to."""

    def say(rows: list[dict], name: str = "claims") -> str:
        found = [row for run in read_runs([metrics(rows, name)]) for row in run.measured]
        return " ".join(claim.text for one in comparisons(found) for claim in claims(one))

    return say


@pytest.fixture
def page_of(tmp_path) -> Callable[..., Page]:
    """The page that `mcd report` makes of a folder."""

    def make(folder: Path, *options: str) -> Page:
        out = tmp_path / "pages" / "report.html"
        assert report.main([str(folder), "--out", str(out), *options]) == 0
        assert [path.name for path in out.parent.iterdir()] == [out.name]
        return Page(out.read_text(encoding="utf-8"))

    return make
