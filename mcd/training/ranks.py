"""The processes of one run: who is who, what they agree on, and what each of them does.

Every process runs the same command under torchrun; without torchrun there is one process and nothing is exchanged.
"""

import atexit
import contextlib
import os
import sys
from collections.abc import Iterator
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from mcd.errors import LostRank

T = TypeVar("T")
PATIENCE = timedelta(hours=2)
"""How long a process waits for the others: the first one may be preparing data meanwhile."""


def join_processes() -> None:
    """Connect this process with the others of its torchrun job, if it is one of several and not connected yet."""
    if int(os.environ.get("WORLD_SIZE", 1)) > 1 and not dist.is_initialized():
        cuda = torch.cuda.is_available()
        if cuda:
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
        dist.init_process_group("nccl" if cuda else "gloo", timeout=PATIENCE)
        atexit.register(dist.destroy_process_group)


def rank() -> int:
    """The number of this process; 0 for a single process."""
    return dist.get_rank() if world_size() > 1 else 0


def world_size() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def barrier() -> None:
    """Wait until all processes are here."""
    if world_size() > 1:
        largest(0.0)


def leave() -> None:
    """End this process's part in the job, when all others do: their connections are closed in good order."""
    if world_size() > 1:
        barrier()
        dist.destroy_process_group()


def end(status: int) -> None:
    """End this process with an exit status, if it is one of several; no destructor of torch runs then.

    When Python ends by itself some abort: of 32 finished FSDP runs on two busy processes, 2 ended in SIGABRT
    or SIGSEGV, and torchrun called them failed.
    """
    if world_size() > 1:
        dist.destroy_process_group()
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:  # closed by the shell
                stream.flush()
        os._exit(status)


@contextlib.contextmanager
def first_alone() -> Iterator[None]:
    """The first process does what is inside while the others wait, then they do; they find its work done."""
    if rank() != 0:
        barrier()
    yield
    if rank() == 0:
        barrier()


def broadcast(value: T) -> T:
    """The first process's value, on all of them. Anything that pickles: it comes from our own processes."""
    if world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def everywhere(value: T) -> list[T]:
    """The values of all processes, in their order, on all of them."""
    box = [value] * world_size()
    if world_size() > 1:
        dist.all_gather_object(box, value)
    return box


def share_of(n: int) -> range:
    """Which of n things this process takes, when all take about as many, one after the other."""
    edges = [n * i // world_size() for i in (rank(), rank() + 1)]
    return range(*edges)


def largest(*values: float) -> list[float]:
    """The largest value over all processes, element by element; the same on all of them."""
    if world_size() == 1:
        return list(values)
    reduced = torch.tensor(values, dtype=torch.float64, device=_device())
    dist.all_reduce(reduced, dist.ReduceOp.MAX)
    return reduced.tolist()


def summed(values: Tensor) -> Tensor:
    """The sum over the processes of each element."""
    if world_size() > 1:
        values = values.to(_device())
        dist.all_reduce(values)
    return values


def part_of(rows: int, parts: int = 1, i: int = 0) -> slice:
    """Rows of part i of this process, when every process has `parts` equal ones of a batch of `rows`."""
    size = rows // (world_size() * parts)
    first = (rank() * parts + i) * size
    return slice(first, first + size)


def whole(tensor: Tensor) -> Tensor:
    """A tensor, put together from its shards if it has them; all processes must ask for the same one."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor  # type: ignore[operator]


def is_sharded(tensor: Tensor) -> bool:
    """Does this process hold a part of it only (FSDP2)?"""
    return hasattr(tensor, "full_tensor")


@contextlib.contextmanager
def others_needed() -> Iterator[None]:
    """Turn the network's complaint that a process is gone into LostRank."""
    try:
        yield
    except RuntimeError as error:
        about_network = isinstance(error, dist.DistError) or "gloo" in str(error).lower()
        if world_size() == 1 or not about_network:
            raise
        raise LostRank(
            f"process {rank()} of {world_size()} lost another ({str(error).splitlines()[0]}); "
            "the last checkpoint is intact: start all of them again"
        ) from None


def _device() -> torch.device:
    return torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")
