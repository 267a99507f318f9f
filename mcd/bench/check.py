"""What the check of a GPU measures, how large and how long, and the tools of its measurements."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from mcd.bench.memory import forget_peak, peak
from mcd.bench.models import SMALL, Size
from mcd.bench.sides import Ours, Peers, Side
from mcd.training.estimate import DEVICES, Device
from mcd.training.fitting import clean

SIDES = ("ours", "peers")
"""Our way, and that of the public code."""


@dataclass(frozen=True)
class Check:
    """What is measured on `device`.

    size: the network. batches: rows of a training step to try, falling; the first that fits the memory is taken. rows:
    rows to draw; steps: in how many steps. peers_rows: most rows that the peers draw together. limit: seconds after
    which no further step of a run is made. agree, agree_rows: network and rows that are computed on the CPU too.
    product: rows and columns of the product whose speed is measured.
    """

    device: torch.device
    size: Size = replace(SMALL, length=1024)
    batches: tuple[int, ...] = (128, 64, 32, 16, 8, 4, 2, 1)
    rows: int = 256
    steps: tuple[int, ...] = (32, 8, 1024)
    peers_rows: int = 64
    limit: float = 12.0
    repeats: int = 5
    agree: Size = Size(rows=2_049, length=128, hidden=256, layers=4, heads=4, cond_dim=16)
    agree_rows: int = 512
    product: int = 8192


def tiny(device: torch.device) -> Check:
    """All of it in some seconds of a CPU."""
    size = Size(rows=300, length=16, hidden=32, layers=2, heads=2, cond_dim=8)
    return Check(device, size, (4, 2), 6, (4, 16), 4, 0.5, 1, replace(size, rows=41), 8, 64)


def named_device(device: torch.device) -> Device | None:
    """What the maker says of this GPU, where `mcd plan` knows it; forms with less power have lower peaks."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device).lower().replace(" ", "")
    return next((known for key, known in DEVICES.items() if key in name), None)


def sides_of(check: Check) -> Iterator[tuple[str, Side]]:
    """Each side by its name, products in bfloat16; what it holds is freed when the next one is asked for."""
    for name, kind in zip(SIDES, (Ours, Peers), strict=True):
        side = kind(check.device, half=True)
        yield name, side
        vars(side).clear()
        clean()


def best_of(clock: Side, work: Callable[[], Any], repeats: int = 5) -> float:
    """The best of a few, after one to warm up."""
    taken = []
    for _ in range(repeats + 1):
        started = clock.now()
        work()
        taken.append(clock.now() - started)
    return min(taken[1:])


def peak_bytes(device: torch.device, work: Callable[[], Any]) -> int:
    """Most bytes in use during some work: of the GPU, or of this process."""
    if device.type != "cuda":
        forget_peak()
        work()
        return peak()
    torch.cuda.reset_peak_memory_stats(device)
    work()
    return torch.cuda.max_memory_allocated(device)


def counted_flops(work: Callable[[], Any]) -> int:
    """Operations of the matrix products and of attention in some work, as torch counts them when they run."""
    custom: dict[Any, Any] = {}
    if hasattr(torch.ops.mkldnn, "_linear_pointwise"):  # ours on a CPU, which torch does not count by itself
        custom[torch.ops.mkldnn._linear_pointwise] = _of_onednn
    with FlopCounterMode(display=False, custom_mapping=custom) as counter:
        work()
    return counter.get_total_flops()


def _of_onednn(x: Any, weight: Any, *_: Any, **__: Any) -> int:
    """x (..., k) times weight (n, k)."""
    return 2 * torch.Size(x).numel() * weight[0]
