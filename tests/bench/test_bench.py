"""Rows, workers, memory, the counts behind scaled rows, and `mcd bench` itself on networks of a few weights."""

import json
from importlib import import_module

import pytest
import torch

from mcd.bench import loading, matmul, plan, sampling, step, worker
from mcd.bench.benchmark import Benchmark, row
from mcd.bench.memory import LINUX, AboveGradients
from mcd.bench.models import Size, random_denoiser
from mcd.bench.products import best_seconds, products_of
from mcd.bench.sides import Ours, Peers
from mcd.bench.worker import Worker
from mcd.cli import bench as command
from mcd.cli.main import main
from mcd.errors import WorkFailed

TINY = Size(rows=300, length=32, hidden=32, layers=2, heads=2, cond_dim=8)
COLUMNS = ["name", "ours_s", "peers_s", "ratio", "ours_bytes", "peers_bytes"]


class Here:
    """A worker in this very process: as quick as the work itself."""

    def __init__(self, side: str, keeps_blocks: bool):
        self.state = {"ours": Ours, "peers": Peers}[side]()

    def ask(self, request: str, /, **options):
        return getattr(self.state, request)(**options)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass


@pytest.fixture(scope="module")
def rows() -> dict[str, dict]:
    """One row of each kind that compares two sides; the first with two processes indeed."""
    found = {"step": step.measure("step_mcd_tiny", TINY, 2, repeats=2)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker, "Worker", Here)
        found["whole"] = sampling.measure("sample_whole", TINY, 2, 8, None)
        found["scaled"] = sampling.measure("sample_scaled", TINY, 1, 32, 8)
        found["matmul"] = matmul.measure("matmul_tiny", TINY, 2, large=64)
        found["plan"] = plan.measure("plan_tiny", TINY, 2)
        found["owt"] = loading.measure_owt("loading_tiny", rows=40_000)
    return found


@pytest.mark.slow
def test_rows_are_well_formed(rows, capsys):
    for found in rows.values():
        assert list(found)[:6] == COLUMNS
        assert found["ratio"] == (found["peers_s"] and pytest.approx(found["peers_s"] / found["ours_s"]))
        assert found["ours_s"] > 0
    json.dumps(list(rows.values()))
    command.show(list(rows.values()))
    shown = capsys.readouterr().out
    assert all(found["name"] in shown for found in rows.values())
    assert max(map(len, shown.splitlines())) <= 80


@pytest.mark.slow
def test_both_sides_did_the_same_work(rows):
    assert rows["step"]["losses_differ_by"] < 1e-4
    assert rows["step"]["parameters"] == sum(p.numel() for p in random_denoiser(TINY, 0).parameters())


@pytest.mark.slow
def test_whole_and_scaled_rows_say_so(rows):
    assert rows["whole"]["how"] == "the whole run"
    assert rows["whole"]["peers_nfe"] <= 9
    assert "scaled" in rows["scaled"]["how"]
    stays = (31 / 32) ** 32  # that a row of 32 tokens reveals nothing in one of 32 steps
    assert rows["scaled"]["ours_nfe"] == pytest.approx(32 * (1 - stays))
    assert rows["scaled"]["peers_nfe"] == pytest.approx(2 + 31 * (1 - stays))


@pytest.mark.parametrize("batch", [1, 3])
def test_padding_of_a_call_is_no_row(batch):
    """A call is of 16 rows at this size; what is counted are rows that were there to draw."""
    ours = Ours()
    ours.build(TINY, batch, None, {})
    taken = ours.sample(8, seed=0)
    assert sum(taken["calls"]) == pytest.approx(batch * taken["nfe"])


def test_scaled_seconds_weigh_steps_with_and_without_a_call():
    taken = {"seconds": [4.0, 6.0, 1.0, 3.0], "calls": [1.0, 1.0, 0.0, 0.0], "nfe": 2.0}
    assert sampling._peers_seconds(taken, steps=10, calls=7.0, call=9.0) == pytest.approx(7 * 5.0 + 3 * 2.0)
    assert sampling._peers_seconds(
        {"seconds": [4.0], "calls": [1.0], "nfe": 1.0}, steps=10, calls=9.0, call=3.0
    ) == pytest.approx(9 * 4.0 + 1.0)


def test_both_processes_hold_the_same_weights():
    a, b = random_denoiser(TINY, 0), random_denoiser(TINY, 0)
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    assert not any((p == 0).all() for name, p in a.named_parameters() if "weight" in name)


@pytest.mark.slow
def test_a_failure_in_a_worker_is_reported():
    with Worker("ours", True) as ours:
        with pytest.raises(WorkFailed, match="no_such_thing"):
            ours.ask("no_such_thing")
        ours.ask("build", size=TINY, batch=1, method="nelbo", options={})  # and it goes on
        ours._process.kill()
        with pytest.raises(WorkFailed, match="ended with status"):
            ours.ask("threads")


