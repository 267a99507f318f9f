"""The readers under test: of each, valid folders to damage, and how they are read and then used.

`read` must give a valid object, which it tries, or raise one of `FAULTS`. An AssertionError is a finding.
"""

import contextlib
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import mock

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mcd.checkpoints.folder import from_pretrained, save_pretrained
from mcd.cli.metrics_table import print_rows
from mcd.data.loader import open_loader
from mcd.data.prepare.corpus import documents
from mcd.data.prepare.pipeline import prepare
from mcd.data.recipe import Recipe
from mcd.data.template import read_template
from mcd.data.token_texts import token_texts
from mcd.data.tokenizer import EOS, load_tokenizer, tokenizer_of_model, word_tokenizer
from mcd.errors import CheckpointError, DataError, ModelError, RunConflict, UsageError
from mcd.eval.laboratory.measure import measure_file
from mcd.eval.laboratory.metrics_file import read_metrics
from mcd.eval.laboratory.samples_file import read_samples
from mcd.model.denoiser import Denoiser, DenoiserConfig
from mcd.model.dit import DiTConfig
from mcd.model.ema import EMA
from mcd.report import figures
from mcd.report.page import page
from mcd.report.runs import read_runs
from mcd.sampler import sample
from mcd.sampler.ancestral import Ancestral
from mcd.training.checkpoint import load_checkpoint, save_checkpoint
from mcd.training.config import TrainConfig
from mcd.training.optimizer import make_optimizers
from mcd.training.run_folder import RunFolder, read_stats
from mcd.training.state import TrainState
from mcd.training.trained_on import data_of_model
from tests.fuzz.mutations import Case

FAULTS = (UsageError, DataError, ModelError, CheckpointError, RunConflict, FloatingPointError)
"""What the commands report in one line; anything else would be a traceback."""
PAYLOAD = b"cos\nsystem\n(S'touch executed'\ntR."
"""A pickle that makes a file `executed` in the working folder when it is loaded."""
LENGTH, WORDS = 8, "the of and to in that we our nation people".split()


@dataclass(frozen=True)
class Target:
    """A reader. `seeds` are valid folders (and some hostile ones), `read` gets a folder on disk."""

    seeds: Callable[[], list[Case]]
    read: Callable[[Path], object]


