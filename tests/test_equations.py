"""docs/equations.md against the code, both ways; Eq. 14 and Algorithm 1 by hand; the numbers of docs/theory.md."""

import ast
import contextlib
import importlib
import io
import re
from functools import cache
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch

from mcd.data.loader import Loader
from mcd.objective import Clock
from mcd.objective.mcd import MCD
from mcd.process.masked import mask
from mcd.process.timestep import sample_u, stratified_t
from mcd.training.config import Budget, TrainConfig
from mcd.training.loop import Trainer
from mcd.training.run_folder import RunFolder

ROOT = Path(__file__).parents[1]

REF = re.compile(r"Eq\. \d+|Lemma \d\.\d|Proposition \d\.\d|Theorem \d\.\d|Algorithm \d+")
FIGURE = re.compile(r"Figure \d+")
"""Figures may have a row. They need none, and the convention is not theirs: reports name figures too."""
PAPER = re.compile(rf"\bpaper, (?:Section \d|{REF.pattern})")
"""The convention: a docstring that cites the paper says "paper, Eq. 13" or the like at least once."""
FOREIGN = re.compile(rf"\b[A-Z][\w-]*(?: \(arXiv [\d.]+\))?, (?:{REF.pattern})")
"""Another source's equation: its name, its number in brackets if need be, a comma ("MDLM, Eq. 10")."""
LOOSE = re.compile(r"\b(?:Eqs\.|Eq\.? ?\(|Equation |Thm\.? |Prop\.? |Alg\.? |Fig\.? |Eq\. \d+(?:,| and| to) \d)")
"""Ways to cite that REF does not read."""

NUMBERED = {f"Eq. {n}" for n in range(1, 15)} | {"Lemma 3.1", "Proposition 3.2", "Theorem 3.3", "Algorithm 1"}


@cache
def rows() -> dict[str, tuple[list[str], list[str]]]:
    """Of each statement, the dotted paths and the tests that its row names."""
    table = (ROOT / "docs/equations.md").read_text(encoding="utf-8").split("## The table")[1]
    found = {}
    for line in table.splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) > 1 and (REF.fullmatch(cells[1]) or FIGURE.fullmatch(cells[1])):
            assert len(cells) == 6, f"{cells[1]}: a bar inside a cell"
            assert cells[1] not in found, f"{cells[1]} has two rows"
            found[cells[1]] = re.findall(r"`(mcd\.[\w.]+)`", cells[3]), re.findall(r"`(tests/[^`]+)`", cells[4])
    return found


def strings_of(tree: ast.AST, owner: str) -> list[tuple[str, str]]:
    """(dotted owner, text) of every docstring and attribute docstring below `tree`."""
    found = []
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            found.append((owner, node.value.value))
        elif isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            found += strings_of(node, f"{owner}.{node.name}")
    return found


@cache
def docstrings() -> list[tuple[str, str]]:
    """(dotted symbol, docstring) of the whole package."""
    found = []
    for path in sorted((ROOT / "mcd").rglob("*.py")):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        found += strings_of(ast.parse(path.read_text(encoding="utf-8")), module)
    return found


def citations(text: str) -> set[str]:
    """The statements of the paper that a docstring cites."""
    return set(REF.findall(FOREIGN.sub("", text)))


def cited_by(path: str) -> set[str]:
    """What is cited, figures included, by a symbol's docstring or those of the class and module it is part of."""
    texts = [text for owner, text in docstrings() if path == owner or path.startswith(f"{owner}.")]
    return set().union(*(citations(text) | set(FIGURE.findall(text)) for text in texts))


def resolve(path: str) -> object:
    """Import what a dotted path names."""
    parts = path.split(".")
    for n in range(len(parts), 0, -1):
        with contextlib.suppress(ModuleNotFoundError):
            value: object = importlib.import_module(".".join(parts[:n]))
            for name in parts[n:]:
                value = getattr(value, name)
            return value
    raise ModuleNotFoundError(path)


