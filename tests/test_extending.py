"""The code on docs/extending.md is dropped into the package and run, so that the page cannot rot."""

import importlib
import json
import re
import sys
from collections import deque
from dataclasses import asdict
from pathlib import Path
from types import ModuleType

import pytest
import torch

import mcd.objective
import mcd.process.schedule as schedules
import mcd.process.unmasking as unmasking
import mcd.sampler
from mcd.cli.main import main
from mcd.objective import Clock
from mcd.sampler.ancestral import Ancestral

PAGE = (Path(__file__).parents[1] / "docs/extending.md").read_text(encoding="utf-8")
BLOCKS = {
    code.split("\n", 1)[0].removeprefix("# "): code for code in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
}


def drop_in(file: str, package: ModuleType, folder: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Save a block of the page where `package` looks for its modules, until the test ends."""
    path = folder / Path(file).name
    path.write_text(BLOCKS[file], encoding="utf-8")
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])
    importlib.invalidate_caches()
    name = f"{package.__name__}.{path.stem}"
    module = importlib.import_module(name)
    del sys.modules[name]
    delattr(package, path.stem)
    monkeypatch.setitem(sys.modules, name, module)  # forgotten when the test ends
    monkeypatch.setattr(package, path.stem, module, raising=False)
    return module


def test_the_page_has_one_block_for_each_kind():
    assert list(BLOCKS) == [
        "mcd/objective/jsd.py",
        "mcd/sampler/left_to_right.py",
        "mcd/process/unmasking.py",
        "mcd/process/schedule.py",
    ]
    assert all(len(line) <= 120 for line in PAGE.splitlines())


def test_the_method(tiny_denoiser, seeded, draws_of, tmp_path, monkeypatch, capsys):
    kind = drop_in("mcd/objective/jsd.py", mcd.objective, tmp_path, monkeypatch).JSD
    monkeypatch.setitem(mcd.objective.OBJECTIVES, kind.name, kind)
    assert main("distill jsd --teacher demo --out x --beta 0.25 --dry-run".split()) == 0
    assert json.loads(capsys.readouterr().out)["objective"] == {"name": "jsd", "delta0": 1 / 64, "beta": 0.25}
    method = kind(delta0=0.25)
    student, teacher = tiny_denoiser(seed=0), tiny_denoiser(seed=1)
    x0 = torch.randint(0, 23, (4, 16), generator=seeded(2))

    loss = method.loss(student, teacher, x0, Clock(round=1), draws_of(x0, 3))
    assert loss.terms["distillation"] > 0 < loss.terms["reconstruction"]
    assert loss.total.isfinite()
    loss.total.backward()
    for name, p in student.named_parameters():
        assert p.grad is not None and p.grad.isfinite().all(), name
    assert any(p.grad.abs().max() > 0 for p in student.parameters())
    assert all(p.grad is None for p in teacher.parameters())

    assert torch.equal(loss.total, method.loss(student, teacher, x0, Clock(round=1), draws_of(x0, 3)).total)
    equal = kind(delta0=0.0).loss(student, student, x0, Clock(), draws_of(x0, 3))
    assert abs(equal.total.item()) < 1e-6  # the same state, the same weights: nothing to learn
    assert kind(**asdict(method)) == method
    assert method.schedule_of_round(1) == {"delta": 0.5}
    with pytest.raises(ValueError, match="--beta 1"):
        kind(beta=1.0)


def test_the_sampler(tiny_denoiser, tmp_path, monkeypatch):
    sampler = drop_in("mcd/sampler/left_to_right.py", mcd.sampler, tmp_path, monkeypatch).LeftToRight(steps=4)
    assert sampler.name == "left-to-right"
    denoiser = tiny_denoiser()
    template = torch.tensor([3, *[23] * 10, 5])
    ids, nfe = mcd.sampler.sample(sampler, denoiser, 3, 12, template=template)
    assert ids.shape == (3, 12)
    assert (ids < 23).all()
    assert ids[:, 0].tolist() == [3] * 3 and ids[:, -1].tolist() == [5] * 3
    assert nfe.tolist() == [4] * 3
    alone, _ = mcd.sampler.sample(sampler, denoiser, 1, 12, first_row=2, template=template)
    assert torch.equal(alone[0], ids[2])
    masked = [
        (step.z[0] == 23).nonzero()[:, 0].tolist() for step in sampler.trajectory(denoiser, template[None], [0], 0)
    ]
    assert masked == [list(range(first, 11)) for first in (1, 4, 7, 9, 11)]
    assert sampler.protocol().keys() == Ancestral().protocol().keys()
    assert sampler.protocol()["order"] == "left to right"


def test_the_order(tiny_denoiser, seeded, monkeypatch):
    monkeypatch.setattr(unmasking, "ORDERS", orders := dict(unmasking.ORDERS))
    exec(BLOCKS["mcd/process/unmasking.py"], {"__name__": "page"})
    rotated = orders["rotated"]
    generator = seeded(0)
    u = torch.stack([rotated(8, 0.2, generator) for _ in range(4000)])
    assert ((u > 0.2) & (u <= 1.0)).all()
    share = (u[..., None] > torch.linspace(0.2, 1.0, 9, dtype=torch.float64)[:-1]).double().mean(0)
    torch.testing.assert_close(share, torch.linspace(1, 1 / 8, 8, dtype=torch.float64).expand(8, 8), rtol=0, atol=0.03)
    monkeypatch.setitem(sys.modules["mcd.sampler.ancestral"].ORDERS, "rotated", rotated)
    (last,) = deque(
        Ancestral(steps=4, order="rotated").trajectory(tiny_denoiser(), torch.full((2, 16), 23), [0, 1], 0), maxlen=1
    )
    assert (last.z < 23).all()


def test_the_schedule(tiny_denoiser, monkeypatch):
    monkeypatch.setattr(schedules, "SCHEDULES", dict(schedules.SCHEDULES))
    exec(BLOCKS["mcd/process/schedule.py"], {"__name__": "page"})
    power = schedules.schedule_of_config({"name": "power", "power": 3.0})
    assert schedules.config_of_schedule(power) == {"name": "power", "power": 3.0}
    t = torch.linspace(0.01, 1, 50, dtype=torch.float64).requires_grad_()
    (slope,) = torch.autograd.grad(power.alpha(t).sum(), t)
    torch.testing.assert_close(power.alpha_dot(t.detach()), slope)
    torch.testing.assert_close(power.t_of_alpha(power.alpha(t.detach())), t.detach())
    torch.testing.assert_close(power.nelbo_weight(t.detach()), 3.0 / t.detach())
    ids, _ = mcd.sampler.sample(Ancestral(steps=4), tiny_denoiser(schedule=power), 2, 16)
    assert (ids < 23).all()