def case_of(folder: Path) -> Case:
    """All files of a folder, in memory."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def write_case(case: Case, folder: Path) -> None:
    """The files of a case in a folder."""
    for name, data in case.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def _denoiser(V: int = len(WORDS) + 1, **options: object) -> Denoiser:
    torch.manual_seed(0)
    model = Denoiser(DenoiserConfig(DiTConfig(V + 1, 4, 1, 1, LENGTH, cond_dim=2), V)).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.normal_()
    return model


def _tokenizer() -> str:
    tokenizer = word_tokenizer(WORDS)
    tokenizer.add_special_tokens([EOS])
    return tokenizer.to_str()


@contextlib.contextmanager
def _folder():
    with TemporaryDirectory() as name:
        yield Path(name)


def _model_seeds() -> list[Case]:
    with _folder() as folder:
        save_pretrained(_denoiser(), folder, _tokenizer())
        whole = case_of(folder)
        save_pretrained(_denoiser(1), folder)
        single = case_of(folder)
        save_pretrained(_denoiser(), folder, dtype=torch.bfloat16)
        half = case_of(folder)
    pickles = [whole | {"model.safetensors": data} for data in (PAYLOAD, b"PK\3\4" + PAYLOAD)]
    return [whole, half, single, *pickles]


def _read_model(folder: Path) -> None:
    model = from_pretrained(str(folder))
    assert all(p.isfinite().all() for p in model.parameters()) and model.config.vocab_size >= 1
    length = min(3, model.config.backbone.length)
    if model.config.process == "masked":
        ids, _ = sample(Ancestral(2), model, 1, length)
        assert int(ids.min()) >= 0 and int(ids.max()) < model.config.vocab_size


def _read_tokenizer(folder: Path) -> None:
    load_tokenizer(str(folder / "tokenizer.json"))
    tokenizer = tokenizer_of_model(folder, len(WORDS) + 1)
    with contextlib.suppress(DataError):
        ids = read_template(tokenizer, "the people [MASK:2] of", len(WORDS) + 1, LENGTH).ids
        assert max(ids) <= len(WORDS) + 1
    ids = list(range(len(WORDS) + 1))
    assert "".join(share or "" for share in token_texts(tokenizer, ids, -1)) == tokenizer.decode(ids)


def _data_seeds() -> list[Case]:
    with _folder() as folder:
        text = "\n\n".join(f"the people of {WORDS[i % 10]} and {WORDS[i % 7]}" for i in range(40))
        (folder / "text.txt").write_text(text)
        (folder / "tokenizer.json").write_text(_tokenizer())
        seeds = []
        for wrap in (False, True):
            out = folder / f"data-{wrap}"
            source, tokenizer = str(folder / "text.txt"), str(folder / "tokenizer.json")
            prepare(Recipe(source, tokenizer=tokenizer, length=LENGTH, wrap=wrap, valid_every=4), out)
            seeds.append(case_of(out))
    return seeds


def _read_data(folder: Path) -> None:
    for split in ("train", "valid"):
        loader = open_loader(folder, split, 2)
        batch = loader.batch(0)
        x0 = batch if isinstance(batch, torch.Tensor) else batch.x0
        assert x0.shape == (2, loader.length) and int(x0.min()) >= 0


def _run_seeds() -> list[Case]:
    with _folder() as folder:
        run = RunFolder(
            folder, {"command": "distill", "data": "sotu", "train": {"steps": 4, "lr": 1e-3}}, "mcd distill"
        )
        for step in range(1, 5):
            run.log({"step": step, "loss": 1.0 / step, "elapsed_s": 0.5 * step, "valid_nelbo": 5.0, "lr": 1e-3})
        run.close()
        return [case_of(folder)]


def _read_run(folder: Path) -> None:
    if (folder / "run.json").is_file():
        data_of_model(folder)
    if (folder / "stats.jsonl").is_file():
        assert all(type(row["step"]) is int for row in read_stats(folder))
    with RunFolder(folder, {"command": "distill", "train": {"steps": 4, "lr": 2e-3}}) as run:
        run.rewind_log(2)
        assert all(row["step"] <= 2 for row in read_stats(folder))


def _state() -> TrainState:
    student = _denoiser()
    return TrainState(student, None, EMA(student, 0.9), make_optimizers(student, TrainConfig()))


def _checkpoint_seeds() -> list[Case]:
    with _folder() as folder:
        for step in (1, 2):
            state = _state()
            state.counters.step = step
            for shadow in state.ema.shadow.values():
                shadow.fill_(step)
            save_checkpoint(folder, state)
        return [case_of(folder)]


def _read_checkpoint(folder: Path) -> None:
    state = _state()
    if load_checkpoint(folder, state):
        step, shadows = state.counters.step, state.ema.shadow.values()
        assert step in (1, 2) and all((shadow == step).all() for shadow in shadows), "a damaged one was taken for good"


def _samples_seeds() -> list[Case]:
    row = {"row": 0, "model": "demo", "seed": 0, "steps": 4, "nfe": 4, "ids": [1, 2, 3, 4, 1], "text": "we our nation"}
    protocol = {"sampler": "ancestral", "precision": "fp64", "temperature": 1.0, "length": 5, "weights": "ema"}
    lines = [json.dumps(row | {"row": i, "protocol": protocol}) for i in range(3)]
    return [{"samples_student_r1_s4.jsonl": ("\n".join(lines) + "\n").encode()}]


def _read_samples(folder: Path) -> None:
    measure_file(read_samples(folder / "samples_student_r1_s4.jsonl"), None, 0)


def _metrics_seeds() -> list[Case]:
    with _folder() as folder:
        write_case(_samples_seeds()[0], folder)
        row = measure_file(read_samples(folder / "samples_student_r1_s4.jsonl"), None, 0)
    scored = {
        "gen_ppl": 50.0,
        "gen_ppl_lo": 40.0,
        "gen_ppl_hi": 60.0,
        "energy": 0.5,
        "energy_lo": 0.1,
        "energy_hi": 0.9,
    }
    cells = [("teacher", 2), ("teacher", 4), ("student", 2), ("student", 4)]
    rows = [row | scored | {"energy_floor": 0.1, "model": name, "steps": steps} for name, steps in cells]
    return [{"metrics.json": json.dumps({"command": "mcd eval", "rows": rows}).encode()}]


def _read_metrics(folder: Path) -> None:
    rows = read_metrics(folder / "metrics.json")
    with contextlib.redirect_stdout(io.StringIO()):
        print_rows(rows)


def _report_seeds() -> list[Case]:
    states = [{"model": "student", "row": 0, "seed": 0, "steps": 2, "step": i, "tokens": ["a", None]} for i in range(3)]
    trajectory = "".join(json.dumps(state) + "\n" for state in states).encode()
    model = {"schedule": {"name": "log-linear", "eps": 1e-3}}
    more = {"trajectory.jsonl": trajectory, "config.json": json.dumps(model).encode()}
    return [_run_seeds()[0] | _metrics_seeds()[0] | _samples_seeds()[0] | more]


def _read_report(folder: Path) -> None:
    """Figures are drawn, but made into SVG, which takes ten times as long as all else, for one case in ten only."""
    whole = sum(map(len, case_of(folder).values())) % 10 == 0
    with mock.patch.object(figures, "svg", figures.svg if whole else _only_drawn):
        text = page(read_runs([folder]), "title")
    assert text.encode().endswith(b"</html>\n")


def _only_drawn(draw: Callable[[Axes], None], alt: str, **size: float) -> str:
    draw(Figure().subplots())
    return "<svg/>"


def _template_seeds() -> list[Case]:
    texts = (
        *("the [MASK:3] people", "[MASK]", "[MASK:0]", "", "[MASK:99999999999999999999]", "we our [MASK:-1]"),
        *(r"the \[MASK] of", r"\\[MASK:2]\[mask]", "the\n\n[MASK: 2] <mask>", "the  [MASK][MASK] people "),
    )
    return [{"template.txt": text.encode()} for text in texts]


def _read_template(folder: Path) -> None:
    template = (folder / "template.txt").read_bytes().decode("utf-8", "surrogateescape")  # as the command line gives it
    tokenizer = word_tokenizer(WORDS)
    ids = read_template(tokenizer, template, len(WORDS), LENGTH).ids
    assert len(ids) == LENGTH and min(ids) >= 0 and max(ids) <= len(WORDS)


def _text_seeds() -> list[Case]:
    lines = "".join(json.dumps({"text": f"the people {i}"}) + "\n" for i in range(4)).encode()
    return [{"text.jsonl": lines}, {"text.txt": b"the people\n\nof our nation\n"}]


def _read_text(folder: Path) -> None:
    assert all(text.strip() for text in documents(str(folder)))


def _file_seeds() -> list[Case]:
    return [{"model.ckpt": b"PK\3\4" + PAYLOAD}, {"model.ckpt": b"\x80\x02" + PAYLOAD}, {"model.ckpt": PAYLOAD}]


def _read_file(folder: Path) -> None:
    from_pretrained(str(folder / "model.ckpt"))


TARGETS = {
    "model": Target(_model_seeds, _read_model),
    "tokenizer": Target(lambda: [{"tokenizer.json": _tokenizer().encode()}], _read_tokenizer),
    "data": Target(_data_seeds, _read_data),
    "run": Target(_run_seeds, _read_run),
    "checkpoint": Target(_checkpoint_seeds, _read_checkpoint),
    "samples": Target(_samples_seeds, _read_samples),
    "metrics": Target(_metrics_seeds, _read_metrics),
    "report": Target(_report_seeds, _read_report),
    "template": Target(_template_seeds, _read_template),
    "text": Target(_text_seeds, _read_text),
    "file": Target(_file_seeds, _read_file),
}
