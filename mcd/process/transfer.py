"""How what is drawn on the CPU reaches the device of the network, without either waiting for the other.

All random numbers are drawn on the CPU, and the masks that follow from them are made there. So it is known there which
positions are masked, and how many: rows are listed there, and only the lists travel. If the CPU asked a GPU ("how many
are masked?"), it would wait until all that is queued there is done, and the GPU would then wait for new work.
"""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

import torch
from torch import Tensor

Checks = dict[str, tuple[type[Exception], Tensor]]
"""By message: the exception, and whether all is well so far, ()."""

_later: ContextVar[Checks | None] = ContextVar("_later", default=None)


def send(x: Tensor, device: torch.device) -> Tensor:
    """x on `device`. To a GPU it travels from pinned memory, behind the work that is queued there."""
    if x.device.type == "cpu" and device.type == "cuda":
        return x.pin_memory().to(device, non_blocking=True)
    return x.to(device)


def flat_rows(where: Tensor) -> Tensor:
    """Flat positions of the True entries of a (B, L) mask, int64 (n,)."""
    return where.flatten().nonzero(as_tuple=True)[0]


def demand(well: Tensor, error: type[Exception], message: str) -> bool:
    """Raise `error` unless `well`, (); within `checks_later` the answer of a GPU is awaited at its end.

    Returns whether the answer is known already.
    """
    checks = _later.get()
    if checks is None or well.device.type == "cpu":
        if not well:
            raise error(message)
        return True
    earlier = checks.get(message)
    checks[message] = error, well if earlier is None else earlier[1] & well
    return False


@contextlib.contextmanager
def checks_later() -> Iterator[Checks]:
    """Within it, `demand` does not wait for a GPU; what it found is raised at the end. Yields what is to be checked."""
    checks: Checks = {}
    token = _later.set(checks)
    try:
        yield checks
    finally:
        _later.reset(token)
    for message, (error, well) in checks.items():
        if not well:
            raise error(message)
