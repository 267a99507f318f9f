"""The check of a GPU: all of it in small, its counts, and what it keeps when it is cut."""

import json
from dataclasses import replace

import pytest
import torch

from mcd.bench import gpu
from mcd.bench.benchmark import Benchmark, row
from mcd.bench.check import Check, counted_flops, tiny
from mcd.bench.models import CPU
from mcd.bench.sides import Ours, Peers
from mcd.cli.main import main
from mcd.machine import device
from mcd.model.sizes import sizes_of
from mcd.training.estimate import Setup, flops
from mcd.training.fitting import largest


@pytest.mark.heavy
def test_the_whole_check_in_small(tmp_path, capsys):
    """Both sides have the same losses, and the device computes what the CPU computes."""
    out = tmp_path / "gpu" / "gpu.json"
    assert main(["bench", "--gpu", "--tiny", "--json", str(out)]) == 0
    found = json.loads(out.read_text())
    assert found["tiny"] and found["doctor"] and found["left_out"] == []
    rows = {row["name"]: row for row in found["rows"]}
    assert list(rows) == [one.name for one in gpu.benchmarks(tiny(CPU))]
    for method in gpu.METHODS:
        step, agree = rows[f"gpu_step_{method}"], rows[f"gpu_agree_{method}"]
        assert step["losses_differ_by"] < 0.01 and step["ours_batch"] == step["peers_batch"] == 4
        assert max(agree["float32_loss_differs_by"], agree["float32_gradient_differs_by"]) < 1e-4
        assert 0 < agree["bfloat16_gradient_differs_by"] < 0.05
    assert rows["gpu_agree_draws"]["float32_flips_per_million"] == 0
    for steps in (4, 16):
        drawn = rows[f"gpu_sample_steps{steps}"]
        assert drawn["ours_batch"] == drawn["rows"] == 6 and drawn["peers_batch"] == 4
        assert drawn["ratio"] == pytest.approx(drawn["peers_s"] / drawn["ours_s"])
    shown = capsys.readouterr().out
    assert "step_duo-dcd, peers" in shown and max(map(len, shown.splitlines())) <= 100


def test_it_stops_by_itself_and_keeps_what_it_has(tmp_path, monkeypatch, capsys):
    """A row that fails is kept as such, one that would take too long is left out, and the file is there before both."""
    out = tmp_path / "gpu.json"

    def first():
        assert json.loads(out.read_text())["rows"] == []
        return row("gpu_a", 1.0, 2.0)

    def fails():
        raise RuntimeError("no kernel image")

    planned = [Benchmark("gpu_a", 1, first), Benchmark("gpu_b", 1, fails), Benchmark("gpu_c", 3600, first)]
    monkeypatch.setattr(gpu, "benchmarks", lambda check: planned)
    assert main(["bench", "--gpu", "--tiny", "--minutes", "1", "--json", str(out)]) == 1
    found = json.loads(out.read_text())
    assert [one.get("error", one.get("ratio")) for one in found["rows"]] == [
        2.0,
        "RuntimeError: no kernel image",
    ]
    assert found["left_out"] == ["gpu_c"] and "no kernel image" in capsys.readouterr().err


def test_the_whole_takes_less_than_its_time():
    assert sum(one.seconds for one in gpu.benchmarks(Check(CPU))) < 6 * 60


def test_operations_are_those_of_the_estimate():
    """Of an MCD step in bfloat16, as the check counts them when they run; the peers make logits of all positions."""
    size = replace(tiny(CPU).size, hidden=64, length=32)
    setup = Setup(sizes_of(size), 64, size.length, precision="bf16-mixed", on_cpu=True)
    counted = {}
    for side in (Ours(half=True), Peers(half=True)):
        side.build(size, 64, "mcd", {})
        counted[type(side)] = counted_flops(lambda side=side: side.step(0))
    assert counted[Ours] == pytest.approx(sum(flops(setup).values()), rel=0.05)
    assert counted[Peers] > 1.2 * counted[Ours]


@pytest.mark.parametrize("fits", [100, 9, 1])
def test_the_largest_that_fits_is_taken(fits):
    tried = []

    def work(batch):
        tried.append(batch)
        if batch > fits:
            raise torch.OutOfMemoryError("CUDA out of memory")

    assert largest([16, 8, 4, 2, 1], work) == min(16, 2 ** (fits.bit_length() - 1))
    assert tried == sorted(tried, reverse=True) and len(set(tried)) == len(tried)


def test_what_does_not_fit_at_all_is_told():
    def work(batch):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        largest([2, 1], work)


def test_refusals(capsys):
    for words, said in (
        (["step", "--gpu"], "leave the name out"),
        (["--tiny"], "--tiny: does nothing here"),
        (["--gpu", "--full"], "--full: does nothing here"),
    ):
        assert main(["bench", *words]) == 2
        assert said in capsys.readouterr().err
    if device().type == "cpu":
        assert main(["bench", "--gpu"]) == 2
        assert "no CUDA device" in capsys.readouterr().err
    assert main(["bench", "--gpu", "--dry-run"]) == 0
    assert "gpu_step_mcd" in json.loads(capsys.readouterr().out)["rows"]
