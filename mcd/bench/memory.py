"""Peak memory of this process, as the system counts it, and of one training step above what every step needs.

On Linux, writing 5 to /proc/self/clear_refs resets the kernel's high-water mark (VmHWM), so every step has its own
peak. Elsewhere only the highest peak of the process's whole life is known (getrusage), which may hide a later step.
"""

import ctypes
import sys
from collections.abc import Iterable
from pathlib import Path

from torch import nn

_CLEAR, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")
LINUX = _CLEAR.exists() and _STATUS.exists()


def resident() -> int:
    """Bytes of this process that are in memory now (on other systems than Linux, the peak of its life)."""
    return _status("VmRSS") if LINUX else _life_peak()


def peak() -> int:
    """Most bytes in memory since `forget_peak` (on other systems than Linux, since the process began)."""
    return _status("VmHWM") if LINUX else _life_peak()


def forget_peak() -> None:
    """Reset the peak to what is in memory now."""
    if LINUX:
        _CLEAR.write_text("5")


def release_freed() -> None:
    """Return free blocks that malloc still holds to the system, where malloc is glibc's."""
    libc = ctypes.CDLL(None) if sys.platform.startswith("linux") else None
    if libc is not None and hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)


def _status(field: str) -> int:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(field))
    return 1024 * int(line.split()[1])


def _life_peak() -> int:
    import resource  # not on Windows

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most


class AboveGradients:
    """Peak of a step above weights, optimiser and those gradients that exist by then.

    In the backward pass gradients appear one after another while activations are freed. Each new gradient ends an
    interval. The peak of an interval counts above what was resident before the step and the gradients that exist at its
    end, so no gradient counts; where one appears after the peak of its interval, the figure is too low by up to that
    gradient. `most` is the highest of all intervals.
    """

    def __init__(self, parameters: Iterable[nn.Parameter]):
        release_freed()
        self.rest, self.gradients, self.most = resident(), 0, 0
        self._hooks = [p.register_post_accumulate_grad_hook(self._arrived) for p in parameters]
        forget_peak()

    def _arrived(self, p: nn.Parameter) -> None:
        self.gradients += p.numel() * p.element_size()
        if p.ndim > 1:  # a bias may come before the weight of its layer, whose gradient already exists
            self._close()

    def _close(self) -> None:
        self.most = max(self.most, peak() - self.rest - self.gradients)
        forget_peak()

    def end(self) -> int:
        """Close the last interval (the optimiser's) and return the highest in bytes."""
        self._close()
        for hook in self._hooks:
            hook.remove()
        return self.most
