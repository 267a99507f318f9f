"""Adapted networks under FSDP2: two processes that hold half of every weight find the gradients that one finds."""

import copy

import pytest
import torch
import torch.distributed as dist

from mcd.checkpoints.autoregressive import adapted, open_autoregressive
from mcd.checkpoints.folder import from_pretrained, save_pretrained
from mcd.objective.base import Clock
from mcd.objective.mcd import MCD
from mcd.process.draws import Draws

pytestmark = pytest.mark.skipif(not dist.is_available(), reason="PyTorch was built without torch.distributed")


def models(folder):
    student = from_pretrained(folder)
    student.backbone.checkpointing = True
    teacher = copy.deepcopy(student).eval().requires_grad_(False)
    teacher.backbone.table().mul_(0.5)
    return student.train(), teacher


def loss_of(student, teacher):
    x0 = torch.arange(64).remainder(33).view(4, 16) + 6
    draws = Draws(torch.Generator().manual_seed(2), *x0.shape)
    torch.manual_seed(0)
    return MCD(delta0=0.2).loss(student, teacher, x0, Clock(), draws).total


def work(rank, store, folders, out):
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    for folder in folders:
        shard(rank, folder, out)
    dist.barrier()
    dist.destroy_process_group()  # when nothing is left that was sharded: its threads would outlive their group


def shard(rank, folder, out):
    from torch.distributed.fsdp import fully_shard

    mesh = dist.device_mesh.init_device_mesh("cpu", (2,))
    student, teacher = models(folder)
    for model in (student, teacher):
        for layer in model.shardable_layers():
            fully_shard(layer, mesh=mesh)
    whole = Whole(student, teacher)
    fully_shard(whole, mesh=mesh)
    assert student.backbone.table().to_local().shape[0] < 41
    total = whole()
    total.backward()
    gradients = {name: p.grad.full_tensor() for name, p in student.named_parameters()}
    if rank == 0:
        torch.save({"total": total.detach(), **gradients}, f"{out}-{folder.rsplit('/', 1)[1]}")


class Whole(torch.nn.Module):
    def __init__(self, student, teacher):
        super().__init__()
        self.student, self.teacher = student, teacher

    def forward(self):
        return loss_of(self.student, self.teacher)


@pytest.mark.slow
def test_sharded_weights_have_the_gradients_of_whole_ones(published, causal_folder, tmp_path):
    """A projection tied to the embedding, and one that is not; blocks computed again when their gradient is due."""
    folders = [str(published(kind).folder) for kind in ("modernbert", "dream")]
    made = adapted(open_autoregressive(str(causal_folder("llama", tmp_path / "base"))))  # with a start of text
    save_pretrained(made.model, tmp_path / "llama", made.tokenizer.to_str())
    folders.append(str(tmp_path / "llama"))
    torch.multiprocessing.spawn(work, (tmp_path / "store", folders, tmp_path / "found"), nprocs=2)
    for folder in folders:
        found = torch.load(f"{tmp_path / 'found'}-{folder.rsplit('/', 1)[1]}", weights_only=True)
        student, teacher = models(folder)
        total = loss_of(student, teacher)
        total.backward()
        torch.testing.assert_close(found.pop("total"), total.detach())
        for name, p in student.named_parameters():
            torch.testing.assert_close(found[name], p.grad, msg=name)