def test_every_numbered_statement_has_a_row():
    assert rows().keys() >= NUMBERED
    assert len(docstrings()) > 100


@pytest.mark.parametrize("ref", rows())
def test_a_row_names_what_is_there(ref: str):
    """Symbols import and cite the statement; tests exist; where no symbol stands, the row says why."""
    paths, tests = rows()[ref]
    assert paths
    assert tests
    for path in paths:
        resolve(path)
        assert ref in cited_by(path), f"{path} does not cite {ref}"
    for name in tests:
        file, function = name.split("::")
        names = {node.name for node in ast.parse((ROOT / file).read_text()).body if isinstance(node, ast.FunctionDef)}
        assert function in names, name


def test_background_rows_are_those_the_paper_recalls():
    table = (ROOT / "docs/equations.md").read_text(encoding="utf-8")
    assert re.findall(r"\| (Eq\. \d+) \|[^|]+\| background", table) == ["Eq. 1", "Eq. 2", "Eq. 3", "Eq. 4"]


def test_every_citation_in_the_code_has_a_row_that_names_its_symbol():
    for owner, text in docstrings():
        for ref in citations(text):
            assert ref in rows(), f"{owner} cites {ref}, which has no row"
            near = [f"{path}.".startswith(f"{owner}.") or owner.startswith(f"{path}.") for path in rows()[ref][0]]
            assert any(near), f"{owner} cites {ref}, whose row names neither it nor a part of it"


def test_citations_say_whose_equation_they_mean():
    """A docstring that cites the paper says so once ("paper, Eq. 13"), and in a form that this test can read."""
    for owner, text in docstrings():
        assert not LOOSE.search(text), f"{owner}: cite as 'paper, Eq. 13 and Eq. 14'"
        if citations(text):
            assert PAPER.search(text), f"{owner} cites {sorted(citations(text))} and does not say 'paper, ...'"


def test_other_papers_are_not_taken_for_ours():
    assert citations("Source: MDLM (arXiv 2406.07524), Eq. 10. MDLM, Eq. 3.") == set()
    assert citations("(paper, Algorithm 1, Eq. 13 and Eq. 14); see Lemma 3.1") == {
        "Algorithm 1",
        "Eq. 13",
        "Eq. 14",
        "Lemma 3.1",
    }


def test_eq_14_is_the_sum_it_says(tiny_denoiser, seeded, draws_of):
    """The loss against Eq. 14 written out, position by position, on dense predictions."""
    B, L, V, delta, tau = 3, 12, 9, 0.25, 0.9
    student, teacher = (tiny_denoiser(V=V, length=L, seed=seed) for seed in (0, 1))
    x0 = torch.randint(0, V, (B, L), generator=seeded(2))
    loss = MCD(delta0=delta, tau0=tau).loss(student, teacher, x0, Clock(), draws_of(x0, 3))

    generator = seeded(3)
    t, u = stratified_t(B, delta, 1.0, generator), sample_u(B, L, generator)
    gamma_t, gamma_s = (student.config.schedule.alpha(time)[:, None] for time in (t, t - delta))
    z_t, z_s = mask(x0, u, gamma_t, V), mask(x0, u, gamma_s, V)
    log_p = student.log_x_theta(student.hidden(z_t, t)).detach().view(B, L, V).double()
    logits = teacher.logits(teacher.hidden(z_s, t - delta)).detach().view(B, L, V).double()
    log_q = torch.log_softmax(logits / tau, -1)
    kl = ce = 0.0
    for b in range(B):
        for i in range(L):
            m_t, m_s = float(u[b, i] > gamma_t[b, 0]), float(u[b, i] > gamma_s[b, 0])
            kl += m_s * float((log_p[b, i].exp() * (log_p[b, i] - log_q[b, i])).sum())
            ce += (m_t - m_s) * float(-log_p[b, i, x0[b, i]])
    assert kl > 0 < ce
    assert loss.terms["distillation"].item() == pytest.approx(kl / (B * L), rel=1e-4)
    assert loss.terms["reconstruction"].item() == pytest.approx(ce / (B * L), rel=1e-4)
    assert loss.total.item() == pytest.approx((kl + ce) / (B * L), rel=1e-4)


