"""--batch-size auto: the estimate against the memory, and the trial step, which leaves no trace."""

import copy

import pytest
import torch

from mcd.cli.main import main
from mcd.model.dit import SIZES, DiTConfig
from mcd.model.sizes import sizes_of
from mcd.objective import OBJECTIVES
from mcd.training import fitting
from mcd.training.config import TrainConfig
from mcd.training.estimate import FREE, Setup, memory
from mcd.training.fitting import MOST, batch_that_fits, estimated_rows, try_part
from mcd.training.launch import join

SMALL = sizes_of(DiTConfig(50_258, **SIZES["small"]))


@pytest.mark.parametrize("free", [1e9, 20e9, 80e9, 141e9, 1e15])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_estimate_fits_and_twice_as_much_does_not(free, checkpointing):
    def setup_of(rows):
        return Setup(SMALL, rows, 1024, precision="bf16-mixed", checkpointing=checkpointing)

    rows = estimated_rows(setup_of, free)
    fits = [memory(setup_of(n))["peak"] < (1 - FREE) * free for n in (rows, 2 * rows)]
    assert rows == 1 or fits[0]
    assert rows == MOST or not fits[1]


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_trial_leaves_the_student_as_it_is(name, tiny_denoiser):
    """Of every method, with its auxiliary networks."""
    objective = OBJECTIVES[name]()
    student = tiny_denoiser(process="masked" if objective.process == "locked" else objective.process)
    before, config = copy.deepcopy(student.state_dict()), TrainConfig()
    try_part(student, objective, config, 16, join(config), None, 2)
    after = student.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)
    assert all(p.grad is None and p.requires_grad for p in student.parameters()) and not student.training


def test_what_the_trial_refuses_is_halved(tiny_denoiser, monkeypatch):
    """With the memory of a GPU in its place: the estimate says 4,096 rows, and 10 fit. Parts multiply what is found."""
    tried = []

    def trial(student, objective, config, length, fabric, teacher, rows):
        tried.append(rows)
        if rows > 10:
            raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(fitting, "free_memory", lambda device: 1e15)
    monkeypatch.setattr(fitting, "try_part", trial)
    config = TrainConfig(accumulate=4, precision="32-true")
    fabric = join(config)
    assert batch_that_fits(tiny_denoiser(), OBJECTIVES["mcd"](), config, 16, fabric) == 8 * 4
    assert tried[0] == MOST and tried[-1] == 8


def test_the_precision_of_a_device_is_resolved():
    expected = "bf16-mixed" if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "32-true"
    assert TrainConfig().resolved().precision == expected
    assert TrainConfig(precision="bf16-mixed").resolved().precision == "bf16-mixed"


@pytest.mark.skipif(torch.cuda.is_available(), reason="of a CPU")
def test_on_a_cpu_it_is_refused(tmp_path, capsys):
    assert main(["distill", "mcd", "--teacher", "demo", "--batch-size", "auto", "--out", str(tmp_path / "run")]) == 2
    assert "--batch-size auto: is for CUDA devices" in capsys.readouterr().err and not (tmp_path / "run").exists()
