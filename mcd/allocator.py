"""Keep the memory that one step frees for the next, instead of giving it back to the system."""

import ctypes
import os
import sys

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Numbers of glibc's malloc.h."""


def keep_freed_blocks() -> bool:
    """Set glibc's malloc to keep freed memory; returns whether it was set.

    By default each block above 32 MiB goes back to the kernel when it is freed, and every page of the next block of
    that size is faulted in and zeroed again. Without mappings of single blocks and without trimming, blocks come
    from one heap that keeps its largest size. This does nothing if malloc is not glibc's, or if the user has chosen:
    any MALLOC_ variable, a malloc tunable in GLIBC_TUNABLES, or another malloc by LD_PRELOAD.
    """
    chosen = any(name.startswith("MALLOC_") for name in os.environ)
    chosen |= "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "") or bool(os.environ.get("LD_PRELOAD"))
    if chosen or not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):
        return False
    return libc.mallopt(M_MMAP_MAX, 0) == 1 and libc.mallopt(M_TRIM_THRESHOLD, -1) == 1
