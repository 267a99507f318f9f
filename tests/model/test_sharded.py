"""The fused head under FSDP2: two processes that hold half of every weight find the gradients that one finds."""

import copy

import pytest
import torch
import torch.distributed as dist

from mcd.model.denoiser import Denoiser, DenoiserConfig
from mcd.model.dit import DiTConfig
from mcd.objective.base import Clock
from mcd.objective.mcd import MCD
from mcd.process.draws import Draws
from mcd.train.step import LossOfStudent

pytestmark = pytest.mark.skipif(not dist.is_available(), reason="PyTorch was built without torch.distributed")


def models(noise):
    torch.manual_seed(0)
    backbone = DiTConfig(rows=50, hidden=16, layers=2, heads=2, length=16, cond_dim=8, dropout=0.0)
    student = Denoiser(DenoiserConfig(backbone, mask_id=49))
    with torch.no_grad():
        for p, n in zip(student.parameters(), noise, strict=True):
            p.add_(n)
    teacher = copy.deepcopy(student).eval().requires_grad_(False)
    teacher.backbone.head.linear.weight.mul_(0.5)
    return student, teacher


def loss_of(student, teacher):
    x0 = torch.arange(64).remainder(49).view(4, 16)
    return MCD(delta0=0.2).loss(student, teacher, x0, Clock(), Draws(torch.Generator().manual_seed(2), *x0.shape)).total


def work(rank, store, noise, out):
    from torch.distributed.fsdp import fully_shard

    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    student, teacher = models(noise)
    mesh = dist.device_mesh.init_device_mesh("cpu", (2,))
    for block in student.backbone.blocks:
        fully_shard(block, mesh=mesh)
    whole = LossOfStudent(student)
    fully_shard(whole, mesh=mesh)
    assert student.backbone.head.linear.weight.to_local().shape == (25, 16)
    total = whole(lambda model: loss_of(model, teacher))
    total.backward()
    gradients = {name: p.grad.full_tensor() for name, p in student.named_parameters()}
    if rank == 0:
        torch.save({"total": total.detach(), **gradients}, out)
    dist.barrier()
    dist.destroy_process_group()


def test_sharded_weights_have_the_gradients_of_whole_ones(tmp_path, seeded):
    sizes = [p.shape for p in Denoiser(DenoiserConfig(DiTConfig(50, 16, 2, 2, 16, 8), 49)).parameters()]
    noise = [0.3 * torch.randn(size, generator=seeded(n)) for n, size in enumerate(sizes)]
    torch.multiprocessing.spawn(work, (tmp_path / "store", noise, tmp_path / "found.pt"), nprocs=2)
    found = torch.load(tmp_path / "found.pt", weights_only=True)
    student, teacher = models(noise)
    total = loss_of(student, teacher)
    total.backward()
    torch.testing.assert_close(found.pop("total"), total.detach())
    assert len(found) == len(sizes)
    for name, p in student.named_parameters():
        torch.testing.assert_close(found[name], p.grad, msg=name)