class Watched(MCD):
    """MCD that notes what each step starts from."""

    steps: ClassVar[list[tuple[int, torch.Tensor, torch.Tensor]]] = []

    def loss(self, student, teacher, x0, clock, draws):
        flat = [torch.cat([p.detach().flatten() for p in model.parameters()]) for model in (student, teacher)]
        self.steps.append((clock.round, *flat))
        assert not teacher.training
        assert not any(p.requires_grad for p in teacher.parameters())
        return super().loss(student, teacher, x0, clock, draws)


def test_algorithm_1_line_by_line(tiny_denoiser, tmp_path, monkeypatch):
    """Two rounds of three steps: snapshots, the pairs and the doubling of delta."""
    pairs = []

    def coupled_pair(x0, u, t, s, schedule, mask_id, u_s=None):
        pairs.append((u, t, s, u_s))
        return real(x0, u, t, s, schedule, mask_id, u_s)

    module = importlib.import_module("mcd.objective.mcd")
    real = module.coupled_pair
    monkeypatch.setattr(module, "coupled_pair", coupled_pair)
    monkeypatch.setattr(Watched, "steps", [])
    tokens = np.random.default_rng(0).integers(0, 23, 400).astype(np.uint16)
    loader = Loader(tokens, length=16, batch_size=8, eos_id=0)
    config = TrainConfig(batch_size=8, lr=1e-2)
    run = RunFolder(tmp_path / "run", {"train": {"rounds": 2}})
    Trainer(tiny_denoiser(), Watched(delta0=1 / 16), loader, config, Budget(steps=6, rounds=2), run, {}).fit()

    assert [round for round, _, _ in Watched.steps] == [0, 0, 0, 1, 1, 1]
    for n, (round, student, teacher) in enumerate(Watched.steps):
        assert torch.equal(teacher, Watched.steps[3 * round][1])  # the student as it was when the round began
        assert torch.equal(student, teacher) == (n % 3 == 0)  # and each step moves the student
    for (round, _, _), (u, t, s, u_s) in zip(Watched.steps, pairs, strict=True):
        delta = 2**round / 16
        assert ((delta < t) & (t <= 1)).all()
        torch.testing.assert_close(s, t - delta)
        assert ((u > 0) & (u <= 1)).all()
        assert u.shape == (8, 16)
        assert u_s is None  # shared


def page_blocks(page: str) -> list[tuple[str, str]]:
    """(code, what the page says it prints) of each python block that is followed by a text block."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    return re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)```", text, flags=re.DOTALL)


def test_the_theory_page_prints_what_it_says():
    """Every block runs, in order, in one namespace. A number that stands behind "about" may be off by 5 percent."""
    text = (ROOT / "docs/theory.md").read_text(encoding="utf-8")
    blocks = page_blocks("theory.md")
    assert len(blocks) == text.count("```python") > 0
    namespace: dict[str, object] = {}
    for code, expected in blocks:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, "docs/theory.md", "exec"), namespace)
        said, found = expected.split(), printed.getvalue().split()
        assert len(said) == len(found), printed.getvalue()
        for before, word, value in zip(["", *said], said, found, strict=False):
            if before == "about":
                assert float(value) == pytest.approx(float(word), rel=0.05)
            else:
                assert value == word, printed.getvalue()


@pytest.mark.parametrize("page", ["equations.md", "theory.md", "extending.md"])
def test_pages_name_tests_and_symbols_that_exist(page: str):
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    for name in re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", text):
        source = (ROOT / name[0]).read_text(encoding="utf-8")
        assert not name[1] or f"def {name[1]}(" in source, name
    for path in re.findall(r"`(mcd(?:\.\w+)+)`", text):
        resolve(path)
    for link in re.findall(r"\]\((\w+\.md)\)", text):
        assert (ROOT / "docs" / link).is_file()