def test_products_are_found_with_their_shapes():
    a, b = torch.randn(4, 6), torch.randn(6, 5)
    x, y = torch.randn(3, 4, 6), torch.randn(3, 6, 5)
    bias = torch.randn(5)

    def work():
        return a @ b, torch.addmm(bias, a, b), torch.bmm(x, y), torch.nn.functional.linear(a, b.T, bias)

    found = {(p.kind, p.batch, p.m, p.k, p.n): p for p in products_of(work)[0]}
    assert found.keys() == {("mm", 1, 4, 6, 5), ("mm", 3, 4, 6, 5)}
    assert found["mm", 1, 4, 6, 5].count == 3
    assert found["mm", 3, 4, 6, 5].flops == 2 * 3 * 4 * 6 * 5
    assert all(best_seconds(p) > 0 for p in found.values())


@pytest.mark.heavy
def test_flops_of_a_step_are_those_of_its_layers():
    """2 flops a weight and position forwards, 4 backwards (student), 2 (teacher), and attention's own, at the peers."""
    peers = Peers()
    peers.build(TINY, 2, "mcd", {})
    products, _ = peers.products(0)
    D, positions = TINY.hidden, 2 * TINY.length
    dense = positions * (TINY.layers * 12 * D * D + TINY.rows * D)
    attention = 2 * TINY.layers * TINY.length * positions * D * (2 + 2 + 5) / 2
    found = {kind: sum(p.flops for p in products if p.kind == kind) for kind in ("mm", "attention")}
    assert found["mm"] == pytest.approx((2 + 2 + 4) * dense, rel=0.1)  # and a little for the modulation
    assert found["attention"] == pytest.approx(2 * attention) or found["attention"] == 0


@pytest.mark.skipif(not LINUX, reason="peaks of a step are Linux's")
def test_memory_counts_what_is_above_weights_and_gradients():
    """A backward pass that makes 64 MB beside a gradient of 32 MB."""
    p = torch.nn.Parameter(torch.ones(8 << 10, 1 << 10))
    above = AboveGradients([p])
    loss = (p.exp() * 2.0).sum()  # exp is kept for the backward pass: 32 MB; the factor is not kept
    loss.backward()
    assert p.grad is not None
    assert 30e6 < above.end() < 110e6
    assert above.gradients == 32 << 20


def test_rows_have_names_of_their_own_and_the_default_set_fits():
    by_question = {name: list(import_module(f"mcd.bench.{name}").benchmarks()) for name in command.QUESTIONS}
    names = [one.name for group in by_question.values() for one in group]
    assert len(names) == len(set(names)) and not set(names) & command.QUESTIONS.keys()
    for question, group in by_question.items():
        prefix = "sample_" if question == "sampling" else f"{question}_"
        assert all(one.name.startswith(prefix) for one in group)
    assert sum(one.seconds for group in by_question.values() for one in group if not one.full) <= 20 * 60


def test_dry_run_and_refusals(capsys, tmp_path):
    assert main(["bench", "startup", "step_mcd_b2_l256", "--dry-run"]) == 0
    planned = json.loads(capsys.readouterr().out)
    assert planned["rows"][0] == "step_mcd_b2_l256" and "startup_help" in planned["rows"]
    assert main(["bench", "stpe"]) == 2
    assert "did you mean 'step'" in capsys.readouterr().err
    assert main(["bench", "startup", "--json", str(tmp_path)]) == 2
    assert "--json" in capsys.readouterr().err


def test_the_command_writes_after_every_row(tmp_path, monkeypatch, capsys):
    """A row that fails does not cost the others, and the exit status says so."""
    out = tmp_path / "rows" / "bench.json"
    seen = []

    def good():
        return row("loading_a", 1.0, 2.0)

    def bad():
        seen.append(json.loads(out.read_text())["rows"])
        raise WorkFailed("gone")

    measures = {"loading_a": good, "loading_b": bad, "loading_c": lambda: row("loading_c", 3.0)}
    monkeypatch.setattr(loading, "benchmarks", lambda: [Benchmark(name, 1, one) for name, one in measures.items()])
    assert main(["bench", "loading", "--json", str(out)]) == 1
    assert [found["name"] for found in seen[0]] == ["loading_a"]
    result = json.loads(out.read_text())
    assert result.keys() == {"command", "machine", "rows"} and result["machine"]["cpus"]
    assert [found["name"] for found in result["rows"]] == ["loading_a", "loading_b", "loading_c"]
    assert result["rows"][1]["error"] == "gone" and result["rows"][0]["ratio"] == 2.0
    assert "loading_b: gone" in capsys.readouterr().err


def test_one_question_from_end_to_end(tmp_path, capsys):
    out = tmp_path / "bench.json"
    assert main(["bench", "startup_python", "--json", str(out)]) == 0
    (found,) = json.loads(out.read_text())["rows"]
    assert 0 < found["ours_s"] < 60 and list(found)[:6] == COLUMNS
    assert "startup_python" in capsys.readouterr().out
